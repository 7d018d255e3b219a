#pragma once

#include <cstdint>
#include <vector>

#include "common/rotation.h"
#include "cpu/passes.h"

namespace slimkern::cpu {

// A part of a stored weight, and where it lies packed as [rows, taps, columns].
struct PackedPart {
  int64_t rows;
  int64_t columns;
  int64_t out_offset;
  int64_t in_offset;
  void* packed;
};

// A stored weight [rows, columns, taps], and all parts that are read of it.
struct PartedWeight {
  float* data;
  int64_t rows;
  int64_t columns;
  int64_t taps;
  Layout layout;
  std::vector<PackedPart> parts;
};

// Fills all packed parts with values of the element.
void pack_weights(Element element, const std::vector<PartedWeight>& weights);

// Fills the stored weights with the sums of the parts that hold each of their values, zero where none does.
void sum_parts(Element element, const std::vector<PartedWeight>& weights);

}  // namespace slimkern::cpu
