#pragma once

#include <cstdint>

#include "common/portable.h"

namespace slimkern {

// Which of the rows, whose first blocks ascend from 0, a block of the launch belongs to.
template <typename Row>
SLIMKERN_HOST_DEVICE inline int32_t row_holding(const Row* rows, int32_t count, int64_t block) {
  int32_t low = 0, high = count;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (rows[middle].first_block <= block ? low : high) = middle;
  }
  return low;
}

// Where a value of [rows, taps, columns] lies.
struct ValuePlace {
  int32_t row;
  int32_t tap;
  int32_t column;
};

SLIMKERN_HOST_DEVICE inline ValuePlace value_place(uint32_t value, uint32_t taps, uint32_t columns) {
  const uint32_t pair = value / columns;
  return {static_cast<int32_t>(pair / taps), static_cast<int32_t>(pair % taps), static_cast<int32_t>(value % columns)};
}

// Whether vectors of `lanes` columns never cross the place where a part wraps around, nor start off their alignment.
SLIMKERN_HOST_DEVICE inline bool keeps_vectors(int64_t lanes, int64_t columns, int64_t in_offset, int64_t total) {
  return columns % lanes == 0 && in_offset % lanes == 0 && total % lanes == 0;
}

}  // namespace slimkern
