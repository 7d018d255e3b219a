#pragma once

#include <cuda_runtime.h>

#include "cuda/rows.h"

namespace slimkern::cuda {

enum class Element { float32, bfloat16, float16 };

// How a call reads its slabs: `wide` vectors of 16 bytes, or single values.
struct Access {
  Element element;
  bool wide;

  int lanes() const { return !wide ? 1 : element == Element::float32 ? 4 : 8; }
};

// Each launches one kernel for all rows. Sums are taken in two steps of fixed order, so results are deterministic.

// Partial counts, means and sums of squared deviations.
void launch_moments(Access access, const Rows& rows, Parts parts, cudaStream_t stream);

// Merges them, or takes the running statistics or the given `mean` and `variance`: writes those and `norms`
// [statistics].
enum class Source { parts, running, given };
void launch_norms(Source source, const Rows& rows, Parts parts, Vectors vectors, double eps, Affine* norms,
                  cudaStream_t stream);

// out = (x - mean) * scale + shift, plus `other`, clamped at zero if `relu`.
void launch_normalise(Access access, const Rows& rows, const Affine* norms, bool relu, cudaStream_t stream);

// Partial sums of the masked gradient, and of its product with x - mean; writes the masked gradient to `to_sum`.
void launch_reduce(Access access, const Rows& rows, const Affine* norms, bool relu, Parts parts, cudaStream_t stream);

// Adds them up: writes `to_weight`, `to_bias` and `slopes` [statistics].
void launch_slopes(const Rows& rows, Parts parts, const Affine* norms, bool batch_statistics, Vectors vectors,
                   Slope* slopes, cudaStream_t stream);

// out = the gradient of x.
void launch_differentiate(Access access, const Rows& rows, const Affine* norms, const Slope* slopes, bool relu,
                          cudaStream_t stream);

}  // namespace slimkern::cuda
