#pragma once

#include "halves.h"

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) { return static_cast<float>(kBfloat16.value(value.bits)); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return {kBfloat16.bits(value)}; }
