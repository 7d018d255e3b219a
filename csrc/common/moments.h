#pragma once

#include "common/portable.h"

namespace slimkern {

// Count, mean and sum of squared deviations from that mean.
template <typename Real>
struct Moments {
  Real count = 0;
  Real mean = 0;
  Real squares = 0;

  // The biased variance; a rounding error can't make it negative, as only squares are added up.
  SLIMKERN_HOST_DEVICE Real variance() const { return squares / count; }
};

// The moments of two disjoint sets together (Chan, Golub and LeVeque 1979). Sums of squares around the own mean don't
// cancel, however large the mean is beside the deviation.
template <typename Real>
SLIMKERN_HOST_DEVICE inline Moments<Real> merged(const Moments<Real>& a, const Moments<Real>& b) {
  const Real count = a.count + b.count;
  if (count == 0) return a;
  const Real share = b.count / count;
  const Real step = b.mean - a.mean;
  return {count, a.mean + step * share, a.squares + b.squares + step * step * (a.count * share)};
}

// The moments of a set with one value more (Welford 1962).
template <typename Real>
SLIMKERN_HOST_DEVICE inline Moments<Real> extended(const Moments<Real>& a, Real value) {
  return merged(a, Moments<Real>{Real(1), value, Real(0)});
}

}  // namespace slimkern
