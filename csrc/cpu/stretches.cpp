// Compiled once for each instruction set, with SLIMKERN_ISA naming it.

#include "cpu/stretches.h"

#include "cpu/vector.h"

namespace slimkern::cpu {
namespace {

inline Floats gathered(const float* from, int64_t stride, int64_t count) {
  float whole[kLanes] = {};
  for (int64_t lane = 0; lane < count; ++lane) whole[lane] = from[lane * stride];
  return floats(whole);
}

template <typename Kind>
void narrow(const float* from, int64_t stride, void* target, int64_t count) {
  auto* to = static_cast<typename Kind::Stored*>(target);
  int64_t place = 0;
  if (stride == 1) {
    for (; place + kLanes <= count; place += kLanes) store<Kind>(to + place, floats(from + place));
  } else {
    for (; place + kLanes <= count; place += kLanes)
      store<Kind>(to + place, gathered(from + place * stride, stride, kLanes));
  }
  if (place < count) store_some<Kind>(to + place, gathered(from + place * stride, stride, count - place), count - place);
}

template <typename Kind>
void add(const void* source, float* to, int64_t count) {
  const auto* from = static_cast<const typename Kind::Stored*>(source);
  int64_t place = 0;
  for (; place + kLanes <= count; place += kLanes)
    store<Float32>(to + place, floats(to + place) + load<Kind>(from + place));
  if (const int64_t rest = count - place)
    store_some<Float32>(to + place, load_some<Float32>(to + place, rest) + load_some<Kind>(from + place, rest), rest);
}

constexpr int kAtOnce = 4;  // sums, to hide the latency of an addition

void add_scaled(const float* const* from, const float* factors, int64_t many, float* to, int64_t count) {
  int64_t place = 0;
  for (; place + kAtOnce * kLanes <= count; place += kAtOnce * kLanes) {
    Floats sums[kAtOnce];
    for (int v = 0; v < kAtOnce; ++v) sums[v] = floats(to + place + v * kLanes);
    for (int64_t own = 0; own < many; ++own)
      for (int v = 0; v < kAtOnce; ++v) sums[v] += floats(from[own] + place + v * kLanes) * factors[own];
    for (int v = 0; v < kAtOnce; ++v) store<Float32>(to + place + v * kLanes, sums[v]);
  }
  for (; place < count; place += kLanes) {
    const int64_t rest = count - place < kLanes ? count - place : kLanes;
    Floats sum = load_some<Float32>(to + place, rest);
    for (int64_t own = 0; own < many; ++own) sum += load_some<Float32>(from[own] + place, rest) * factors[own];
    store_some<Float32>(to + place, sum, rest);
  }
}

float dot(const float* a, const float* b, int64_t count) {
  if (!count) return 0;
  Floats sums[kAtOnce] = {};
  int64_t place = 0;
  for (; place + kAtOnce * kLanes <= count; place += kAtOnce * kLanes)
    for (int v = 0; v < kAtOnce; ++v) sums[v] += floats(a + place + v * kLanes) * floats(b + place + v * kLanes);
  for (; place + kLanes <= count; place += kLanes) sums[0] += floats(a + place) * floats(b + place);
  if (const int64_t rest = count - place)
    sums[1] += load_some<Float32>(a + place, rest) * load_some<Float32>(b + place, rest);
  const Floats total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float lanes[kLanes];
  store<Float32>(lanes, total);
  for (int half = kLanes / 2; half; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

template <typename Kind>
constexpr Stretches stretches_of() {
  return {narrow<Kind>, add<Kind>, add_scaled, dot};
}

}  // namespace

extern const Stretches SLIMKERN_JOIN(stretches_, SLIMKERN_ISA)[3];
const Stretches SLIMKERN_JOIN(stretches_, SLIMKERN_ISA)[3] = {stretches_of<Float32>(), stretches_of<Bfloat16>(),
                                                              stretches_of<Float16>()};

}  // namespace slimkern::cpu
