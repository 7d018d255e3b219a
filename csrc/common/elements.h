#pragma once

#include <torch/csrc/stable/tensor.h>

namespace slimkern {

// A device's name for the dtype of a tensor that `name` stands for in messages.
template <typename Element>
Element element_of(const char* name, const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Element::float32;
    case ScalarType::BFloat16:
      return Element::bfloat16;
    case ScalarType::Half:
      return Element::float16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16");
  }
}

}  // namespace slimkern
