#pragma once

// What both devices demand of the tensors that Python hands over.

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "common/libtorch_calls.h"

namespace slimkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// [N, C, ...] with all channels of a pixel side by side and pixel after pixel.
inline bool packed(const Tensor& tensor) {
  int64_t expected = 1;
  const auto holds = [&](int64_t axis) {
    const bool fits = tensor.size(axis) == 1 || tensor.stride(axis) == expected;
    expected *= tensor.size(axis);
    return fits;
  };
  bool all = tensor.dim() >= 2 && holds(1);
  for (int64_t axis = tensor.dim() - 1; all && axis > 1; --axis) all = holds(axis);
  return all && holds(0);
}

inline void check_slab(const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.numel() > 0, name, " holds an empty tensor; no axis may be empty");
  STD_TORCH_CHECK(packed(tensor), name, " must be packed: channels-last, without gaps");
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), name, " must have the dtype of the first slab");
  STD_TORCH_CHECK(tensor.device() == like.device(), name, " must be on the device of the first slab");
}

inline void check_slabs(const char* name, const std::vector<Tensor>& tensors, const std::vector<Tensor>& slabs) {
  STD_TORCH_CHECK(tensors.size() == slabs.size(), name, " holds ", tensors.size(), " tensors for ", slabs.size(),
                  " slabs");
  for (size_t place = 0; place < tensors.size(); ++place) {
    check_slab(name, tensors[place], slabs[0]);
    STD_TORCH_CHECK(tensors[place].numel() == slabs[place].numel() && tensors[place].size(1) == slabs[place].size(1),
                    name, " ", place, " must have the shape of its slab");
  }
}

inline int64_t channels(const std::vector<Tensor>& slabs) {
  int64_t sum = 0;
  for (const Tensor& slab : slabs) sum += slab.size(1);
  return sum;
}

// A vector of float32 that holds the channels of every slab from its offset on; null if there is none.
inline float* vector_of(const char* name, const std::optional<Tensor>& vector, const std::vector<Tensor>& slabs,
                        const std::vector<int64_t>& offsets) {
  if (!vector) return nullptr;
  STD_TORCH_CHECK(vector->scalar_type() == ScalarType::Float && vector->dim() == 1 && vector->is_contiguous(), name,
                  " must be a contiguous vector of float32");
  STD_TORCH_CHECK(vector->device() == slabs[0].device(), name, " must be on the device of the slabs");
  for (size_t place = 0; place < slabs.size(); ++place)
    STD_TORCH_CHECK(0 <= offsets[place] && offsets[place] + slabs[place].size(1) <= vector->numel(), name, " has ",
                    vector->numel(), " entries; ", slabs[place].size(1), " channels do not fit at ", offsets[place]);
  return static_cast<float*>(vector->data_ptr());
}

// Where each slab's statistics start, and after the last slab their number.
inline std::vector<int64_t> statistic_starts(const std::vector<Tensor>& slabs) {
  std::vector<int64_t> starts{0};
  for (const Tensor& slab : slabs) starts.push_back(starts.back() + slab.size(1));
  return starts;
}

inline void check_statistics(const char* name, const Tensor& vector, const std::vector<Tensor>& slabs) {
  STD_TORCH_CHECK(vector.scalar_type() == ScalarType::Float && vector.is_contiguous() &&
                      vector.numel() == channels(slabs) && vector.device() == slabs[0].device(),
                  name, " must be a contiguous vector of float32, one value a channel of the slabs, on their device");
}

inline void check_offsets(const std::vector<int64_t>& offsets, const std::vector<Tensor>& slabs) {
  STD_TORCH_CHECK(!slabs.empty(), "slabs is empty; at least one slab is needed");
  STD_TORCH_CHECK(offsets.size() == slabs.size(), offsets.size(), " offsets for ", slabs.size(), " slabs");
}

inline void check_forward(const std::vector<Tensor>& slabs, const std::vector<int64_t>& offsets,
                          const std::optional<Tensor>& running_mean, const std::optional<Tensor>& running_var,
                          const std::vector<Tensor>& residuals, const std::optional<Tensor>& moments) {
  check_offsets(offsets, slabs);
  check_slabs("slabs", slabs, slabs);
  if (!residuals.empty()) check_slabs("residuals", residuals, slabs);
  STD_TORCH_CHECK(running_mean.has_value() == running_var.has_value(), "give running_mean and running_var, or neither");
  if (!moments) return;
  STD_TORCH_CHECK(!running_mean, "give moments or running statistics, not both");
  STD_TORCH_CHECK(moments->scalar_type() == ScalarType::Float && moments->is_contiguous() && moments->dim() == 3 &&
                      moments->size(0) == 3 && moments->size(1) > 0 && moments->size(2) == channels(slabs) &&
                      moments->device() == slabs[0].device(),
                  "moments must be contiguous float32 [3, tiles, ", channels(slabs), "] on the device of the slabs");
}

inline void check_backward(const std::vector<Tensor>& grads, const std::vector<Tensor>& slabs,
                           const std::vector<Tensor>& results, const std::vector<int64_t>& offsets, const Tensor& mean,
                           const Tensor& variance) {
  check_offsets(offsets, slabs);
  check_slabs("slabs", slabs, slabs);
  check_slabs("grads", grads, slabs);
  if (!results.empty()) check_slabs("results", results, slabs);
  check_statistics("mean", mean, slabs);
  check_statistics("variance", variance, slabs);
}

// Without the dispatcher, which takes longer than the allocation itself.
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, torch::headeronly::IntHeaderOnlyArrayRef strides,
                    int32_t dtype, const Tensor& like) {
  int32_t device = 0;
  check_call("aoti_torch_get_device_type", aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made = nullptr;
  check_call("aoti_torch_empty_strided", aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype,
                                                                  device, like.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor statistics_like(const std::vector<Tensor>& slabs) {
  return empty({channels(slabs)}, {1}, aoti_torch_dtype_float32(), slabs[0]);
}

inline std::vector<Tensor> empty_like(const std::vector<Tensor>& slabs) {
  int32_t dtype = 0;
  check_call("aoti_torch_get_dtype", aoti_torch_get_dtype(slabs[0].get(), &dtype));
  std::vector<Tensor> result;
  result.reserve(slabs.size());
  for (const Tensor& slab : slabs) result.push_back(empty(slab.sizes(), slab.strides(), dtype, slab));
  return result;
}

}  // namespace slimkern
