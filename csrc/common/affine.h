#pragma once

#include <cmath>

#include "common/portable.h"

namespace slimkern {

// What normalises one channel: y = (x - mean) * scale + shift. The backward pass finds the ReLU's mask by computing y
// again, so both passes must take the same steps from the same rounded statistics.
struct Affine {
  float mean;
  float inverse;  // of the standard deviation
  float scale;
  float shift;
};

SLIMKERN_HOST_DEVICE inline Affine affine(float mean, float variance, double eps, float weight, float bias) {
  const float inverse = static_cast<float>(1.0 / sqrt(static_cast<double>(variance) + eps));
  return {mean, inverse, weight * inverse, bias};
}

// The gradient of x is g * slope + (x - mean) * tilt + level.
struct Slope {
  float slope;
  float tilt;
  float level;
};

// `sum` of the gradients g and `dot` of g with x - mean, over `count` values; both count only where the batch's own
// statistics normalised it.
SLIMKERN_HOST_DEVICE inline Slope slope(const Affine& norm, bool batch_statistics, double count, double sum,
                                        double dot) {
  if (!batch_statistics) return {norm.scale, 0.0f, 0.0f};
  const double scale = norm.scale, inverse = norm.inverse;
  return {norm.scale, static_cast<float>(-scale * inverse * inverse * dot / count),
          static_cast<float>(-scale * sum / count)};
}

}  // namespace slimkern
