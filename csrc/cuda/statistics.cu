// The second step of the sums: one thread a channel adds up what the blocks left, and derives what the next pass needs.

#include "common/moments.h"
#include "cuda/launch.cuh"
#include "cuda/switchable_batch_norm.cuh"

namespace slimkern::cuda {
namespace {

constexpr int kChannels = 32;  // a block works on, side by side for whole lines of memory
constexpr int kShares = 8;     // of a channel's parts, each added up by one thread

struct Channel {
  const Row& row;
  int32_t channel;
  bool active;

  __device__ int64_t parameter() const { return row.parameters + channel; }
  __device__ int64_t statistic() const { return row.statistics + channel; }
};

// The grid is as wide as the widest row, and as high as there are rows.
__device__ inline Channel own_channel(const Rows& rows) {
  const Row& row = rows.row[blockIdx.y];
  const int32_t channel = blockIdx.x * kChannels + threadIdx.x;
  return {row, channel, channel < row.channels};
}

// Combines the parts of a channel, in a fixed order; the threads of the first share hold the whole.
template <typename Value, typename Read, typename Combine>
__device__ inline Value combined(const Channel& own, Value total, const Read& read, const Combine& combine) {
  __shared__ Value shared[kShares][kChannels];
  if (own.active)
    for (int32_t part = threadIdx.y; part < own.row.parts; part += kShares)
      total = combine(total, read(own.row.first_part + part * own.row.part_stride + own.channel));
  shared[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  for (int share = 1; threadIdx.y == 0 && share < kShares; ++share)
    total = combine(total, shared[share][threadIdx.x]);
  return total;
}

__global__ void __launch_bounds__(kChannels* kShares)
    norms_kernel(Source source, const __grid_constant__ Rows rows, Parts parts, Vectors vectors, double eps,
                 Affine* norms) {
  const Channel own = own_channel(rows);
  float mean = 0, variance = 0;
  if (source == Source::parts) {
    const auto total = combined(
        own, Moments<double>{},
        [&](int64_t part) {
          return Moments<double>{parts.a[part], parts.b[part], parts.c[part]};
        },
        [](const Moments<double>& a, const Moments<double>& b) { return merged(a, b); });
    mean = static_cast<float>(total.mean);
    variance = static_cast<float>(total.variance());
  }
  if (!own.active || threadIdx.y) return;
  if (source == Source::running) {
    mean = vectors.running_mean[own.parameter()];
    variance = vectors.running_variance[own.parameter()];
  } else if (source == Source::given) {
    mean = vectors.mean[own.statistic()];
    variance = vectors.variance[own.statistic()];
  }
  if (source != Source::given) {
    vectors.mean[own.statistic()] = mean;
    vectors.variance[own.statistic()] = variance;
  }
  norms[own.statistic()] = affine(mean, variance, eps, vectors.weight ? vectors.weight[own.parameter()] : 1.0f,
                                  vectors.bias ? vectors.bias[own.parameter()] : 0.0f);
}

__global__ void __launch_bounds__(kChannels* kShares)
    slopes_kernel(const __grid_constant__ Rows rows, Parts parts, const Affine* norms, bool batch_statistics,
                  Vectors vectors, Slope* slopes) {
  const Channel own = own_channel(rows);
  const double2 total = combined(
      own, double2{0.0, 0.0}, [&](int64_t part) { return double2{parts.a[part], parts.b[part]}; },
      [](double2 a, double2 b) {
        return double2{a.x + b.x, a.y + b.y};
      });
  if (!own.active || threadIdx.y) return;
  const Affine norm = norms[own.statistic()];
  slopes[own.statistic()] =
      slope(norm, batch_statistics, static_cast<double>(own.row.pixels), total.x, total.y);
  if (vectors.to_weight) vectors.to_weight[own.parameter()] = static_cast<float>(total.y * norm.inverse);
  if (vectors.to_bias) vectors.to_bias[own.parameter()] = static_cast<float>(total.x);
}

dim3 grid_of(const Rows& rows) {
  int32_t widest = 0;
  for (int32_t place = 0; place < rows.count; ++place)
    widest = widest < rows.row[place].channels ? rows.row[place].channels : widest;
  return dim3((widest + kChannels - 1) / kChannels, rows.count);
}

}  // namespace

void launch_norms(Source source, const Rows& rows, Parts parts, Vectors vectors, double eps, Affine* norms,
                  cudaStream_t stream) {
  launch(norms_kernel, grid_of(rows), dim3(kChannels, kShares), stream, source, rows, parts, vectors, eps, norms);
}

void launch_slopes(const Rows& rows, Parts parts, const Affine* norms, bool batch_statistics, Vectors vectors,
                   Slope* slopes, cudaStream_t stream) {
  launch(slopes_kernel, grid_of(rows), dim3(kChannels, kShares), stream, rows, parts, norms, batch_statistics, vectors,
         slopes);
}

}  // namespace slimkern::cuda
