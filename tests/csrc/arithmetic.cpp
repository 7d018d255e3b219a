// The arithmetic that kernels on both devices rest on: moments, and which thread works on what.

#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "common/affine.h"
#include "common/moments.h"
#include "common/tiles.h"
#include "cpu/fold.h"

using namespace slimkern;

namespace {

template <typename Real>
void moments_of_parts(double mean, double tolerance) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal(mean, 1.0);
  std::vector<Real> values(10000);
  for (Real& value : values) value = static_cast<Real>(normal(random));
  double sum = 0, squares = 0;
  for (Real value : values) sum += value;
  const double true_mean = sum / values.size();
  for (Real value : values) squares += (value - true_mean) * (value - true_mean);

  Moments<Real> total;
  for (size_t first = 0, length = 1; first < values.size(); first += length, length = length % 97 + 1) {
    Moments<Real> part;
    for (size_t place = first; place < std::min(first + length, values.size()); ++place)
      part = extended(part, values[place]);
    total = merged(total, part);
  }
  CHECK(total.count == values.size(), "%g", static_cast<double>(total.count));
  CHECK(std::abs(total.mean - true_mean) < tolerance * std::max(1.0, mean), "%g", total.mean - true_mean);
  CHECK(std::abs(total.variance() / (squares / values.size()) - 1) < 10 * tolerance, "%g",
        static_cast<double>(total.variance()));
}

void empty_moments_change_nothing() {
  const Moments<float> none, some{3, 2, 1};
  for (const Moments<float>& both : {merged(none, some), merged(some, none)})
    CHECK(both.count == 3 && both.mean == 2 && both.squares == 1, "%g %g %g", both.count, both.mean, both.squares);
  CHECK(merged(none, none).count == 0 && merged(none, none).mean == 0, "empty and empty");
}

void slope_of_a_batch() {
  const Affine norm = affine(3.0f, 4.0f, 0.0, 2.0f, 1.0f);
  CHECK(norm.inverse == 0.5f && norm.scale == 1.0f && norm.shift == 1.0f, "%g", norm.inverse);
  const Slope fixed = slope(norm, false, 8, 5, 7);
  CHECK(fixed.slope == 1.0f && fixed.tilt == 0.0f && fixed.level == 0.0f, "running statistics");
  const Slope own = slope(norm, true, 8, 4, 16);
  CHECK(own.slope == 1.0f && own.tilt == -0.5f && own.level == -0.5f, "%g %g", own.tilt, own.level);
}

// Every value of every slab is some thread's, and nobody else's.
void tiles_cover_slabs_once(const std::vector<std::pair<int64_t, int64_t>>& shapes, int32_t steps) {
  struct Row {
    Tiling tiling;
  };
  std::vector<Row> rows;
  int64_t all = 0;
  for (const auto& [pixels, vectors] : shapes) {
    rows.push_back({tiling(pixels, vectors, steps, all)});
    all += blocks(rows.back().tiling);
  }
  std::vector<std::vector<int>> seen;
  for (const auto& [pixels, vectors] : shapes) seen.emplace_back(pixels * vectors);
  for (int64_t block = 0; block < all; ++block) {
    const int32_t row = row_of(rows, static_cast<int32_t>(rows.size()), block);
    const auto [pixels, vectors] = shapes[row];
    for (int32_t thread = 0; thread < kThreads; ++thread) {
      const Place place = place_of(rows[row].tiling, pixels, block, thread);
      CHECK(place.chunk < rows[row].tiling.chunks, "chunk %d", place.chunk);
      if (place.vector >= vectors) continue;
      for (int64_t pixel = place.pixel; pixel < place.end; pixel += place.stride)
        ++seen[row].at(pixel * vectors + place.vector);
    }
  }
  for (size_t row = 0; row < seen.size(); ++row)
    for (size_t place = 0; place < seen[row].size(); ++place)
      CHECK(seen[row][place] == 1, "value %zu of row %zu: %d threads", place, row, seen[row][place]);
}

void folds_hold_every_value(int64_t pixels, int64_t channels) {
  const cpu::Fold own = cpu::fold(pixels, channels);
  CHECK(own.columns % cpu::kColumnUnit == 0 && own.columns >= cpu::kColumnsAtOnce, "%ld columns", long(own.columns));
  CHECK(own.columns == own.copies * channels, "%ld columns", long(own.columns));
  CHECK(own.rows * own.columns + own.rest == pixels * channels, "%ld pixels, %ld channels", long(pixels),
        long(channels));
  CHECK(own.rest < own.columns && own.rest % channels == 0, "rest %ld", long(own.rest));
}

}  // namespace

int main() {
  moments_of_parts<double>(0, 1e-12);
  moments_of_parts<double>(1000, 1e-12);
  moments_of_parts<float>(0, 1e-5);
  moments_of_parts<float>(1000, 1e-5);
  empty_moments_change_nothing();
  slope_of_a_batch();
  for (int32_t steps : {1, 4, 16}) {
    tiles_cover_slabs_once({{1, 1}}, steps);
    tiles_cover_slabs_once({{4096, 4}, {4096, 8}, {4096, 12}, {4096, 16}}, steps);
    tiles_cover_slabs_once({{37, 3}, {5, 2049}, {1000, 17}}, steps);
  }
  for (int64_t channels : {1, 2, 3, 7, 16, 17, 24, 48, 64, 100, 512, 2049})
    for (int64_t pixels : {1, 2, 15, 16, 63, 64, 65, 1000}) folds_hold_every_value(pixels, channels);
}
