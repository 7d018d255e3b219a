// The kernels of CUDA that pack weights, run on the host, value by value.

#include "cuda_runtime.h"

#include "common/part_table.h"
#include "cuda/pack_weights.cu"
#include "weights.h"

using namespace slimkern;
using namespace slimkern::cuda;

namespace {

// 16-byte aligned memory, as GPUs give out.
template <typename Value>
struct Memory {
  std::vector<Value> values;
  size_t start;

  explicit Memory(size_t count) : values(count + 16 / sizeof(Value)) {
    start = 0;
    while (reinterpret_cast<uintptr_t>(&values[start]) % 16) ++start;
  }
  Memory(const std::vector<double>& given) : Memory(given.size()) {
    for (size_t place = 0; place < given.size(); ++place) narrow(values[start + place], static_cast<float>(given[place]));
  }
  Memory(const Memory& other) = delete;
  Memory(Memory&& other) = default;

  Value* data() { return &values[start]; }
  std::vector<float> read(size_t count) {
    std::vector<float> result;
    for (size_t place = 0; place < count; ++place) result.push_back(widened(data()[place]));
    return result;
  }
};

template <typename Stored>
void check(const Packing& packing, Element element, bool wide, std::mt19937& random) {
  const int64_t lanes = 16 / sizeof(Stored);
  std::vector<Memory<float>> sources, sums;
  std::vector<Memory<Stored>> packed, grads;
  std::vector<std::vector<double>> true_sums;
  for (const TrueWeight& weight : packing.weights) {
    sources.emplace_back(weight.values);
    sums.emplace_back(std::vector<double>(weight.values.size(), NAN));
    true_sums.emplace_back(weight.values.size());
  }
  const auto blocks_of = [&](int64_t values, bool in_vectors) {
    const int64_t a_block = kPackThreads * kVectorsAThread * (in_vectors ? lanes : 1);
    return static_cast<int32_t>((values + a_block - 1) / a_block);
  };
  PackTable pack_table{};
  for (const TruePart& part : packing.parts) {
    const TrueWeight& weight = packing.weights[part.weight];
    const std::vector<double> drawn_grads = drawn(random, part.count(weight));
    part.add_to(weight, drawn_grads, true_sums[part.weight]);
    grads.emplace_back(drawn_grads);
    packed.emplace_back(std::vector<double>(part.count(weight), NAN));
    const bool in_vectors = wide && part.columns % lanes == 0;
    const bool reads_vectors = wide && weight.columns_first && keeps_vectors(4, part.columns, part.in_offset, weight.columns);
    pack_table.rows[pack_table.count++] = {
        sources[part.weight].data(), packed.back().data(), weight.layout(), int32_t(part.rows), int32_t(part.columns),
        int32_t(weight.rows), int32_t(weight.columns), int32_t(part.out_offset), int32_t(part.in_offset),
        int32_t(weight.taps), pack_table.blocks, in_vectors, reads_vectors};
    pack_table.blocks += blocks_of(part.count(weight), in_vectors);
  }
  SumTable sum_table{};
  int32_t taken = 0;
  for (size_t place = 0; place < packing.weights.size(); ++place) {
    const TrueWeight& weight = packing.weights[place];
    bool in_vectors = wide && weight.columns % lanes == 0;
    const int32_t first = taken;
    for (size_t own = 0; own < packing.parts.size(); ++own) {
      const TruePart& part = packing.parts[own];
      if (part.weight != int64_t(place)) continue;
      in_vectors = in_vectors && keeps_vectors(lanes, part.columns, part.in_offset, weight.columns);
      sum_table.parts[taken++] = {grads[own].data(), int32_t(part.rows), int32_t(part.columns),
                                  int32_t(part.out_offset), int32_t(part.in_offset)};
    }
    sum_table.rows[sum_table.count++] = {
        sums[place].data(), weight.layout(), int32_t(weight.rows), int32_t(weight.columns), int32_t(weight.taps), first,
        taken - first, sum_table.blocks, in_vectors, in_vectors && weight.columns_first};
    sum_table.blocks += blocks_of(weight.values.size(), in_vectors);
  }
  launch_pack(element, pack_table, nullptr);
  launch_sum(element, sum_table, nullptr);
  for (size_t place = 0; place < packed.size(); ++place) {
    const TruePart& part = packing.parts[place];
    const TrueWeight& weight = packing.weights[part.weight];
    check_near("packed", packed[place].read(part.count(weight)), part.packed(weight), 0);
  }
  for (size_t place = 0; place < sums.size(); ++place)
    check_near("sum", sums[place].read(true_sums[place].size()), true_sums[place], 0);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const Packing& packing : packings(random))
    for (bool wide : {false, true}) {
      check<float>(packing, Element::float32, wide, random);
      check<__nv_bfloat16>(packing, Element::bfloat16, wide, random);
      check<__half>(packing, Element::float16, wide, random);
    }
  std::printf("passed\n");
}
