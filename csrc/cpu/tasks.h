#pragma once

#include <cstring>
#include <vector>

#include "cpu/fold.h"
#include "cpu/passes.h"

namespace slimkern::cpu {

// Rows of one slab's fold that one thread works on. The values left over by the fold are a row of their own, shorter
// than the others.
struct Task {
  int64_t slab;
  int64_t first;
  int64_t rows;
  int64_t values;
};

// The tasks of all slabs, slab after slab. They depend on shapes alone, and so do all sums.
struct Tasks {
  std::vector<Fold> folds;
  std::vector<Task> list;
  std::vector<int64_t> starts;   // of each slab's tasks in the list, and their number
  std::vector<int64_t> columns;  // before each task

  template <typename Slabs>
  explicit Tasks(const Slabs& slabs) : starts{0}, columns{0} {
    for (const auto& slab : slabs) {
      const Fold own = fold(slab.pixels, slab.channels);
      const int64_t place = static_cast<int64_t>(folds.size()), step = rows_a_task(own);
      for (int64_t first = 0; first < own.rows; first += step) {
        const int64_t rows = std::min(step, own.rows - first);
        list.push_back({place, first, rows, rows * own.columns});
      }
      if (own.rest) list.push_back({place, own.rows, 1, own.rest});
      folds.push_back(own);
      starts.push_back(static_cast<int64_t>(list.size()));
      while (columns.size() <= list.size()) columns.push_back(columns.back() + own.columns);
    }
  }

  const Fold& fold_of(const Task& task) const { return folds[task.slab]; }

  bool is_short(const Task& task) const { return task.values < task.rows * fold_of(task).columns; }

  // Calls body(column, count of values) for all that was computed of one slab: as many neighbouring columns as it has
  // channels, from that one on, are of so many values each.
  template <typename Body>
  void each_part(int64_t slab, const Body& body) const {
    for (int64_t place = starts[slab]; place < starts[slab + 1]; ++place) {
      const int64_t whole = is_short(list[place]) ? list[place].values : folds[slab].columns;
      for (int64_t column = 0; column < whole; column += folds[slab].channels)
        body(columns[place] + column, list[place].rows);
    }
  }
};

// One task's stretch of a tensor. A short row is copied to and from a whole one, whose other values are zeros.
class Stretch {
 public:
  Stretch(const Tasks& tasks, const Task& task, Element element, const void* tensor, bool read = true)
      : bytes_(task.values * bytes_of(element)) {
    if (!tensor) return;
    const int64_t columns = tasks.fold_of(task).columns;
    start_ = static_cast<char*>(const_cast<void*>(tensor)) + task.first * columns * bytes_of(element);
    if (!tasks.is_short(task)) return;
    whole_.resize(columns * bytes_of(element));
    if (read) std::memcpy(whole_.data(), start_, bytes_);
  }

  const void* get() const { return whole_.empty() ? start_ : whole_.data(); }
  void* get() { return whole_.empty() ? start_ : whole_.data(); }

  void write() const {
    if (!whole_.empty()) std::memcpy(start_, whole_.data(), bytes_);
  }

 private:
  int64_t bytes_;
  char* start_ = nullptr;
  std::vector<char> whole_;
};

// Three vectors of floats for the columns of each slab, repeated for every pixel that its fold puts into a row.
class ColumnTable {
 public:
  explicit ColumnTable(const Tasks& tasks) : starts_{0} {
    for (const Fold& own : tasks.folds) starts_.push_back(starts_.back() + 3 * own.columns);
    values_.resize(starts_.back());
  }

  void set(const Tasks& tasks, int64_t slab, int64_t channel, float a, float b, float c) {
    const Fold& own = tasks.folds[slab];
    for (int64_t column = channel; column < own.columns; column += own.channels) {
      float* here = values_.data() + starts_[slab] + column;
      here[0] = a;
      here[own.columns] = b;
      here[2 * own.columns] = c;
    }
  }

  template <typename Columns>
  Columns of(const Tasks& tasks, int64_t slab) const {
    const float* here = values_.data() + starts_[slab];
    const int64_t columns = tasks.folds[slab].columns;
    return {here, here + columns, here + 2 * columns};
  }

 private:
  std::vector<int64_t> starts_;
  std::vector<float> values_;
};

}  // namespace slimkern::cpu
