#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>

#include "common/elements.h"
#include "common/part_table.h"
#include "common/weight_arguments.h"
#include "cuda/device_calls.h"
#include "cuda/pack_weights.cuh"

namespace slimkern::cuda {
namespace {

using torch::stable::Tensor;

int64_t bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

int32_t blocks_of(int64_t values, bool wide, Element element) {
  STD_TORCH_CHECK(values <= std::numeric_limits<int32_t>::max(), "a weight of ", values, " values is too large");
  const int64_t a_block = kPackThreads * kVectorsAThread * (wide ? 16 / bytes_of(element) : 1);
  return static_cast<int32_t>((values + a_block - 1) / a_block);
}

// Neighbouring columns can be read or written 16 bytes at a time wherever a vector of them starts.
bool is_wide_stored(const StoredWeight& weight) {
  return weight.layout.column == 1 && weight.layout.row % 4 == 0 && weight.layout.tap % 4 == 0 && is_wide(weight.data);
}

void pack(const std::vector<Tensor>& weights, const std::vector<int64_t>& numbers, const Tensor& packed) {
  const Element element = element_of<Element>("packed", packed);
  const std::vector<StoredWeight> stored = stored_weights(weights, packed);
  const DeviceGuard guard(packed.get_device_index());
  const cudaStream_t stream = current_stream(packed);
  auto* const start = static_cast<char*>(packed.data_ptr());
  const int64_t lanes = 16 / bytes_of(element);
  PackTable table{};
  const auto launch = [&] {
    if (table.count) launch_pack(element, table, stream);
    table.count = table.blocks = 0;
  };
  for (const std::vector<Part>& parts : parts_by_weight(numbers, stored, packed))
    for (const Part& part : parts) {
      const StoredWeight& own = stored[part.weight];
      void* const target = start + part.start * bytes_of(element);
      const bool wide = part.columns % lanes == 0 && is_wide(target);
      const bool wide_stored = is_wide_stored(own) && keeps_vectors(4, part.columns, part.in_offset, own.columns);
      table.rows[table.count++] = {own.data,
                                   target,
                                   own.layout,
                                   static_cast<int32_t>(part.rows),
                                   static_cast<int32_t>(part.columns),
                                   static_cast<int32_t>(own.rows),
                                   static_cast<int32_t>(own.columns),
                                   static_cast<int32_t>(part.out_offset),
                                   static_cast<int32_t>(part.in_offset),
                                   static_cast<int32_t>(own.taps),
                                   table.blocks,
                                   wide,
                                   wide_stored};
      table.blocks += blocks_of(part.rows * part.columns * own.taps, wide, element);
      if (table.count == kMostParts) launch();
    }
  launch();
  check_launches("pack_weights");
}

void backward(const Tensor& packed, const std::vector<int64_t>& numbers, const std::vector<Tensor>& to_weights) {
  const Element element = element_of<Element>("packed", packed);
  const std::vector<StoredWeight> stored = stored_weights(to_weights, packed);
  const std::vector<std::vector<Part>> all_parts = parts_by_weight(numbers, stored, packed);
  const DeviceGuard guard(packed.get_device_index());
  const cudaStream_t stream = current_stream(packed);
  const auto* const start = static_cast<const char*>(packed.const_data_ptr());
  const int64_t lanes = 16 / bytes_of(element);
  SumTable table{};
  int32_t parts_taken = 0;
  const auto launch = [&] {
    if (table.count) launch_sum(element, table, stream);
    table.count = table.blocks = parts_taken = 0;
  };
  for (size_t place = 0; place < stored.size(); ++place) {
    const StoredWeight& own = stored[place];
    const std::vector<Part>& parts = all_parts[place];
    STD_TORCH_CHECK(parts.size() <= kMostParts, "a weight has ", parts.size(), " parts; at most ", kMostParts,
                    " can be summed");
    if (table.count == kMostWeights || parts_taken + parts.size() > kMostParts) launch();
    const bool wide = std::all_of(parts.begin(), parts.end(), [&](const Part& part) {
      return keeps_vectors(lanes, part.columns, part.in_offset, own.columns) &&
             is_wide(start + part.start * bytes_of(element));
    }) && own.columns % lanes == 0;
    table.rows[table.count++] = {own.data,
                                 own.layout,
                                 static_cast<int32_t>(own.rows),
                                 static_cast<int32_t>(own.columns),
                                 static_cast<int32_t>(own.taps),
                                 parts_taken,
                                 static_cast<int32_t>(parts.size()),
                                 table.blocks,
                                 wide,
                                 is_wide_stored(own)};
    table.blocks += blocks_of(own.rows * own.columns * own.taps, wide, element);
    for (const Part& part : parts)
      table.parts[parts_taken++] = {start + part.start * bytes_of(element), static_cast<int32_t>(part.rows),
                                    static_cast<int32_t>(part.columns), static_cast<int32_t>(part.out_offset),
                                    static_cast<int32_t>(part.in_offset)};
  }
  launch();
  check_launches("pack_weights");
}

}  // namespace
}  // namespace slimkern::cuda

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CUDA, library) {
  library.impl("pack_weights", TORCH_BOX(&slimkern::cuda::pack));
  library.impl("pack_weights_backward", TORCH_BOX(&slimkern::cuda::backward));
}
