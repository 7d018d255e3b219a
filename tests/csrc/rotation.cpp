// The arithmetic of parts and heads that kernels on both devices rest on: rotated channels, tables of parts, logarithms
// of sums.

#include <cmath>
#include <vector>

#include "check.h"
#include "common/cross_entropy.h"
#include "common/part_table.h"
#include "common/rotation.h"

using namespace slimkern;

namespace {

void channels_and_positions_are_inverse(int64_t total) {
  for (int64_t offset = 0; offset < total; ++offset) {
    std::vector<int> seen(total);
    for (int64_t position = 0; position < total; ++position) {
      const int64_t channel = channel_of(position, offset, total);
      CHECK(channel == (position + offset) % total, "%ld of %ld at %ld", long(position), long(total), long(offset));
      CHECK(position_of(channel, offset, total) == position, "channel %ld", long(channel));
      ++seen.at(channel);
    }
    for (int count : seen) CHECK(count == 1, "%d positions", count);
    for (int64_t positions = 1; positions <= total; ++positions) {
      const int64_t head = before_wrap(positions, offset, total);
      CHECK(head > 0 && head <= positions, "%ld before the wrap", long(head));
      CHECK(channel_of(head - 1, offset, total) == offset + head - 1, "the last before the wrap");
      CHECK(head == positions || channel_of(head, offset, total) == 0, "the first after the wrap");
    }
  }
}

void vectors_are_kept_whole(int64_t lanes, int64_t columns, int64_t in_offset, int64_t total) {
  bool whole = columns % lanes == 0;
  for (int64_t column = 0; column + lanes <= columns && whole; column += lanes) {
    const int64_t channel = channel_of(column, in_offset, total);
    whole = channel % lanes == 0 && channel + lanes <= total;
  }
  CHECK(whole || !keeps_vectors(lanes, columns, in_offset, total), "%ld columns at %ld of %ld", long(columns),
        long(in_offset), long(total));
}

void every_block_finds_its_row() {
  struct Row {
    int32_t first_block;
  };
  for (const std::vector<int32_t>& counts : {std::vector<int32_t>{1}, {3, 1, 1, 7}, {2, 0, 5}, {1, 1, 1, 1, 1}}) {
    std::vector<Row> rows;
    std::vector<int32_t> owners;
    for (size_t row = 0; row < counts.size(); ++row) {
      rows.push_back({static_cast<int32_t>(owners.size())});
      owners.insert(owners.end(), counts[row], static_cast<int32_t>(row));
    }
    for (size_t block = 0; block < owners.size(); ++block)
      CHECK(row_holding(rows.data(), static_cast<int32_t>(rows.size()), block) == owners[block], "block %zu", block);
  }
}

void values_lie_row_by_tap_by_column() {
  uint32_t value = 0;
  for (int32_t row = 0; row < 3; ++row)
    for (int32_t tap = 0; tap < 9; ++tap)
      for (int32_t column = 0; column < 5; ++column, ++value) {
        const ValuePlace place = value_place(value, 9, 5);
        CHECK(place.row == row && place.tap == tap && place.column == column, "value %u", value);
      }
}

void log_sums(const std::vector<float>& logits) {
  const int64_t count = static_cast<int64_t>(logits.size());
  double top = -INFINITY, sum = 0;
  for (float logit : logits) top = std::max(top, double(logit));
  for (float logit : logits) sum += std::exp(logit - top);
  const double truth = top + std::log(sum);
  for (int64_t parts : {1, 2, 3, 32}) {
    LogSum all;
    for (int64_t part = 0; part < parts; ++part) all = merged(all, log_sum(logits.data(), part, count, parts));
    const double given = double(all.top) + std::log(double(all.sum));
    CHECK(std::abs(given - truth) <= 1e-6 * std::max(1.0, std::abs(truth)), "%g is not %g", given, truth);
    double slopes = 0;
    for (size_t place = 0; place < logits.size(); ++place) slopes += cross_entropy_slope(all, logits[place], !place);
    CHECK(std::abs(slopes) < 1e-5, "slopes add up to %g", slopes);
    CHECK(cross_entropy(all, logits[0]) >= 0, "a negative loss");
  }
}

void log_sums_of_extremes() {
  const LogSum none;
  CHECK(merged(none, none).sum == 0, "of nothing");
  const float far_apart[] = {1e4f, -1e4f};
  const LogSum all = log_sum(far_apart, 0, 2, 1);
  CHECK(cross_entropy(all, 1e4f) == 0 && cross_entropy(all, -1e4f) == 2e4f, "%g", cross_entropy(all, -1e4f));
  const float unknown[] = {NAN, 0.0f};
  for (int64_t first : {0, 1})
    CHECK(std::isnan(cross_entropy(merged(log_sum(unknown, first, first + 1, 1), log_sum(unknown, 1 - first, 2 - first, 1)), 0)),
          "not a number is lost");
}

}  // namespace

int main() {
  for (int64_t total : {1, 2, 3, 8, 17}) channels_and_positions_are_inverse(total);
  for (int64_t lanes : {1, 4, 8})
    for (int64_t total = 1; total <= 24; ++total)
      for (int64_t columns = 1; columns <= total; ++columns)
        for (int64_t offset = 0; offset < total; ++offset) vectors_are_kept_whole(lanes, columns, offset, total);
  every_block_finds_its_row();
  values_lie_row_by_tap_by_column();
  log_sums({0});
  log_sums({1, 2, 3, -4, 0.5f});
  log_sums({1e4f, 9999, -1e4f, 0});
  log_sums({-1e4f, -1e4f});
  log_sums_of_extremes();
}
