#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/elements.h"
#include "common/head_arguments.h"
#include "cpu/ragged_head.h"

namespace slimkern::cpu {
namespace {

Head head_of(Element element, const HeadSizes& sizes, const Tensor& weight, const Tensor& labels) {
  const auto* of_images = static_cast<const int64_t*>(labels.const_data_ptr());
  for (int64_t image = 0; image < sizes.images; ++image)
    STD_TORCH_CHECK(sizes.first <= of_images[image] && of_images[image] < sizes.last, "label ", of_images[image],
                    " is outside of the classes ", sizes.first, " to ", sizes.last - 1);
  return {element, sizes.images, sizes.pixels, sizes.classes, sizes.features,
          static_cast<const float*>(weight.const_data_ptr()), sizes.in_offset, of_images, sizes.first, sizes.last};
}

std::tuple<Tensor, std::vector<Tensor>, Tensor> forward(const std::vector<Tensor>& slabs, const Tensor& weight,
                                                        const std::optional<Tensor>& bias, const Tensor& labels,
                                                        int64_t in_offset, int64_t first, int64_t last) {
  STD_TORCH_CHECK(!slabs.empty(), "slabs is empty; at least one slab is needed");
  for (const Tensor& slab : slabs) check_slab("slabs", slab, slabs[0]);
  const int64_t pixels = slabs[0].numel() / (slabs[0].size(0) * slabs[0].size(1));
  const HeadSizes sizes = head_sizes(pixels, weight, labels, in_offset, first, last);
  const std::vector<int64_t> channels = channels_of(slabs);
  check_features(channels, sizes);
  check_images("slabs", slabs, sizes);
  if (bias) check_vector_of_floats("bias", *bias, sizes.classes, weight);
  const Head head = head_of(element_of<Element>("slabs", slabs[0]), sizes, weight, labels);

  const std::vector<int64_t> starts = pooled_starts(channels, sizes);
  const Tensor losses = torch::stable::new_empty(weight, {static_cast<int64_t>(slabs.size())});
  const Tensor pooled = torch::stable::new_empty(weight, {starts.back()});
  std::vector<Tensor> logits;
  std::vector<HeadForward> rows;
  for (size_t place = 0; place < slabs.size(); ++place) {
    logits.push_back(torch::stable::new_empty(weight, {sizes.images, sizes.classes}));
    rows.push_back({channels[place], slabs[place].const_data_ptr(),
                    static_cast<float*>(pooled.mutable_data_ptr()) + starts[place],
                    static_cast<float*>(logits[place].mutable_data_ptr())});
  }
  head_forward(head, bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr, rows,
               static_cast<float*>(losses.mutable_data_ptr()));
  return {losses, logits, pooled};
}

float* data_of(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<float*>(tensor->data_ptr()) : nullptr;
}

void backward(const Tensor& to_losses, const std::vector<Tensor>& to_logits, const std::vector<Tensor>& logits,
              const Tensor& pooled, const Tensor& weight, const Tensor& labels, int64_t in_offset, int64_t first,
              int64_t last, const std::vector<int64_t>& channels, const std::vector<Tensor>& to_slabs,
              const std::optional<Tensor>& to_weight, const std::optional<Tensor>& to_bias) {
  for (const Tensor& slab : to_slabs) check_slab("to_slabs", slab, to_slabs[0]);
  const int64_t pixels = to_slabs.empty() ? 1 : to_slabs[0].numel() / (to_slabs[0].size(0) * to_slabs[0].size(1));
  const HeadSizes sizes = head_sizes(pixels, weight, labels, in_offset, first, last);
  check_backward_of_head(to_losses, to_logits, logits, pooled, weight, channels, to_slabs, to_weight, to_bias, sizes);
  const Element element = to_slabs.empty() ? Element::float32 : element_of<Element>("to_slabs", to_slabs[0]);
  const std::vector<int64_t> starts = pooled_starts(channels, sizes);
  std::vector<HeadBackward> rows;
  for (size_t place = 0; place < channels.size(); ++place)
    rows.push_back({channels[place], static_cast<const float*>(pooled.const_data_ptr()) + starts[place],
                    static_cast<const float*>(logits[place].const_data_ptr()),
                    to_logits.empty() ? nullptr : static_cast<const float*>(to_logits[place].const_data_ptr()),
                    to_slabs.empty() ? nullptr : to_slabs[place].data_ptr()});
  head_backward(head_of(element, sizes, weight, labels), rows, static_cast<const float*>(to_losses.const_data_ptr()),
                data_of(to_weight), data_of(to_bias));
}

}  // namespace
}  // namespace slimkern::cpu

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CPU, library) {
  library.impl("ragged_head", TORCH_BOX(&slimkern::cpu::forward));
  library.impl("ragged_head_backward", TORCH_BOX(&slimkern::cpu::backward));
}
