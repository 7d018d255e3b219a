#pragma once

// Stored weights and the parts that sub-networks read of them, as Python hands them over.

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/rotation.h"

namespace slimkern {

// [rows, columns, taps] of float32, the taps being all axes after the second.
struct StoredWeight {
  float* data;
  int64_t rows;
  int64_t columns;
  int64_t taps;
  Layout layout;
};

// A part of one weight; packed, it lies at `start` of the flat buffer as [rows, taps, columns].
struct Part {
  int64_t weight;
  int64_t rows;
  int64_t columns;
  int64_t out_offset;
  int64_t in_offset;
  int64_t start;
};

constexpr size_t kNumbersOfAPart = sizeof(Part) / sizeof(int64_t);

inline StoredWeight stored_weight(const torch::stable::Tensor& weight, const torch::stable::Tensor& like) {
  STD_TORCH_CHECK(weight.scalar_type() == torch::headeronly::ScalarType::Float && weight.dim() >= 2,
                  "weights must be float32 with at least 2 axes");
  STD_TORCH_CHECK(weight.numel() > 0, "weights holds an empty tensor; no axis may be empty");
  STD_TORCH_CHECK(weight.device() == like.device(), "weights must be on the device of the packed buffer");
  int64_t taps = 1, tap_stride = 1;
  for (int64_t axis = weight.dim() - 1; axis > 1; --axis) {
    if (weight.size(axis) == 1) continue;
    if (taps == 1) tap_stride = weight.stride(axis);
    STD_TORCH_CHECK(weight.stride(axis) == taps * tap_stride, "the taps of a weight must lie at even distances");
    taps *= weight.size(axis);
  }
  return {static_cast<float*>(weight.data_ptr()), weight.size(0), weight.size(1), taps,
          {weight.stride(0), weight.stride(1), tap_stride}};
}

inline std::vector<StoredWeight> stored_weights(const std::vector<torch::stable::Tensor>& weights,
                                                const torch::stable::Tensor& like) {
  std::vector<StoredWeight> result;
  for (const auto& weight : weights) result.push_back(stored_weight(weight, like));
  return result;
}

// The parts of each weight, in the order given: sums over them follow it.
inline std::vector<std::vector<Part>> parts_by_weight(const std::vector<int64_t>& numbers,
                                                      const std::vector<StoredWeight>& weights,
                                                      const torch::stable::Tensor& packed) {
  STD_TORCH_CHECK(numbers.size() % kNumbersOfAPart == 0, "parts come as ", kNumbersOfAPart, " numbers each, not ",
                  numbers.size(), " in all");
  STD_TORCH_CHECK(packed.dim() == 1 && packed.is_contiguous(), "packed must be a contiguous vector");
  std::vector<std::vector<Part>> result(weights.size());
  for (size_t place = 0; place < numbers.size(); place += kNumbersOfAPart) {
    const int64_t* given = &numbers[place];
    const Part part{given[0], given[1], given[2], given[3], given[4], given[5]};
    STD_TORCH_CHECK(0 <= part.weight && part.weight < static_cast<int64_t>(weights.size()), "weight ", part.weight,
                    " of a part is none of the ", weights.size());
    const StoredWeight& weight = weights[part.weight];
    STD_TORCH_CHECK(0 < part.rows && part.rows <= weight.rows && 0 < part.columns && part.columns <= weight.columns,
                    "a part of ", part.rows, " by ", part.columns, " doesn't fit a weight of ", weight.rows, " by ",
                    weight.columns);
    STD_TORCH_CHECK(0 <= part.out_offset && part.out_offset < weight.rows && 0 <= part.in_offset &&
                        part.in_offset < weight.columns,
                    "a part starts at channel ", part.out_offset, ", ", part.in_offset, ", outside of its weight");
    STD_TORCH_CHECK(0 <= part.start && part.start + part.rows * part.columns * weight.taps <= packed.numel(),
                    "a part at ", part.start, " reaches beyond the ", packed.numel(), " packed values");
    result[part.weight].push_back(part);
  }
  return result;
}

}  // namespace slimkern
