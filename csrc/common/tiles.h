#pragma once

#include <cstdint>

#include "common/portable.h"

namespace slimkern {

// How a slab of pixels by channels is cut for blocks of threads. A block covers `across` vectors of channels, a power
// of two, and `chunk` pixels: each thread keeps to one vector and goes through every (kThreads / across)-th pixel.
struct Tiling {
  int32_t across_bits;
  int32_t tiles;    // along the channels
  int32_t chunks;   // along the pixels
  int32_t chunk;    // pixels in each but the last
  int64_t first;    // block of the launch
};

constexpr int32_t kThreads = 256;
constexpr int32_t kWidestBits = 3;  // 8 vectors of 16 bytes: a line of memory

// `steps` is how many pixels each thread sees.
SLIMKERN_HOST_DEVICE inline Tiling tiling(int64_t pixels, int64_t vectors, int32_t steps, int64_t first) {
  int32_t bits = 0;
  while (bits < kWidestBits && (int64_t{1} << bits) < vectors) ++bits;
  const int64_t across = int64_t{1} << bits, chunk = steps * (kThreads / across);
  return {bits, static_cast<int32_t>((vectors + across - 1) / across),
          static_cast<int32_t>((pixels + chunk - 1) / chunk), static_cast<int32_t>(chunk), first};
}

SLIMKERN_HOST_DEVICE inline int64_t blocks(const Tiling& tiling) { return int64_t{tiling.tiles} * tiling.chunks; }

// What one thread of one block works on.
struct Place {
  int64_t vector;  // of the slab's channels; beyond the last, the thread has nothing to do
  int32_t chunk;
  int64_t pixel;   // the thread's first
  int64_t end;     // of the block's pixels
  int32_t stride;  // from one of the thread's pixels to its next
};

SLIMKERN_HOST_DEVICE inline Place place_of(const Tiling& tiling, int64_t pixels, int64_t block, int32_t thread) {
  const int64_t own = block - tiling.first;
  const int32_t across = 1 << tiling.across_bits;
  const int32_t chunk = static_cast<int32_t>(own / tiling.tiles);
  const int64_t start = int64_t{chunk} * tiling.chunk, limit = start + tiling.chunk;
  return {own % tiling.tiles * across + (thread & (across - 1)), chunk, start + (thread >> tiling.across_bits),
          limit < pixels ? limit : pixels, kThreads >> tiling.across_bits};
}

// Which of the rows, whose first blocks ascend from 0, a block of the launch belongs to.
template <typename Rows>
SLIMKERN_HOST_DEVICE inline int32_t row_of(const Rows& rows, int32_t count, int64_t block) {
  int32_t row = 0;
  while (row + 1 < count && rows[row + 1].tiling.first <= block) ++row;
  return row;
}

}  // namespace slimkern
