#include "cpu/winograd.h"

#include <vector>

#include "cpu/parallel.h"
#include "cpu/winograd_tiles.h"

namespace slimkern::cpu {
namespace {

// Calls body(tile, image, row, column) with the upper left pixel of each tile, on several threads, each of which has a
// body of its own from make_body().
template <typename MakeBody>
void for_tiles(const Images& images, const MakeBody& make_body) {
  constexpr int64_t kValuesATask = 1 << 14;
  const int64_t rows = (images.height + 1) / 2, columns = (images.width + 1) / 2, tiles = images.tiles();
  const int64_t step = kValuesATask / images.channels + 1;
  parallel_for((tiles + step - 1) / step, [&](int64_t first, int64_t end) {
    const auto body = make_body();
    for (int64_t tile = first * step; tile < end * step && tile < tiles; ++tile)
      body(tile, tile / (rows * columns), tile / columns % rows * 2, tile % columns * 2);
  });
}

int64_t start_of(const Images& images, int64_t image, int64_t row, int64_t column) {
  return ((image * images.height + row) * images.width + column) * images.channels;
}

bool holds(const Images& images, int64_t row, int64_t column) {
  return 0 <= row && row < images.height && 0 <= column && column < images.width;
}

}  // namespace

void winograd_scatter(const Images& images, const float* pixels, float* transformed) {
  const int64_t channels = images.channels, step = images.tiles() * channels;
  for_tiles(images, [&] {
    return [&, zeros = std::vector<float>(channels)](int64_t tile, int64_t image, int64_t row, int64_t column) {
      const float* from[16];
      for (int64_t y = 0; y < 4; ++y)
        for (int64_t x = 0; x < 4; ++x)
          from[4 * y + x] = holds(images, row + y - 1, column + x - 1)
                                ? pixels + start_of(images, image, row + y - 1, column + x - 1)
                                : zeros.data();
      winograd_tiles().scatter(from, channels, transformed + tile * channels, step);
    };
  });
}

void winograd_gather(const Images& images, const float* products, const float* bias, const float* added,
                     float* results) {
  const int64_t channels = images.channels, step = images.tiles() * channels;
  for_tiles(images, [&] {
    return [&](int64_t tile, int64_t image, int64_t row, int64_t column) {
      const float* summands[4];
      float* to[4];
      for (int64_t y = 0; y < 2; ++y)
        for (int64_t x = 0; x < 2; ++x) {
          const int64_t start = start_of(images, image, row + y, column + x);
          const bool inside = holds(images, row + y, column + x);
          summands[2 * y + x] = inside && added ? added + start : nullptr;
          to[2 * y + x] = inside ? results + start : nullptr;
        }
      winograd_tiles().gather(products + tile * channels, step, bias, summands, to, channels);
    };
  });
}

}  // namespace slimkern::cpu
