#pragma once

#include <cstdint>

#include "common/affine.h"
#include "common/tiles.h"

namespace slimkern::cuda {

// One slab: packed, `pixels` by `channels`. Which pointers are set depends on the pass.
struct Row {
  const void* x;
  const void* other;  // forward: the residual or null; backward: the gradient
  const void* result; // backward: to take the ReLU's mask from, or null
  void* out;          // forward: the result; backward: the gradient of x
  void* to_sum;       // backward: the masked gradient, or null
  int64_t pixels;
  int32_t channels;
  int32_t parameters;  // where its channels start in the flat vectors of all widths
  int32_t statistics;  // and in those of the slabs at hand
  int32_t parts;       // partial results of its blocks: their number,
  int64_t first_part;  // where channel 0 of the first lies,
  int64_t part_stride; // and from one to the next
  Tiling tiling;
};

constexpr int kMostRows = 16;  // in one launch: kernel arguments are at most 4 KB

struct Rows {
  Row row[kMostRows];
  int32_t count;
};

// The same rows, for parts that lie side by side for all slabs: tile after tile, `statistics` values each.
inline Rows with_parts_of_tiles(Rows rows, int64_t tiles, int64_t statistics) {
  for (int32_t place = 0; place < rows.count; ++place) {
    Row& row = rows.row[place];
    row.parts = static_cast<int32_t>(tiles);
    row.first_part = row.statistics;
    row.part_stride = statistics;
  }
  return rows;
}

// Three arrays of partial results, each as long as the last row's parts reach.
struct Parts {
  float* a;
  float* b;
  float* c;
};

// Float vectors, indexed by parameter or by statistic; null stands for scale 1, shift 0, or an unwanted result.
struct Vectors {
  const float* weight;
  const float* bias;
  const float* running_mean;
  const float* running_variance;
  float* mean;
  float* variance;
  float* to_weight;
  float* to_bias;
};

}  // namespace slimkern::cuda
