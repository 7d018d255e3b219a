#pragma once

#include <cstdint>

namespace slimkern::cpu {

// Winograd's transforms of one tile for all its channels, compiled once for each instruction set. Positions of
// transformed values lie `step` values apart.
struct WinogradTiles {
  // From 4x4 pixels, row by row.
  void (*scatter)(const float* const* from, int64_t channels, float* to, int64_t step);

  // To 2x2 pixels, row by row; null for what lies outside of the image, or for no summand.
  void (*gather)(const float* from, int64_t step, const float* bias, const float* const* added, float* const* to,
                 int64_t channels);
};

// Those of the best instruction set that this machine has.
const WinogradTiles& winograd_tiles();

}  // namespace slimkern::cpu
