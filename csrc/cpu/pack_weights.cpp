#include "cpu/pack_weights.h"

#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/stretches.h"

namespace slimkern::cpu {
namespace {

struct RowsOfWeight {
  const PartedWeight& weight;
  int64_t first;
  int64_t end;
};

// Calls body(rows) for all rows of all weights, on several threads; a stored row is one thread's alone.
template <typename Body>
void for_rows(const std::vector<PartedWeight>& weights, const Body& body) {
  constexpr int64_t kValuesATask = 1 << 15;
  std::vector<RowsOfWeight> tasks;
  for (const PartedWeight& weight : weights) {
    const int64_t step = std::max<int64_t>(1, kValuesATask / (weight.columns * weight.taps));
    for (int64_t first = 0; first < weight.rows; first += step)
      tasks.push_back({weight, first, std::min(first + step, weight.rows)});
  }
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t first, int64_t end) {
    for (int64_t place = first; place < end; ++place) body(tasks[place]);
  });
}

// Calls body(value of the packed part, column and tap of the weight, count) for the stretches of one stored row.
template <typename Body>
void for_stretches(const PartedWeight& weight, const PackedPart& part, int64_t row, const Body& body) {
  const int64_t packed_row = position_of(row, part.out_offset, weight.rows);
  if (packed_row >= part.rows) return;
  const int64_t head = before_wrap(part.columns, part.in_offset, weight.columns);
  for (int64_t tap = 0; tap < weight.taps; ++tap) {
    const int64_t start = (packed_row * weight.taps + tap) * part.columns;
    body(start, part.in_offset, tap, head);
    if (head < part.columns) body(start + head, 0, tap, part.columns - head);
  }
}

bool is_read(const PartedWeight& weight, int64_t row) {
  return std::any_of(weight.parts.begin(), weight.parts.end(), [&](const PackedPart& part) {
    return position_of(row, part.out_offset, weight.rows) < part.rows;
  });
}

// Every stored row is cast and turned into [taps, columns] once; its parts are then plain copies.
void pack_rows(Element element, const RowsOfWeight& task) {
  const PartedWeight& weight = task.weight;
  const Layout& layout = weight.layout;
  const bool in_place = element == Element::float32 && layout.column == 1;
  const int64_t bytes = bytes_of(element), tap_values = in_place ? layout.tap : weight.columns;
  std::vector<char> scratch(in_place ? 0 : weight.taps * weight.columns * bytes);
  for (int64_t row = task.first; row < task.end; ++row) {
    if (!is_read(weight, row)) continue;
    const float* stored = weight.data + layout.at(row, 0, 0);
    for (int64_t tap = 0; tap < weight.taps && !in_place; ++tap)
      stretches(element).narrow(stored + layout.at(0, 0, tap), layout.column,
                                scratch.data() + tap * weight.columns * bytes, weight.columns);
    const char* turned = in_place ? reinterpret_cast<const char*>(stored) : scratch.data();
    for (const PackedPart& part : weight.parts)
      for_stretches(weight, part, row, [&](int64_t to, int64_t column, int64_t tap, int64_t count) {
        std::memcpy(static_cast<char*>(part.packed) + to * bytes, turned + (tap * tap_values + column) * bytes,
                    count * bytes);
      });
  }
}

void sum_rows(Element element, const RowsOfWeight& task) {
  const PartedWeight& weight = task.weight;
  const Layout& layout = weight.layout;
  const int64_t bytes = bytes_of(element);
  std::vector<float> sums(weight.taps * weight.columns);
  for (int64_t row = task.first; row < task.end; ++row) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (const PackedPart& part : weight.parts)
      for_stretches(weight, part, row, [&](int64_t from, int64_t column, int64_t tap, int64_t count) {
        stretches(element).add(static_cast<const char*>(part.packed) + from * bytes,
                               sums.data() + tap * weight.columns + column, count);
      });
    float* stored = weight.data + layout.at(row, 0, 0);
    if (layout.column == 1) {
      for (int64_t tap = 0; tap < weight.taps; ++tap)
        std::memcpy(stored + layout.at(0, 0, tap), sums.data() + tap * weight.columns, weight.columns * sizeof(float));
    } else {
      for (int64_t column = 0; column < weight.columns; ++column)
        for (int64_t tap = 0; tap < weight.taps; ++tap)
          stored[layout.at(0, column, tap)] = sums[tap * weight.columns + column];
    }
  }
}

}  // namespace

void pack_weights(Element element, const std::vector<PartedWeight>& weights) {
  for_rows(weights, [&](const RowsOfWeight& task) { pack_rows(element, task); });
}

void sum_parts(Element element, const std::vector<PartedWeight>& weights) {
  for_rows(weights, [&](const RowsOfWeight& task) { sum_rows(element, task); });
}

}  // namespace slimkern::cpu
