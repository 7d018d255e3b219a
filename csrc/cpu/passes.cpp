// Compiled once for each instruction set, with SLIMKERN_ISA naming it, and without contraction of products and sums:
// the backward pass must find the very values that the forward pass clamped.

#include "cpu/passes.h"

#include <type_traits>

#include "cpu/vector.h"

namespace slimkern::cpu {
namespace {

constexpr int kVectorsAtOnce = 4;

// Rows that are summed up in single precision, before the sums are added to those in double precision.
constexpr int64_t kRowsASum = 256;

// Rows whose mean is near enough to that of all.
constexpr int64_t kRowsAGlance = 16;

// Rows that are gone through tile by tile, while those of the next block are asked for: so few that memory is read much
// in the order in which it lies, however many columns there are, and that the first-level cache holds both.
// Nothing of the standard library's templates is used here: the linker keeps one copy of those, which may be of the
// wrong instruction set.
inline int64_t rows_a_block(int64_t columns) {
  constexpr int64_t kValues = 1 << 9;
  const int64_t rows = kValues / columns;
  return rows < 4 ? 4 : rows;
}

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
void mean_of_rows(const typename Kind::Stored* x, int64_t rows, int64_t columns, float* mean) {
  for_tiles(columns, [&](int64_t column, auto width) {
    constexpr int kWidth = width;
    Floats sums[kWidth] = {};
    for (int64_t row = 0; row < rows; ++row)
      for (int v = 0; v < kWidth; ++v) sums[v] += load<Kind>(x + row * columns + column + v * kLanes);
    for (int v = 0; v < kWidth; ++v) store<Float32>(mean + column + v * kLanes, sums[v] * (1.0f / rows));
  });
}

template <typename Kind>
void moments(const void* source, int64_t rows, int64_t columns, float* scratch, double* mean, double* squares) {
  const auto* x = static_cast<const typename Kind::Stored*>(source);
  float *near = scratch, *offs = scratch + columns, *squared = scratch + 2 * columns;
  const int64_t step = rows_a_block(columns);
  for (int64_t start = 0; start < rows; start += kRowsASum) {
    // Sums of large values are inexact: only what is off from a value near the mean is summed up. That value is the
    // mean of all earlier rows, so what it is off by is part of the variance, and no error can outgrow that.
    const int64_t stop = smaller(rows, start + kRowsASum), count = stop - start;
    if (start) {
      for (int64_t column = 0; column < columns; ++column) near[column] = static_cast<float>(mean[column]);
    } else {
      mean_of_rows<Kind>(x, smaller(kRowsAGlance, count), columns, near);
    }
    for (int64_t column = 0; column < 2 * columns; ++column) offs[column] = 0.0f;
    for (int64_t first = start; first < stop; first += step) {
      const int64_t end = smaller(stop, first + step);
      for_tiles(columns, [&](int64_t column, auto width) {
        constexpr int kWidth = width;
        Floats own_near[kWidth], own_offs[kWidth], own_squared[kWidth];
        for (int v = 0; v < kWidth; ++v) {
          own_near[v] = floats(near + column + v * kLanes);
          own_offs[v] = floats(offs + column + v * kLanes);
          own_squared[v] = floats(squared + column + v * kLanes);
        }
        for (int64_t row = first; row < end; ++row)
          for (int v = 0; v < kWidth; ++v) {
            const auto* here = x + row * columns + column + v * kLanes;
            prefetch(here + step * columns);
            const Floats off = load<Kind>(here) - own_near[v];
            own_offs[v] += off;
            own_squared[v] += off * off;
          }
        for (int v = 0; v < kWidth; ++v) {
          store<Float32>(offs + column + v * kLanes, own_offs[v]);
          store<Float32>(squared + column + v * kLanes, own_squared[v]);
        }
      });
    }
    // All columns have seen equally many values, so the shares of `merged` are the same for all.
    const double share = static_cast<double>(count) / (start + count), inverse = 1.0 / count;
    for (int64_t column = 0; column < columns; ++column) {
      const double beside = offs[column] * inverse;
      const double own_mean = near[column] + beside;
      const double rounded = squared[column] - beside * offs[column];
      const double own_squares = rounded < 0 ? 0 : rounded;
      const double apart = start ? own_mean - mean[column] : 0.0;
      mean[column] = start ? mean[column] + apart * share : own_mean;
      squares[column] = (start ? squares[column] : 0.0) + own_squares + apart * apart * (start * share);
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
          prefetch(x + here + step * columns);
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
  float *sums = scratch, *dots = scratch + columns;
  const int64_t step = rows_a_block(columns);
  for (int64_t column = 0; column < columns; ++column) sum[column] = dot[column] = 0.0;
  for (int64_t start = 0; start < rows; start += kRowsASum) {
    const int64_t stop = smaller(rows, start + kRowsASum);
    for (int64_t column = 0; column < 2 * columns; ++column) sums[column] = 0.0f;
    for (int64_t first = start; first < stop; first += step) {
      const int64_t end = smaller(stop, first + step);
      for_tiles(columns, [&](int64_t column, auto width) {
        constexpr int kWidth = width;
        Floats own_sums[kWidth], own_dots[kWidth];
        Vectors3 own[kWidth];
        for (int v = 0; v < kWidth; ++v) {
          own[v] = at(norm, column + v * kLanes);
          own_sums[v] = floats(sums + column + v * kLanes);
          own_dots[v] = floats(dots + column + v * kLanes);
        }
        for (int64_t row = first; row < end; ++row)
          for (int v = 0; v < kWidth; ++v) {
            const int64_t here = row * columns + column + v * kLanes;
            prefetch(x + here + step * columns);
            prefetch(grad + here + step * columns);
            const Floats value = load<Kind>(x + here);
            Floats g = load<Kind>(grad + here);
            if constexpr (kMask == Mask::recomputed) g = unless_negative(g, normalised(value, own[v]));
            if constexpr (kMask == Mask::result) g = unless_negative(g, load<Kind>(result + here));
            if (masked) store<Kind>(masked + here, g);
            own_sums[v] += g;
            own_dots[v] += g * (value - own[v].a);
          }
        for (int v = 0; v < kWidth; ++v) {
          store<Float32>(sums + column + v * kLanes, own_sums[v]);
          store<Float32>(dots + column + v * kLanes, own_dots[v]);
        }
      });
    }
    for (int64_t column = 0; column < columns; ++column) {
      sum[column] += sums[column];
      dot[column] += dots[column];
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
          prefetch(x + here + step * columns);
          prefetch(grad + here + step * columns);
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
