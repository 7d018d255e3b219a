#include <torch/csrc/stable/library.h>

#include "common/elements.h"
#include "common/weight_arguments.h"
#include "cpu/pack_weights.h"

namespace slimkern::cpu {
namespace {

using torch::stable::Tensor;

std::vector<PartedWeight> parted(const std::vector<Tensor>& weights, const std::vector<int64_t>& numbers,
                                 const Tensor& packed) {
  const std::vector<StoredWeight> stored = stored_weights(weights, packed);
  const std::vector<std::vector<Part>> parts = parts_by_weight(numbers, stored, packed);
  auto* const start = static_cast<char*>(packed.data_ptr());
  const int64_t bytes = bytes_of(element_of<Element>("packed", packed));
  std::vector<PartedWeight> result;
  for (size_t place = 0; place < stored.size(); ++place) {
    const StoredWeight& own = stored[place];
    result.push_back({own.data, own.rows, own.columns, own.taps, own.layout, {}});
    for (const Part& part : parts[place])
      result.back().parts.push_back(
          {part.rows, part.columns, part.out_offset, part.in_offset, start + part.start * bytes});
  }
  return result;
}

void pack(const std::vector<Tensor>& weights, const std::vector<int64_t>& parts, const Tensor& packed) {
  pack_weights(element_of<Element>("packed", packed), parted(weights, parts, packed));
}

void backward(const Tensor& packed, const std::vector<int64_t>& parts, const std::vector<Tensor>& to_weights) {
  sum_parts(element_of<Element>("packed", packed), parted(to_weights, parts, packed));
}

}  // namespace
}  // namespace slimkern::cpu

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CPU, library) {
  library.impl("pack_weights", TORCH_BOX(&slimkern::cpu::pack));
  library.impl("pack_weights_backward", TORCH_BOX(&slimkern::cpu::backward));
}
