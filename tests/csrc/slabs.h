#pragma once

// Slabs of random values, and their batch norm in doubles, for programs that test kernels without libtorch.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"

struct Shape {
  int64_t pixels;
  int64_t channels;
};

inline std::vector<double> drawn(std::mt19937& random, int64_t count) {
  // Eighths are exact in all dtypes.
  std::uniform_int_distribution<int> eighths(-16, 16);
  std::vector<double> values(count);
  for (double& value : values) value = eighths(random) / 8.0;
  return values;
}

// One slab as plain numbers, pixel after pixel.
struct TrueSlab {
  Shape shape;
  std::vector<double> x, residual, grad, y, to_sum, to_x, mean, variance, to_weight, to_bias;

  TrueSlab(Shape shape_, std::mt19937& random)
      : shape(shape_), x(drawn(random, size())), residual(drawn(random, size())), grad(drawn(random, size())) {}

  int64_t size() const { return shape.pixels * shape.channels; }
};

// Counts, means and sums of squared deviations [3, tiles, channels of all slabs] of parts of their pixels.
inline std::vector<float> moments_of_parts(const std::vector<TrueSlab>& slabs, int64_t tiles) {
  int64_t all = 0, before = 0;
  for (const TrueSlab& slab : slabs) all += slab.shape.channels;
  std::vector<float> result(3 * tiles * all);
  for (const TrueSlab& slab : slabs) {
    const auto [pixels, channels] = slab.shape;
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t first = tile * pixels / tiles, end = (tile + 1) * pixels / tiles, count = end - first;
        double mean = 0, squares = 0;
        for (int64_t p = first; p < end; ++p) mean += slab.x[p * channels + c] / count;
        for (int64_t p = first; p < end; ++p) squares += std::pow(slab.x[p * channels + c] - mean, 2);
        float* here = &result[tile * all + before + c];
        here[0] = static_cast<float>(count);
        here[tiles * all] = static_cast<float>(mean);
        here[2 * tiles * all] = static_cast<float>(squares);
      }
    before += channels;
  }
  return result;
}

inline void normalise(TrueSlab& slab, double eps, const std::vector<double>& weight, const std::vector<double>& bias,
                      int64_t offset, bool residual, bool relu) {
  const auto [pixels, channels] = slab.shape;
  slab.y.resize(pixels * channels);
  slab.to_sum = slab.to_x = slab.y;
  slab.mean.assign(channels, 0);
  slab.variance = slab.to_weight = slab.to_bias = slab.mean;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t p = 0; p < pixels; ++p) slab.mean[c] += slab.x[p * channels + c] / pixels;
    for (int64_t p = 0; p < pixels; ++p)
      slab.variance[c] += std::pow(slab.x[p * channels + c] - slab.mean[c], 2) / pixels;
    const double inverse = 1 / std::sqrt(slab.variance[c] + eps);
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t here = p * channels + c;
      const double hat = (slab.x[here] - slab.mean[c]) * inverse;
      const double y = hat * weight[offset + c] + bias[offset + c] + (residual ? slab.residual[here] : 0);
      slab.y[here] = relu && y < 0 ? 0 : y;
      slab.to_sum[here] = relu && y <= 0 ? 0 : slab.grad[here];
      slab.to_bias[c] += slab.to_sum[here];
      slab.to_weight[c] += slab.to_sum[here] * hat;
    }
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t here = p * channels + c;
      const double hat = (slab.x[here] - slab.mean[c]) * inverse;
      slab.to_x[here] = weight[offset + c] * inverse *
                        (slab.to_sum[here] - slab.to_bias[c] / pixels - hat * slab.to_weight[c] / pixels);
    }
  }
}

template <typename Given>
void check_near(const char* name, const Given& given, const std::vector<double>& truth, double tolerance) {
  CHECK(given.size() >= truth.size(), "%s: %zu values for %zu", name, given.size(), truth.size());
  double scale = 1e-3;
  for (double value : truth) scale = std::max(scale, std::abs(value));
  for (size_t place = 0; place < truth.size(); ++place)
    CHECK(std::abs(given[place] - truth[place]) <= tolerance * scale, "%s[%zu] is %g, should be %g", name, place,
          double(given[place]), truth[place]);
}
