#pragma once

#include "common/tiles.h"

namespace slimkern::cuda {

// Combines what the threads of a block hold for the same vector of channels, in a fixed order. Afterwards the threads
// of the block's first pixels hold the whole.
template <typename Value, int kLanes, typename Combine>
__device__ inline void combine_over_pixels(Value (&values)[kLanes], int32_t across_bits, const Combine& combine) {
  __shared__ Value shared[kThreads];
  for (int lane = 0; lane < kLanes; ++lane) {
    shared[threadIdx.x] = values[lane];
    __syncthreads();
    for (int32_t half = kThreads / 2; half >= 1 << across_bits; half /= 2) {
      if (threadIdx.x < half) shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
      __syncthreads();
    }
    values[lane] = shared[threadIdx.x];
    __syncthreads();
  }
}

}  // namespace slimkern::cuda
