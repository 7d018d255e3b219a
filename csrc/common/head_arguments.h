#pragma once

// What both devices demand of a head's tensors.

#include <optional>
#include <vector>

#include "common/arguments.h"

namespace slimkern {

// Sizes that all heads of a call share; the classes [first, last) compete in the loss.
struct HeadSizes {
  int64_t images;
  int64_t pixels;
  int64_t classes;
  int64_t features;
  int64_t in_offset;
  int64_t first;
  int64_t last;
};

inline void check_vector_of_floats(const char* name, const Tensor& tensor, int64_t values, const Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() && tensor.numel() == values &&
                      tensor.device() == like.device(),
                  name, " must be contiguous float32 of ", values, " values on the device of the weight");
}

inline HeadSizes head_sizes(int64_t pixels, const Tensor& weight, const Tensor& labels, int64_t in_offset,
                            int64_t first, int64_t last) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight must have 2 axes, not ", weight.dim());
  check_vector_of_floats("weight", weight, weight.size(0) * weight.size(1), weight);
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long && labels.dim() == 1 && labels.is_contiguous() &&
                      labels.device() == weight.device(),
                  "labels must be a contiguous vector of int64 on the device of the weight");
  STD_TORCH_CHECK(labels.numel() > 0, "labels is empty; at least one image is needed");
  const HeadSizes sizes{labels.numel(), pixels, weight.size(0), weight.size(1), in_offset, first, last};
  STD_TORCH_CHECK(0 <= in_offset && in_offset < sizes.features, "in_offset ", in_offset, " is none of the ",
                  sizes.features, " features");
  STD_TORCH_CHECK(0 <= first && first < last && last <= sizes.classes, "classes ", first, " to ", last,
                  " are no range of the ", sizes.classes);
  return sizes;
}

inline void check_features(const std::vector<int64_t>& channels, const HeadSizes& sizes) {
  for (int64_t count : channels)
    STD_TORCH_CHECK(0 < count && count <= sizes.features, count, " channels of a slab; the weight takes ",
                    sizes.features);
}

inline std::vector<int64_t> channels_of(const std::vector<Tensor>& slabs) {
  std::vector<int64_t> channels;
  for (const Tensor& slab : slabs) channels.push_back(slab.size(1));
  return channels;
}

inline void check_images(const char* name, const std::vector<Tensor>& slabs, const HeadSizes& sizes) {
  for (const Tensor& slab : slabs)
    STD_TORCH_CHECK(slab.numel() == sizes.images * sizes.pixels * slab.size(1), name, " must have ", sizes.images,
                    " images of ", sizes.pixels, " pixels");
}

// Where each slab's pooled features start in their flat vector, and after the last their number.
inline std::vector<int64_t> pooled_starts(const std::vector<int64_t>& channels, const HeadSizes& sizes) {
  std::vector<int64_t> starts{0};
  for (int64_t count : channels) starts.push_back(starts.back() + sizes.images * count);
  return starts;
}

inline void check_backward_of_head(const Tensor& to_losses, const std::vector<Tensor>& to_logits,
                                   const std::vector<Tensor>& logits, const Tensor& pooled, const Tensor& weight,
                                   const std::vector<int64_t>& channels, const std::vector<Tensor>& to_slabs,
                                   const std::optional<Tensor>& to_weight, const std::optional<Tensor>& to_bias,
                                   const HeadSizes& sizes) {
  const int64_t slabs = static_cast<int64_t>(channels.size());
  check_features(channels, sizes);
  check_vector_of_floats("to_losses", to_losses, slabs, weight);
  check_vector_of_floats("pooled", pooled, pooled_starts(channels, sizes).back(), weight);
  STD_TORCH_CHECK(static_cast<int64_t>(logits.size()) == slabs, logits.size(), " logits for ", slabs, " slabs");
  for (const Tensor& given : logits) check_vector_of_floats("logits", given, sizes.images * sizes.classes, weight);
  STD_TORCH_CHECK(to_logits.empty() || to_logits.size() == logits.size(), to_logits.size(), " gradients of logits for ",
                  slabs, " slabs");
  for (const Tensor& given : to_logits)
    check_vector_of_floats("to_logits", given, sizes.images * sizes.classes, weight);
  STD_TORCH_CHECK(to_slabs.empty() || channels_of(to_slabs) == channels, "to_slabs must have the channels of the slabs");
  check_images("to_slabs", to_slabs, sizes);
  if (to_weight) check_vector_of_floats("to_weight", *to_weight, weight.numel(), weight);
  if (to_bias) check_vector_of_floats("to_bias", *to_bias, sizes.classes, weight);
}

}  // namespace slimkern
