#pragma once

#include <cstdint>
#include <vector>

#include "cpu/passes.h"

namespace slimkern::cpu {

// One slab: packed, `pixels` by `channels`. `parameters` is where its channels start in the flat vectors of all widths,
// `statistics` where they start in those of the slabs at hand.
struct Slab {
  int64_t pixels;
  int64_t channels;
  int64_t parameters;
  int64_t statistics;
  const void* x;
};

// What all slabs of a call have in common. Null vectors: scale 1, shift 0.
struct Norm {
  Element element;
  double eps;
  bool relu;
  const float* weight;
  const float* bias;
};

struct ForwardSlab : Slab {
  const void* residual;  // or null
  void* result;
};

// What to normalise by: the running statistics [parameters], or the merged moments [3, tiles, statistics] (counts,
// means, sums of squared deviations), or the batch's own statistics if both are null.
struct Given {
  const float* running_mean;
  const float* running_variance;
  const float* moments;
  int64_t tiles;
  int64_t statistics;
};

// Writes the statistics it used.
void batch_norm_forward(const Norm& norm, const std::vector<ForwardSlab>& slabs, const Given& given, float* mean,
                        float* variance);

struct BackwardSlab : Slab {
  const void* grad;
  const void* result;  // to take the ReLU's mask from, given with to_sum; null, without a residual, to compute it again
  void* to_sum;        // the gradient of what the ReLU was given; null if unwanted
  void* to_x;          // null if unwanted
};

// The gradients of a forward pass with these statistics. `to_weight` and `to_bias` may be null; of theirs, only the
// stretches of these slabs are written.
void batch_norm_backward(const Norm& norm, const std::vector<BackwardSlab>& slabs, bool batch_statistics,
                         const float* mean, const float* variance, float* to_weight, float* to_bias);

}  // namespace slimkern::cpu
