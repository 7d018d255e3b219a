#pragma once

// A few stored weights, parts of them, and what packing and summing must give.

#include <cstdint>
#include <random>
#include <vector>

#include "common/rotation.h"
#include "slabs.h"

// [rows, columns, taps] as plain numbers, stored with the columns or with the taps side by side.
struct TrueWeight {
  int64_t rows, columns, taps;
  bool columns_first;
  std::vector<double> values;

  slimkern::Layout layout() const {
    return columns_first ? slimkern::Layout{columns * taps, 1, columns} : slimkern::Layout{columns * taps, taps, 1};
  }
};

struct TruePart {
  int64_t weight, rows, columns, out_offset, in_offset;

  // Calls body(value of the packed part, value of the stored weight).
  template <typename Body>
  void for_values(const TrueWeight& weight, const Body& body) const {
    for (int64_t row = 0, value = 0; row < rows; ++row)
      for (int64_t tap = 0; tap < weight.taps; ++tap)
        for (int64_t column = 0; column < columns; ++column)
          body(value++, weight.layout().at((row + out_offset) % weight.rows, (column + in_offset) % weight.columns, tap));
  }

  int64_t count(const TrueWeight& weight) const { return rows * columns * weight.taps; }

  std::vector<double> packed(const TrueWeight& weight) const {
    std::vector<double> result(count(weight));
    for_values(weight, [&](int64_t value, int64_t stored) { result[value] = weight.values[stored]; });
    return result;
  }

  void add_to(const TrueWeight& weight, const std::vector<double>& grads, std::vector<double>& total) const {
    for_values(weight, [&](int64_t value, int64_t stored) { total[stored] += grads[value]; });
  }
};

struct Packing {
  std::vector<TrueWeight> weights;
  std::vector<TruePart> parts;
};

inline std::vector<Packing> packings(std::mt19937& random) {
  std::vector<Packing> result;
  for (bool columns_first : {false, true}) {
    const auto weight = [&](int64_t rows, int64_t columns, int64_t taps) {
      return TrueWeight{rows, columns, taps, columns_first, drawn(random, rows * columns * taps)};
    };
    result.push_back({{weight(16, 32, 9), weight(5, 3, 1)},
                      {{0, 4, 8, 12, 24}, {0, 8, 16, 12, 24}, {0, 16, 32, 12, 24}, {1, 5, 2, 3, 2}}});
    result.push_back({{weight(17, 33, 9), weight(2, 2, 1), weight(1, 2049, 1)},
                      {{2, 1, 2048, 0, 2000}, {0, 9, 17, 16, 32}, {0, 17, 33, 1, 5}, {0, 9, 17, 16, 32}}});
    result.push_back({{weight(64, 64, 1)}, {{0, 64, 64, 16, 16}, {0, 48, 48, 16, 16}}});
  }
  return result;
}
