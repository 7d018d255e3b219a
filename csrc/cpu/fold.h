#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace slimkern::cpu {

constexpr int64_t kColumnUnit = 16;     // columns come in whole vectors of the widest instruction set
constexpr int64_t kColumnsAtOnce = 64;  // and in as many of them as hide the latency of an addition

// A packed slab of `pixels` by `channels` seen as `rows` by `columns`: each row takes `copies` pixels, so that its
// columns fill whole vectors whatever the number of channels. `rest` values are left over; column j is channel
// j mod channels.
struct Fold {
  int64_t channels;
  int64_t copies;
  int64_t columns;
  int64_t rows;
  int64_t rest;
};

inline Fold fold(int64_t pixels, int64_t channels) {
  int64_t copies = kColumnUnit / std::gcd(channels, kColumnUnit);
  while (copies * channels < kColumnsAtOnce) copies *= 2;
  return {channels, copies, copies * channels, pixels / copies, pixels % copies * channels};
}

// Rows that one task takes: the same for any number of threads, so that sums don't depend on it. There are enough for
// a task's sums to be few beside its values, even where odd channels make a row long.
inline int64_t rows_a_task(const Fold& fold) {
  constexpr int64_t kValuesATask = 1 << 16, kRowsAtLeast = 16;
  return std::max(kRowsAtLeast, kValuesATask / fold.columns);
}

}  // namespace slimkern::cpu
