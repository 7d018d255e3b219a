#include "cuda/switchable_batch_norm.cuh"

#include <type_traits>

#include "common/moments.h"
#include "cuda/block_sum.cuh"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"

namespace slimkern::cuda {
namespace {

// Pixels that a thread has on the way from memory at once: as many as its registers allow for.
template <int kLanes>
constexpr int kUnroll = kLanes == 8 ? 2 : 4;

__device__ inline float normalised(float x, const Affine& norm) {
  // The very same steps in both passes, however the compiler fuses what surrounds them.
  return __fmaf_rn(__fsub_rn(x, norm.mean), norm.scale, norm.shift);
}

// Calls body(vector of the tensor) for all pixels of a thread.
template <int kLanes, typename Body>
__device__ inline void for_pixels(const Place& place, int64_t vectors, const Body& body) {
  int64_t vector = place.pixel * vectors + place.vector;
  const int64_t step = place.stride * vectors;
  int32_t left = static_cast<int32_t>((place.end - place.pixel + place.stride - 1) / place.stride);
#pragma unroll kUnroll<kLanes>
  for (; left > 0; --left, vector += step) body(vector);
}

struct Own {
  const Row& row;
  Place place;
  int64_t vectors;
  bool active;
};

template <int kLanes>
__device__ inline Own own_part(const Rows& rows) {
  const Row& row = rows.row[row_of(rows.row, rows.count, blockIdx.x)];
  const Place place = place_of(row.tiling, row.pixels, blockIdx.x, threadIdx.x);
  const int64_t vectors = row.channels / kLanes;
  return {row, place, vectors, place.vector < vectors};
}

// The block's threads that hold what combine_over_pixels found, one a vector of channels.
__device__ inline bool leads(const Own& own) { return own.active && threadIdx.x < 1 << own.row.tiling.across_bits; }

template <int kLanes>
__device__ inline int64_t part_of(const Own& own, int lane) {
  return own.row.first_part + own.place.chunk * own.row.part_stride + own.place.vector * kLanes + lane;
}

template <typename Stored, int kLanes>
__global__ void __launch_bounds__(kThreads, 2) moments_kernel(const __grid_constant__ Rows rows, Parts parts) {
  const Own own = own_part<kLanes>(rows);
  float shift[kLanes] = {}, sum[kLanes] = {}, squares[kLanes] = {};
  float count = 0;
  if (own.active && own.place.pixel < own.place.end) {
    // Deviations from a value of the channel itself don't cancel, however large the mean is.
    load<Stored>(shift, own.row.x, own.place.pixel * own.vectors + own.place.vector);
    for_pixels<kLanes>(own.place, own.vectors, [&](int64_t vector) {
      float x[kLanes];
      load<Stored>(x, own.row.x, vector);
      count += 1;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const float off = x[lane] - shift[lane];
        sum[lane] += off;
        squares[lane] += off * off;
      }
    });
  }
  Moments<float> moments[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    const float off = count ? sum[lane] / count : 0.0f;
    const float rounded = squares[lane] - off * sum[lane];
    moments[lane] = {count, shift[lane] + off, rounded < 0.0f ? 0.0f : rounded};
  }
  combine_over_pixels(moments, own.row.tiling.across_bits,
                      [](const Moments<float>& a, const Moments<float>& b) { return merged(a, b); });
  if (!leads(own)) return;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t part = part_of<kLanes>(own, lane);
    parts.a[part] = moments[lane].count;
    parts.b[part] = moments[lane].mean;
    parts.c[part] = moments[lane].squares;
  }
}

template <typename Stored, int kLanes, bool kRelu>
__global__ void __launch_bounds__(kThreads, 2) normalise_kernel(const __grid_constant__ Rows rows,
                                                                const Affine* norms) {
  const Own own = own_part<kLanes>(rows);
  if (!own.active) return;
  Affine norm[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) norm[lane] = norms[own.row.statistics + own.place.vector * kLanes + lane];
  const void* residual = own.row.other;
  for_pixels<kLanes>(own.place, own.vectors, [&](int64_t vector) {
    float y[kLanes], add[kLanes] = {};
    load<Stored>(y, own.row.x, vector);
    if (residual) load<Stored>(add, residual, vector);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      y[lane] = normalised(y[lane], norm[lane]);
      if (residual) y[lane] += add[lane];
      if (kRelu) y[lane] = unless_negative(y[lane], y[lane]);
    }
    store<Stored>(own.row.out, vector, y);
  });
}

// The gradient of what went into the ReLU: masked by its result where that is given, else by computing it again.
template <typename Stored, int kLanes, bool kRelu>
__device__ inline void load_masked(float (&grad)[kLanes], const float (&x)[kLanes], const Affine (&norm)[kLanes],
                                   const void* from, const void* result, int64_t vector) {
  load<Stored>(grad, from, vector);
  if (!kRelu) return;
  float y[kLanes];
  if (result) load<Stored>(y, result, vector);
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane)
    grad[lane] = unless_negative(grad[lane], result ? y[lane] : normalised(x[lane], norm[lane]));
}

template <typename Stored, int kLanes, bool kRelu>
__global__ void __launch_bounds__(kThreads, 2) reduce_kernel(const __grid_constant__ Rows rows, const Affine* norms,
                                                          Parts parts) {
  const Own own = own_part<kLanes>(rows);
  float2 sums[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) sums[lane] = {0.0f, 0.0f};
  if (own.active) {
    Affine norm[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) norm[lane] = norms[own.row.statistics + own.place.vector * kLanes + lane];
    for_pixels<kLanes>(own.place, own.vectors, [&](int64_t vector) {
      float x[kLanes], grad[kLanes];
      load<Stored>(x, own.row.x, vector);
      load_masked<Stored, kLanes, kRelu>(grad, x, norm, own.row.other, own.row.result, vector);
      if (own.row.to_sum) store<Stored>(own.row.to_sum, vector, grad);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        sums[lane].x += grad[lane];
        sums[lane].y += grad[lane] * (x[lane] - norm[lane].mean);
      }
    });
  }
  combine_over_pixels(sums, own.row.tiling.across_bits,
                      [](float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); });
  if (!leads(own)) return;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t part = part_of<kLanes>(own, lane);
    parts.a[part] = sums[lane].x;
    parts.b[part] = sums[lane].y;
  }
}

template <typename Stored, int kLanes, bool kRelu>
__global__ void __launch_bounds__(kThreads, 2) differentiate_kernel(const __grid_constant__ Rows rows,
                                                                 const Affine* norms, const Slope* slopes) {
  const Own own = own_part<kLanes>(rows);
  if (!own.active) return;
  Affine norm[kLanes];
  Slope slope[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t statistic = own.row.statistics + own.place.vector * kLanes + lane;
    norm[lane] = norms[statistic];
    slope[lane] = slopes[statistic];
  }
  for_pixels<kLanes>(own.place, own.vectors, [&](int64_t vector) {
    float x[kLanes], grad[kLanes];
    load<Stored>(x, own.row.x, vector);
    load_masked<Stored, kLanes, kRelu>(grad, x, norm, own.row.other, own.row.result, vector);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      grad[lane] = grad[lane] * slope[lane].slope + (x[lane] - norm[lane].mean) * slope[lane].tilt + slope[lane].level;
    store<Stored>(own.row.out, vector, grad);
  });
}

int64_t blocks_of(const Rows& rows) {
  const Tiling& last = rows.row[rows.count - 1].tiling;
  return last.first + blocks(last);
}

// Calls body with the type of the elements and the number of lanes as template arguments.
template <typename Body>
void for_access(Access access, const Body& body) {
  const auto with_lanes = [&](auto stored) {
    using Stored = decltype(stored);
    if (access.wide)
      body(stored, std::integral_constant<int, 16 / sizeof(Stored)>{});
    else
      body(stored, std::integral_constant<int, 1>{});
  };
  if (access.element == Element::float32)
    with_lanes(float{});
  else if (access.element == Element::bfloat16)
    with_lanes(__nv_bfloat16{});
  else
    with_lanes(__half{});
}

template <typename Body>
void for_relu(bool relu, const Body& body) {
  if (relu)
    body(std::true_type{});
  else
    body(std::false_type{});
}

}  // namespace

void launch_moments(Access access, const Rows& rows, Parts parts, cudaStream_t stream) {
  for_access(access, [&](auto stored, auto lanes) {
    launch(moments_kernel<decltype(stored), lanes>, blocks_of(rows), kThreads, stream, rows, parts);
  });
}

void launch_normalise(Access access, const Rows& rows, const Affine* norms, bool relu, cudaStream_t stream) {
  for_access(access, [&](auto stored, auto lanes) {
    for_relu(relu, [&](auto clamps) {
      launch(normalise_kernel<decltype(stored), lanes, clamps>, blocks_of(rows), kThreads, stream, rows, norms);
    });
  });
}

void launch_reduce(Access access, const Rows& rows, const Affine* norms, bool relu, Parts parts, cudaStream_t stream) {
  for_access(access, [&](auto stored, auto lanes) {
    for_relu(relu, [&](auto masks) {
      launch(reduce_kernel<decltype(stored), lanes, masks>, blocks_of(rows), kThreads, stream, rows, norms, parts);
    });
  });
}

void launch_differentiate(Access access, const Rows& rows, const Affine* norms, const Slope* slopes, bool relu,
                          cudaStream_t stream) {
  for_access(access, [&](auto stored, auto lanes) {
    for_relu(relu, [&](auto masks) {
      launch(differentiate_kernel<decltype(stored), lanes, masks>, blocks_of(rows), kThreads, stream, rows, norms,
             slopes);
    });
  });
}

}  // namespace slimkern::cuda
