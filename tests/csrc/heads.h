#pragma once

// The heads of a few slabs in doubles: what kernels must give.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "slabs.h"

struct HeadCase {
  int64_t images, pixels, classes, features, in_offset, first, last;
  std::vector<int64_t> channels;
  bool through_logits;  // which then have gradients of their own
};

inline std::vector<HeadCase> head_cases() {
  return {{5, 6, 7, 16, 12, 0, 7, {4, 8, 12, 16}, false}, {5, 6, 7, 16, 8, 2, 5, {8, 16}, true},
          {1, 1, 1, 1, 0, 0, 1, {1}, true},               {9, 4, 40, 34, 20, 3, 39, {17, 34}, false},
          {2, 2, 3, 2049, 2000, 0, 3, {3, 2049}, true},   {17, 4, 12, 64, 48, 0, 12, {16, 64}, true}};
}

struct TrueHeads {
  HeadCase sizes;
  std::vector<double> weight, bias, to_losses, losses, to_weight, to_bias;
  std::vector<int64_t> labels;
  std::vector<std::vector<double>> x, pooled, logits, to_logits, to_x;

  TrueHeads(const HeadCase& own, std::mt19937& random)
      : sizes(own),
        weight(drawn(random, own.classes * own.features)),
        bias(drawn(random, own.classes)),
        to_losses(drawn(random, own.channels.size())),
        losses(own.channels.size()),
        to_weight(weight.size()),
        to_bias(bias.size()) {
    for (int64_t image = 0; image < own.images; ++image) labels.push_back(own.first + image % (own.last - own.first));
    for (size_t slab = 0; slab < own.channels.size(); ++slab) compute(slab, random);
  }

 private:
  void compute(size_t slab, std::mt19937& random) {
    const auto& [images, pixels, classes, features, in_offset, first, last, channels, through_logits] = sizes;
    const int64_t own = channels[slab];
    x.push_back(drawn(random, images * pixels * own));
    pooled.emplace_back(images * own);
    logits.emplace_back(images * classes);
    to_logits.push_back(drawn(random, images * classes));
    to_x.emplace_back(images * pixels * own);
    for (int64_t n = 0; n < images; ++n) {
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < own; ++c) pooled[slab][n * own + c] += x[slab][(n * pixels + p) * own + c] / pixels;
      double top = -INFINITY, sum = 0;
      for (int64_t k = 0; k < classes; ++k) {
        double& logit = logits[slab][n * classes + k];
        logit = bias[k];
        for (int64_t c = 0; c < own; ++c)
          logit += weight[k * features + (c + in_offset) % features] * pooled[slab][n * own + c];
        if (first <= k && k < last) top = std::max(top, logit);
      }
      for (int64_t k = first; k < last; ++k) sum += std::exp(logits[slab][n * classes + k] - top);
      losses[slab] += (top + std::log(sum) - logits[slab][n * classes + labels[n]]) / images;
      for (int64_t k = 0; k < classes; ++k) {
        double slope = through_logits ? to_logits[slab][n * classes + k] : 0;
        if (first <= k && k < last)
          slope += (std::exp(logits[slab][n * classes + k] - top) / sum - (k == labels[n])) * to_losses[slab] / images;
        to_bias[k] += slope;
        for (int64_t c = 0; c < own; ++c) {
          const int64_t stored = k * features + (c + in_offset) % features;
          to_weight[stored] += slope * pooled[slab][n * own + c];
          for (int64_t p = 0; p < pixels; ++p) to_x[slab][(n * pixels + p) * own + c] += slope * weight[stored] / pixels;
        }
      }
    }
  }
};
