#pragma once

#include <cstdint>

#include "common/portable.h"

namespace slimkern {

// Position j of a part is channel (j + offset) mod `total` of its axis; both ways, for values inside their axes.
SLIMKERN_HOST_DEVICE inline int64_t channel_of(int64_t position, int64_t offset, int64_t total) {
  const int64_t channel = position + offset;
  return channel < total ? channel : channel - total;
}

SLIMKERN_HOST_DEVICE inline int64_t position_of(int64_t channel, int64_t offset, int64_t total) {
  const int64_t position = channel - offset;
  return position < 0 ? position + total : position;
}

// Positions before the axis wraps around: they and those after it are two stretches of neighbouring channels.
SLIMKERN_HOST_DEVICE inline int64_t before_wrap(int64_t positions, int64_t offset, int64_t total) {
  return positions < total - offset ? positions : total - offset;
}

// Where to find [row, column, tap] of a weight in memory, whatever the order of its axes.
struct Layout {
  int64_t row;
  int64_t column;
  int64_t tap;

  SLIMKERN_HOST_DEVICE int64_t at(int64_t row_place, int64_t column_place, int64_t tap_place) const {
    return row_place * row + column_place * column + tap_place * tap;
  }
};

}  // namespace slimkern
