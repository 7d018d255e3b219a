#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace slimkern::cuda {

__device__ inline float widened(float value) { return value; }
__device__ inline float widened(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widened(__half value) { return __half2float(value); }

__device__ inline void narrow(float& to, float value) { to = value; }
__device__ inline void narrow(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }
__device__ inline void narrow(__half& to, float value) { to = __float2half_rn(value); }

// `kLanes` neighbouring channels, read and written at once: 16 bytes, or a single value where channels or addresses
// don't allow for more.
template <typename Stored, int kLanes>
struct alignas(sizeof(Stored) * kLanes) Vector {
  Stored lanes[kLanes];
};

template <typename Stored, int kLanes>
__device__ inline void load(float (&values)[kLanes], const void* tensor, int64_t vector) {
  const auto read = static_cast<const Vector<Stored, kLanes>*>(tensor)[vector];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = widened(read.lanes[lane]);
}

template <typename Stored, int kLanes>
__device__ inline void store(void* tensor, int64_t vector, const float (&values)[kLanes]) {
  Vector<Stored, kLanes> written;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) narrow(written.lanes[lane], values[lane]);
  static_cast<Vector<Stored, kLanes>*>(tensor)[vector] = written;
}

// `value` where `sign` is above zero or not a number, else zero.
__device__ inline float unless_negative(float value, float sign) { return sign <= 0.0f ? 0.0f : value; }

}  // namespace slimkern::cuda
