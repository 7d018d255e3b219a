#pragma once

#include <cstdint>

namespace slimkern::cpu {

enum class Element { float32, bfloat16, float16 };

inline int64_t bytes_of(Element element) { return element == Element::float32 ? 4 : 2; }

// Vectors [columns] that a slab's rows are normalised by.
struct ColumnAffine {
  const float* mean;
  const float* scale;
  const float* shift;
};

// Vectors [columns] of the input's gradient.
struct ColumnSlope {
  const float* slope;
  const float* tilt;
  const float* level;
};

// Where the ReLU's mask comes from.
enum class Mask { none, recomputed, result };

// The loops over rows by columns, compiled once for each instruction set. Columns are a multiple of kColumnUnit;
// pointers need no alignment; scratch holds 3 * columns values;
// results too large to be found in the caches again are best written past them.
struct Passes {
  // Mean and sum of squared deviations of each column.
  void (*moments)(const void* x, int64_t rows, int64_t columns, float* scratch, double* mean, double* squares);

  // result = (x - mean) * scale + shift, plus `residual` unless null, clamped at zero if `relu`.
  void (*normalise)(const void* x, const void* residual, void* result, int64_t rows, int64_t columns,
                    ColumnAffine norm, bool relu, bool past_caches);

  // Sums of each column: of the masked gradient, and of its product with x - mean. `masked`, unless null, receives the
  // masked gradient; `result` is read for Mask::result alone.
  void (*reduce)(const void* grad, const void* x, const void* result, void* masked, int64_t rows, int64_t columns,
                 ColumnAffine norm, Mask mask, float* scratch, double* sum, double* dot);

  // to_x = masked grad * slope + (x - mean) * tilt + level, for Mask::none or Mask::recomputed.
  void (*differentiate)(const void* grad, const void* x, void* to_x, int64_t rows, int64_t columns, ColumnAffine norm,
                        ColumnSlope slope, Mask mask, bool past_caches);
};

// The passes of the best instruction set that this machine has.
const Passes& passes(Element element);

// Its name: avx512, avx2 or baseline.
const char* instruction_set();

}  // namespace slimkern::cpu
