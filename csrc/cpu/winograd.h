#pragma once

#include <cstdint>

namespace slimkern::cpu {

// Channels-last images. Tiles of 2x2 pixels cover them, image after image and row after row; those at an odd edge reach
// beyond it.
struct Images {
  int64_t count;
  int64_t height;
  int64_t width;
  int64_t channels;

  int64_t tiles() const { return count * ((height + 1) / 2) * ((width + 1) / 2); }
};

// Winograd's convolution by 3x3 taps with a padding of one, F(2x2, 3x3) of Lavin & Gray (2016), without its products:
// those of [16, tiles, channels] with transformed weights [16, channels, outputs] are 16 products of matrices.

// The transformed 4x4 pixels around each tile, to [16, tiles, channels].
void winograd_scatter(const Images& images, const float* pixels, float* transformed);

// max(convolution + bias + added, 0) from products [16, tiles, channels], the channels now being the outputs; `added`
// is laid out like the results, or null.
void winograd_gather(const Images& images, const float* products, const float* bias, const float* added,
                     float* results);

}  // namespace slimkern::cpu
