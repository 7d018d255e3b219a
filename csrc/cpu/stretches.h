#pragma once

#include <cstdint>

#include "cpu/passes.h"

namespace slimkern::cpu {

// Loops over stretches of neighbouring values of any length and alignment, compiled once for each instruction set.
// `void` stands for values of the element that they were asked for.
struct Stretches {
  // to = from, every `stride`-th value of it.
  void (*narrow)(const float* from, int64_t stride, void* to, int64_t count);

  // to += from.
  void (*add)(const void* from, float* to, int64_t count);

  // to += from[0] * factors[0] + from[1] * factors[1] + ... up to `many`.
  void (*add_scaled)(const float* const* from, const float* factors, int64_t many, float* to, int64_t count);

  // The sum of a * b.
  float (*dot)(const float* a, const float* b, int64_t count);
};

// Those of the best instruction set that this machine has.
const Stretches& stretches(Element element);

}  // namespace slimkern::cpu
