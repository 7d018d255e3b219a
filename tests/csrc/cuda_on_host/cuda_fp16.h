#pragma once

#include "halves.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half half) { return static_cast<float>(kFloat16.value(half.bits)); }
inline __half __float2half_rn(float value) { return {kFloat16.bits(value)}; }
