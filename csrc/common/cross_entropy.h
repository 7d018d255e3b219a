#pragma once

#include <cmath>
#include <cstdint>

#include "common/portable.h"

namespace slimkern {

// The logarithm of a sum of exponentials, kept as the largest logit and the sum of exp(logit - largest): no logit, of
// either sign and however large, overflows.
struct LogSum {
  float top = 0;
  float sum = 0;  // zero: of no logits yet
};

SLIMKERN_HOST_DEVICE inline LogSum merged(const LogSum& a, const LogSum& b) {
  if (a.sum == 0) return b;
  if (b.sum == 0) return a;
  const float top = b.top > a.top ? b.top : a.top;
  return {top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top)};
}

// Logits first, first + stride, ... before end.
SLIMKERN_HOST_DEVICE inline LogSum log_sum(const float* logits, int64_t first, int64_t end, int64_t stride) {
  if (first >= end) return {};
  float top = logits[first], sum = 0;
  for (int64_t place = first + stride; place < end; place += stride) top = logits[place] > top ? logits[place] : top;
  for (int64_t place = first; place < end; place += stride) sum += expf(logits[place] - top);
  return {top, sum};
}

SLIMKERN_HOST_DEVICE inline float cross_entropy(const LogSum& all, float of_label) {
  return (all.top - of_label) + logf(all.sum);
}

// By a logit.
SLIMKERN_HOST_DEVICE inline float cross_entropy_slope(const LogSum& all, float logit, bool is_label) {
  return expf(logit - all.top) / all.sum - (is_label ? 1.0f : 0.0f);
}

}  // namespace slimkern
