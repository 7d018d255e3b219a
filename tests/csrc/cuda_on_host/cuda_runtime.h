#pragma once

// Enough of CUDA to run kernels on the host: the threads of a block are fibers that take turns at every barrier, and
// the blocks follow one another. It shows what kernels compute, and barriers that are missing where a fiber would read
// ahead; not races within a warp.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(int64_t x_ = 1, int64_t y_ = 1, int64_t z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct float2 {
  float x, y;
};
struct double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsub_rn(float a, float b) { return a - b; }
using std::sqrt;

typedef void* cudaStream_t;

inline dim3 threadIdx, blockIdx;

namespace cuda_on_host {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done = false;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline size_t running, threads;
inline std::function<void()> body;
inline bool last_first = false;  // the order in which the threads of a block take turns

inline void run_body() {
  body();
  fibers[running].done = true;
  swapcontext(&fibers[running].context, &scheduler);
}

inline void run_block(dim3 block) {
  const size_t count = threads = block.x * block.y;
  if (fibers.size() < count) fibers.resize(count);
  for (size_t place = 0; place < count; ++place) {
    Fiber& fiber = fibers[place];
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.data(), 0, fiber.stack.size()};
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_body, 0);
  }
  for (bool all_done = false; !all_done;) {
    all_done = true;
    for (size_t turn = 0; turn < count; ++turn) {
      running = last_first ? count - 1 - turn : turn;
      if (fibers[running].done) continue;
      all_done = false;
      threadIdx = dim3(running % block.x, running / block.x);
      swapcontext(&scheduler, &fibers[running].context);
    }
  }
}

}  // namespace cuda_on_host

namespace cuda_on_host {

inline void give_way() {
  const dim3 own = threadIdx;
  swapcontext(&fibers[running].context, &scheduler);
  threadIdx = own;
}

// Where a block's threads `first` to `end` wait for each other; those that have returned aren't waited for.
struct Barrier {
  size_t arrived = 0, round = 0;

  void wait(size_t first, size_t end) {
    const size_t own_round = round;
    for (++arrived; round == own_round; give_way()) {
      size_t alive = 0;
      for (size_t place = first; place < end; ++place) alive += !fibers[place].done;
      if (arrived < alive) continue;
      arrived = 0;
      ++round;
      break;
    }
  }
};

inline Barrier of_block;
inline Barrier of_warp[32];

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::of_block.wait(0, cuda_on_host::threads); }

// All lanes of a warp must take part.
template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  static Value exchanged[1024];
  const size_t own = cuda_on_host::running, first = own / 32 * 32;
  exchanged[own] = value;
  cuda_on_host::of_warp[own / 32].wait(first, first + 32);
  const Value other = exchanged[own ^ mask];
  cuda_on_host::of_warp[own / 32].wait(first, first + 32);
  return other;
}

namespace slimkern::cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, const Arguments&... arguments) {
  cuda_on_host::body = [&] { kernel(arguments...); };
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y);
      cuda_on_host::run_block(block);
    }
}

}  // namespace slimkern::cuda
