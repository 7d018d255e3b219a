// Compiled once for each instruction set, with SLIMKERN_ISA naming it, and without contraction of products and sums:
// the backward pass must find the very values that the forward pass clamped.

#include "cpu/passes.h"

#include <type_traits>

#include "cpu/vector.h"

namespace slimkern::cpu {
namespace {

constexpr int kVectorsAtOnce = 4;

// Rows whose values fit into the first-level cache. Nothing of the standard library's templates is used here: the
// linker keeps one copy of those, which may be of the wrong instruction set.
inline int64_t rows_a_block(int64_t columns) {
  constexpr int64_t kValues = 1 << 13;
  const int64_t rows = kValues / columns;
  return rows < 4 ? 4 : rows > 128 ? 128 : rows;
}

// Rows that are summed up in single precision, before the sums are added to those in double precision.
constexpr int64_t kRowsASum = 256;

// Rows whose mean is near enough to that of all.
constexpr int64_t kRowsAGlance = 16;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Vectors3 {
  Floats a, b, c;
};

inline Vectors3 at(ColumnAffine norm, int64_t column) {
  return {floats(norm.mean + column), floats(norm.scale + column), floats(norm.shift + column)};
}

inline Vectors3 at(ColumnSlope slope, int64_t column) {
  return {floats(slope.slope + column), floats(slope.tilt + column), floats(slope.level + column)};
}

inline Floats normalised(Floats x, const Vectors3& norm) { return (x - norm.a) * norm.b + norm.c; }

template <typename Kind, bool kStream>
inline void put(typename Kind::Stored* to, Floats value) {
  if constexpr (kStream)
    stream<Kind>(to, value);
  else
    store<Kind>(to, value);
}

// Calls `tile` with as many neighbouring vectors as possible, up to four: their accumulators stay in registers.
template <typename Tile>
inline void for_tiles(int64_t columns, const Tile& tile) {
  constexpr int64_t kWide = kVectorsAtOnce * kLanes;
  int64_t column = 0;
  for (; column + kWide <= columns; column += kWide) tile(column, std::integral_constant<int, kVectorsAtOnce>{});
  for (; column < columns; column += kLanes) tile(column, std::integral_constant<int, 1>{});
}

template <typename Kind>
void moments(const void* source, int64_t rows, int64_t columns, float* scratch, double* mean, double* squares) {
  const auto* x = static_cast<const typename Kind::Stored*>(source);
  float *block_near = scratch, *block_off = scratch + columns, *block_squares = scratch + 2 * columns;
  for (int64_t first = 0; first < rows; first += kRowsASum) {
    const int64_t count = smaller(kRowsASum, rows - first), glance = smaller(kRowsAGlance, count);
    const auto* block = x + first * columns;
    for_tiles(columns, [&](int64_t column, auto width) {
      constexpr int kWidth = width;
      // Sums of large values are inexact: only what is off from a value near the mean is summed up. That value is the
      // mean of all earlier blocks, so what it is off by is part of the variance, and no error can outgrow that.
      Floats near[kWidth] = {}, offs[kWidth] = {}, squared[kWidth] = {};
      if (first) {
        for (int v = 0; v < kWidth; ++v) near[v] = floats(block_near + column + v * kLanes);
      } else {
        for (int64_t row = 0; row < glance; ++row)
          for (int v = 0; v < kWidth; ++v) near[v] += load<Kind>(block + row * columns + column + v * kLanes);
        for (int v = 0; v < kWidth; ++v) near[v] *= 1.0f / glance;
      }
      for (int64_t row = 0; row < count; ++row)
        for (int v = 0; v < kWidth; ++v) {
          const auto* here = block + row * columns + column + v * kLanes;
          prefetch(here);
          const Floats off = load<Kind>(here) - near[v];
          offs[v] += off;
          squared[v] += off * off;
        }
      for (int v = 0; v < kWidth; ++v) {
        store<Float32>(block_near + column + v * kLanes, near[v]);
        store<Float32>(block_off + column + v * kLanes, offs[v]);
        store<Float32>(block_squares + column + v * kLanes, squared[v]);
      }
    });
    // All columns have seen equally many values, so the shares of `merged` are the same for all.
    const double share = static_cast<double>(count) / (first + count), inverse = 1.0 / count;
    for (int64_t column = 0; column < columns; ++column) {
      const double beside = block_off[column] * inverse;
      const double own_mean = block_near[column] + beside;
      const double rounded = block_squares[column] - beside * block_off[column];
      const double own_squares = rounded < 0 ? 0 : rounded;
      const double apart = first ? own_mean - mean[column] : 0.0;
      mean[column] = first ? mean[column] + apart * share : own_mean;
      squares[column] = (first ? squares[column] : 0.0) + own_squares + apart * apart * (first * share);
      block_near[column] = static_cast<float>(mean[column]);
    }
  }
}

template <typename Kind, bool kResidual, bool kRelu, bool kStream>
void normalise_as(const void* source, const void* residuals, void* results, int64_t rows, int64_t columns,
                  ColumnAffine norm) {
  using Stored = typename Kind::Stored;
  const auto* x = static_cast<const Stored*>(source);
  const auto* residual = static_cast<const Stored*>(residuals);
  auto* result = static_cast<Stored*>(results);
  const int64_t step = rows_a_block(columns);
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t end = smaller(rows, first + step);
    for_tiles(columns, [&](int64_t column, auto width) {
      constexpr int kWidth = width;
      Vectors3 own[kWidth];
      for (int v = 0; v < kWidth; ++v) own[v] = at(norm, column + v * kLanes);
      for (int64_t row = first; row < end; ++row)
        for (int v = 0; v < kWidth; ++v) {
          const int64_t here = row * columns + column + v * kLanes;
          prefetch(x + here);
          Floats y = normalised(load<Kind>(x + here), own[v]);
          if constexpr (kResidual) y += load<Kind>(residual + here);
          if constexpr (kRelu) y = unless_negative(y, y);
          put<Kind, kStream>(result + here, y);
        }
    });
  }
}

template <typename Kind, bool kStream>
void normalise_by(const void* x, const void* residual, void* result, int64_t rows, int64_t columns, ColumnAffine norm,
                  bool relu) {
  const auto pass =
      residual ? (relu ? normalise_as<Kind, true, true, kStream> : normalise_as<Kind, true, false, kStream>)
               : (relu ? normalise_as<Kind, false, true, kStream> : normalise_as<Kind, false, false, kStream>);
  pass(x, residual, result, rows, columns, norm);
}

template <typename Kind>
void normalise(const void* x, const void* residual, void* result, int64_t rows, int64_t columns, ColumnAffine norm,
               bool relu, bool past_caches) {
  if (past_caches && is_aligned(result)) {
    normalise_by<Kind, true>(x, residual, result, rows, columns, norm, relu);
    finish_streaming();
  } else {
    normalise_by<Kind, false>(x, residual, result, rows, columns, norm, relu);
  }
}

template <typename Kind, Mask kMask>
void reduce_as(const void* grads, const void* source, const void* results, void* masks, int64_t rows, int64_t columns,
               ColumnAffine norm, float* scratch, double* sum, double* dot) {
  using Stored = typename Kind::Stored;
  const auto* grad = static_cast<const Stored*>(grads);
  const auto* x = static_cast<const Stored*>(source);
  const auto* result = static_cast<const Stored*>(results);
  auto* masked = static_cast<Stored*>(masks);
  float *block_sum = scratch, *block_dot = scratch + columns;
  for (int64_t column = 0; column < columns; ++column) sum[column] = dot[column] = 0.0;
  for (int64_t first = 0; first < rows; first += kRowsASum) {
    const int64_t end = smaller(rows, first + kRowsASum);
    for_tiles(columns, [&](int64_t column, auto width) {
      constexpr int kWidth = width;
      Floats sums[kWidth] = {}, dots[kWidth] = {};
      Vectors3 own[kWidth];
      for (int v = 0; v < kWidth; ++v) own[v] = at(norm, column + v * kLanes);
      for (int64_t row = first; row < end; ++row)
        for (int v = 0; v < kWidth; ++v) {
          const int64_t here = row * columns + column + v * kLanes;
          prefetch(x + here);
          prefetch(grad + here);
          const Floats value = load<Kind>(x + here);
          Floats g = load<Kind>(grad + here);
          if constexpr (kMask == Mask::recomputed) g = unless_negative(g, normalised(value, own[v]));
          if constexpr (kMask == Mask::result) g = unless_negative(g, load<Kind>(result + here));
          if (masked) store<Kind>(masked + here, g);
          sums[v] += g;
          dots[v] += g * (value - own[v].a);
        }
      for (int v = 0; v < kWidth; ++v) {
        store<Float32>(block_sum + column + v * kLanes, sums[v]);
        store<Float32>(block_dot + column + v * kLanes, dots[v]);
      }
    });
    for (int64_t column = 0; column < columns; ++column) {
      sum[column] += block_sum[column];
      dot[column] += block_dot[column];
    }
  }
}

template <typename Kind>
void reduce(const void* grad, const void* x, const void* result, void* masked, int64_t rows, int64_t columns,
            ColumnAffine norm, Mask mask, float* scratch, double* sum, double* dot) {
  const auto pass = mask == Mask::none         ? reduce_as<Kind, Mask::none>
                    : mask == Mask::recomputed ? reduce_as<Kind, Mask::recomputed>
                                               : reduce_as<Kind, Mask::result>;
  pass(grad, x, result, masked, rows, columns, norm, scratch, sum, dot);
}

template <typename Kind, bool kRecomputed, bool kStream>
void differentiate_as(const void* grads, const void* source, void* target, int64_t rows, int64_t columns,
                      ColumnAffine norm, ColumnSlope slope) {
  using Stored = typename Kind::Stored;
  const auto* grad = static_cast<const Stored*>(grads);
  const auto* x = static_cast<const Stored*>(source);
  auto* to_x = static_cast<Stored*>(target);
  const int64_t step = rows_a_block(columns);
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t end = smaller(rows, first + step);
    for_tiles(columns, [&](int64_t column, auto width) {
      constexpr int kWidth = width;
      Vectors3 own[kWidth], by[kWidth];
      for (int v = 0; v < kWidth; ++v) {
        own[v] = at(norm, column + v * kLanes);
        by[v] = at(slope, column + v * kLanes);
      }
      for (int64_t row = first; row < end; ++row)
        for (int v = 0; v < kWidth; ++v) {
          const int64_t here = row * columns + column + v * kLanes;
          prefetch(x + here);
          prefetch(grad + here);
          const Floats value = load<Kind>(x + here);
          Floats g = load<Kind>(grad + here);
          if constexpr (kRecomputed) g = unless_negative(g, normalised(value, own[v]));
          put<Kind, kStream>(to_x + here, g * by[v].a + (value - own[v].a) * by[v].b + by[v].c);
        }
    });
  }
}

template <typename Kind>
void differentiate(const void* grad, const void* x, void* to_x, int64_t rows, int64_t columns, ColumnAffine norm,
                   ColumnSlope slope, Mask mask, bool past_caches) {
  const bool recomputed = mask == Mask::recomputed, streams = past_caches && is_aligned(to_x);
  const auto pass =
      streams ? (recomputed ? differentiate_as<Kind, true, true> : differentiate_as<Kind, false, true>)
              : (recomputed ? differentiate_as<Kind, true, false> : differentiate_as<Kind, false, false>);
  pass(grad, x, to_x, rows, columns, norm, slope);
  if (streams) finish_streaming();
}

template <typename Kind>
constexpr Passes passes_of() {
  return {moments<Kind>, normalise<Kind>, reduce<Kind>, differentiate<Kind>};
}

}  // namespace

extern const Passes SLIMKERN_JOIN(passes_, SLIMKERN_ISA)[3];
const Passes SLIMKERN_JOIN(passes_, SLIMKERN_ISA)[3] = {passes_of<Float32>(), passes_of<Bfloat16>(),
                                                        passes_of<Float16>()};

}  // namespace slimkern::cpu
