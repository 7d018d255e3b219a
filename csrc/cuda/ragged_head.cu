#include "cuda/ragged_head.cuh"

#include <type_traits>

#include "common/cross_entropy.h"
#include "common/rotation.h"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"

namespace slimkern::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;

// The sum over a warp's lanes, in a fixed order; every lane has it.
template <typename Real>
__device__ inline Real sum_of_warp(Real value) {
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// As log_sum, by a whole warp. Lanes may meet in either order: which one is `a` follows from the lane.
__device__ inline LogSum log_sum_of_warp(const float* logits, int32_t first, int32_t last) {
  const int lane = threadIdx.x % kWarp;
  LogSum own = log_sum(logits, first + lane, last, kWarp);
#pragma unroll
  for (int step = kWarp / 2; step; step /= 2) {
    const LogSum other{__shfl_xor_sync(kAllLanes, own.top, step), __shfl_xor_sync(kAllLanes, own.sum, step)};
    own = lane & step ? merged(other, own) : merged(own, other);
  }
  return own;
}

__device__ inline const float* row_of(const HeadTable& table, int32_t category) {
  return table.weight + int64_t{category} * table.features;
}

template <typename Stored, int kLanes>
__device__ inline void pool(const HeadTable& table, const HeadRow& row) {
  const int64_t image = blockIdx.x;
  const int32_t vectors = row.channels / kLanes;
  for (int32_t vector = threadIdx.x; vector < vectors; vector += kHeadThreads) {
    float sums[kLanes] = {};
#pragma unroll 4
    for (int32_t pixel = 0; pixel < table.pixels; ++pixel) {
      float values[kLanes];
      load<Stored>(values, row.x, (image * table.pixels + pixel) * vectors + vector);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += values[lane];
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      row.pooled[image * row.channels + vector * kLanes + lane] = sums[lane] / static_cast<float>(table.pixels);
    }
  }
}

// A block is one image of one slab: what it writes is in the cache when it reads it again.
template <typename Stored, int kLanes>
__global__ void __launch_bounds__(kHeadThreads)
    heads_kernel(const __grid_constant__ HeadTable table, float* image_losses) {
  const HeadRow& row = table.rows[blockIdx.y];
  const int64_t image = blockIdx.x;
  pool<Stored, kLanes>(table, row);
  __syncthreads();
  const float* pooled = row.pooled + image * row.channels;
  float* logits = row.logits + image * table.classes;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int32_t category = warp; category < table.classes; category += kHeadThreads / kWarp) {
    const float* weight = row_of(table, category);
    float sum = 0;
    for (int32_t channel = lane; channel < row.channels; channel += kWarp)
      sum += pooled[channel] * weight[channel_of(channel, table.in_offset, table.features)];
    sum = sum_of_warp(sum) + (table.bias ? table.bias[category] : 0.0f);
    if (lane == 0) logits[category] = sum;
  }
  __syncthreads();
  if (warp) return;
  const LogSum all = log_sum_of_warp(logits, table.first, table.last);
  const int64_t label = table.labels[image];
  if (lane == 0)
    image_losses[int64_t{blockIdx.y} * table.images + image] =
        table.first <= label && label < table.last ? cross_entropy(all, logits[label]) : nanf("");
}

__global__ void __launch_bounds__(kWarp) mean_kernel(const float* image_losses, int32_t images, float* losses) {
  double sum = 0;
  for (int32_t image = threadIdx.x; image < images; image += kWarp)
    sum += image_losses[int64_t{blockIdx.x} * images + image];
  sum = sum_of_warp(sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = static_cast<float>(sum / images);
}

// The gradient of one image of a slab, the same for all its pixels.
template <typename Stored, int kLanes>
__device__ inline void spread(const HeadTable& table, const HeadRow& row, const float* slopes) {
  const int64_t image = blockIdx.x;
  const int32_t vectors = row.channels / kLanes;
  // Without gradients of their own, classes outside the range have none.
  const int32_t first = row.to_logits ? 0 : table.first, last = row.to_logits ? table.classes : table.last;
  for (int32_t vector = threadIdx.x; vector < vectors; vector += kHeadThreads) {
    float sums[kLanes] = {};
    for (int32_t category = first; category < last; ++category) {
      const float* weight = row_of(table, category);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane)
        sums[lane] +=
            slopes[category] * weight[channel_of(vector * kLanes + lane, table.in_offset, table.features)];
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] /= static_cast<float>(table.pixels);
    for (int32_t pixel = 0; pixel < table.pixels; ++pixel)
      store<Stored>(row.to_x, (image * table.pixels + pixel) * vectors + vector, sums);
  }
}

template <typename Stored, int kLanes>
__global__ void __launch_bounds__(kHeadThreads)
    slopes_kernel(const __grid_constant__ HeadTable table, const float* to_losses, float* all_slopes) {
  __shared__ float shared_top, shared_sum;
  const HeadRow& row = table.rows[blockIdx.y];
  const int64_t image = blockIdx.x, start = image * table.classes;
  float* slopes = all_slopes + int64_t{blockIdx.y} * table.images * table.classes + start;
  if (threadIdx.x < kWarp) {
    const LogSum all = log_sum_of_warp(row.logits + start, table.first, table.last);
    if (threadIdx.x == 0) {
      shared_top = all.top;
      shared_sum = all.sum;
    }
  }
  __syncthreads();
  const LogSum all{shared_top, shared_sum};
  const float scale = to_losses[blockIdx.y] / static_cast<float>(table.images);
  const int64_t label = table.labels[image];
  for (int32_t category = threadIdx.x; category < table.classes; category += kHeadThreads) {
    float slope = row.to_logits ? row.to_logits[start + category] : 0.0f;
    if (table.first <= category && category < table.last)
      slope += cross_entropy_slope(all, row.logits[start + category], category == label) * scale;
    slopes[category] = slope;
  }
  __syncthreads();
  if (row.to_x) spread<Stored, kLanes>(table, row, slopes);
}

// A thread is one stored value of the weight, or after the last feature the bias, and sums over slabs and images in
// their order.
__global__ void __launch_bounds__(kHeadThreads)
    parameters_kernel(const __grid_constant__ HeadTable table, const float* slopes, bool accumulate, float* to_weight,
                      float* to_bias) {
  const int32_t feature = blockIdx.x * kHeadThreads + threadIdx.x, category = blockIdx.y;
  const bool is_bias = feature == table.features;
  float* const to = is_bias                              ? (to_bias ? to_bias + category : nullptr)
                    : to_weight && feature < table.features ? to_weight + int64_t{category} * table.features + feature
                                                            : nullptr;
  if (!to) return;
  float sum = accumulate ? *to : 0.0f;
  const int32_t position = is_bias ? 0 : static_cast<int32_t>(position_of(feature, table.in_offset, table.features));
  for (int32_t place = 0; place < table.count; ++place) {
    const HeadRow& row = table.rows[place];
    if (position >= row.channels) continue;
    const float* own = slopes + int64_t{place} * table.images * table.classes + category;
#pragma unroll 4
    for (int32_t image = 0; image < table.images; ++image)
      sum += own[int64_t{image} * table.classes] *
             (is_bias ? 1.0f : row.pooled[int64_t{image} * row.channels + position]);
  }
  *to = sum;
}

// Calls body(kernel's value type, lanes) for how the slabs are stored.
template <typename Body>
void with_access(Element element, bool wide, const Body& body) {
  switch (element) {
    case Element::float32:
      return wide ? body(float{}, std::integral_constant<int, 4>{}) : body(float{}, std::integral_constant<int, 1>{});
    case Element::bfloat16:
      return wide ? body(__nv_bfloat16{}, std::integral_constant<int, 8>{})
                  : body(__nv_bfloat16{}, std::integral_constant<int, 1>{});
    case Element::float16:
      return wide ? body(__half{}, std::integral_constant<int, 8>{}) : body(__half{}, std::integral_constant<int, 1>{});
  }
}

}  // namespace

void launch_heads(Element element, const HeadTable& table, float* image_losses, cudaStream_t stream) {
  with_access(element, table.wide, [&](auto stored, auto lanes) {
    launch(heads_kernel<decltype(stored), decltype(lanes)::value>, dim3(table.images, table.count), kHeadThreads,
           stream, table, image_losses);
  });
}

void launch_mean_losses(const HeadTable& table, const float* image_losses, float* losses, cudaStream_t stream) {
  launch(mean_kernel, table.count, kWarp, stream, image_losses, table.images, losses);
}

void launch_slopes_of_heads(Element element, const HeadTable& table, const float* to_losses, float* slopes,
                            cudaStream_t stream) {
  with_access(element, table.wide, [&](auto stored, auto lanes) {
    launch(slopes_kernel<decltype(stored), decltype(lanes)::value>, dim3(table.images, table.count), kHeadThreads,
           stream, table, to_losses, slopes);
  });
}

void launch_head_parameters(const HeadTable& table, const float* slopes, bool accumulate, float* to_weight,
                            float* to_bias, cudaStream_t stream) {
  const dim3 grid(table.features / kHeadThreads + 1, table.classes);
  launch(parameters_kernel, grid, kHeadThreads, stream, table, slopes, accumulate, to_weight, to_bias);
}

}  // namespace slimkern::cuda
