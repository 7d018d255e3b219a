// The CPU's packing of weights on threads of the standard library, which sanitizers understand, value by value.

#include "cpu/pack_weights.h"

#include "elements.h"
#include "weights.h"

using namespace slimkern::cpu;

namespace {

void check(const Packing& packing, Element element, std::mt19937& random) {
  std::vector<std::vector<float>> sources, sums;
  std::vector<std::vector<double>> true_sums;
  std::vector<std::vector<char>> packed, grads;
  std::vector<PartedWeight> forward, backward;
  for (const TrueWeight& weight : packing.weights) {
    sources.emplace_back(weight.values.begin(), weight.values.end());
    sums.emplace_back(weight.values.size(), NAN);
    true_sums.emplace_back(weight.values.size());
    forward.push_back({nullptr, weight.rows, weight.columns, weight.taps, weight.layout(), {}});
  }
  backward = forward;
  for (size_t place = 0; place < sources.size(); ++place) {
    forward[place].data = sources[place].data();
    backward[place].data = sums[place].data();
  }
  for (const TruePart& part : packing.parts) {
    const TrueWeight& weight = packing.weights[part.weight];
    const std::vector<double> drawn_grads = drawn(random, part.count(weight));
    part.add_to(weight, drawn_grads, true_sums[part.weight]);
    packed.emplace_back(part.count(weight) * bytes_of(element), '\xff');
    grads.push_back(stored(drawn_grads, element));
    forward[part.weight].parts.push_back(
        {part.rows, part.columns, part.out_offset, part.in_offset, packed.back().data()});
    backward[part.weight].parts.push_back(
        {part.rows, part.columns, part.out_offset, part.in_offset, grads.back().data()});
  }
  pack_weights(element, forward);
  sum_parts(element, backward);
  for (size_t place = 0; place < packed.size(); ++place)
    check_near("packed", read(packed[place], element),
               packing.parts[place].packed(packing.weights[packing.parts[place].weight]), 0);
  for (size_t place = 0; place < sums.size(); ++place) check_near("sum", sums[place], true_sums[place], 0);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const Packing& packing : packings(random))
    for (Element element : {Element::float32, Element::bfloat16, Element::float16}) check(packing, element, random);
  std::printf("passed with %s\n", instruction_set());
}
