#include "cpu/ragged_head.h"

#include <algorithm>
#include <cstring>

#include "common/cross_entropy.h"
#include "common/rotation.h"
#include "cpu/parallel.h"
#include "cpu/stretches.h"

namespace slimkern::cpu {
namespace {

constexpr int64_t kImagesATask = 8;   // share a row of the weight while it is in the cache
constexpr int64_t kClassesATask = 8;  // share a row of features

struct Images {
  int64_t slab;
  int64_t first;
  int64_t end;
};

// Calls body(images) for a few images of one slab after the other, on several threads.
template <typename Body>
void for_images(const Head& head, int64_t slabs, const Body& body) {
  const int64_t tasks = (head.images + kImagesATask - 1) / kImagesATask;
  parallel_for(slabs * tasks, [&](int64_t place, int64_t end) {
    for (; place < end; ++place) {
      const int64_t first = place % tasks * kImagesATask;
      body(Images{place / tasks, first, std::min(first + kImagesATask, head.images)});
    }
  });
}

// The two stretches of a slab's channels that meet neighbouring features.
struct Rotated {
  int64_t head;
  int64_t tail;
  int64_t offset;
};

Rotated rotated(const Head& head, int64_t channels) {
  const int64_t before = before_wrap(channels, head.in_offset, head.features);
  return {before, channels - before, head.in_offset};
}

const float* row_of(const Head& head, int64_t category) { return head.weight + category * head.features; }

void pool(const Head& head, const HeadForward& slab, int64_t image) {
  const int64_t bytes = bytes_of(head.element);
  const char* x = static_cast<const char*>(slab.x) + image * head.pixels * slab.channels * bytes;
  float* pooled = slab.pooled + image * slab.channels;
  std::fill(pooled, pooled + slab.channels, 0.0f);
  for (int64_t pixel = 0; pixel < head.pixels; ++pixel)
    stretches(head.element).add(x + pixel * slab.channels * bytes, pooled, slab.channels);
  for (int64_t channel = 0; channel < slab.channels; ++channel) pooled[channel] /= static_cast<float>(head.pixels);
}

// Rows of floats and their factors, up to as many as are worth adding at once.
class ScaledRows {
 public:
  static constexpr int64_t kMost = 8;

  void add(const float* row, float factor) {
    rows_[count_] = row;
    factors_[count_++] = factor;
    is_zero_ = is_zero_ && factor == 0;
  }

  // Adds their stretches to another; sums of zeros are left out.
  void add_to(int64_t from, float* to, int64_t values) const {
    if (is_zero_) return;
    const float* starts[kMost];
    for (int64_t place = 0; place < count_; ++place) starts[place] = rows_[place] + from;
    stretches(Element::float32).add_scaled(starts, factors_, count_, to, values);
  }

 private:
  const float* rows_[kMost];
  float factors_[kMost];
  int64_t count_ = 0;
  bool is_zero_ = true;
};

// The gradients of one image's logits.
void to_logits(const Head& head, const HeadBackward& slab, float to_loss, int64_t image, float* result) {
  const float* logits = slab.logits + image * head.classes;
  if (slab.to_logits)
    std::copy_n(slab.to_logits + image * head.classes, head.classes, result);
  else
    std::fill(result, result + head.classes, 0.0f);
  const LogSum all = log_sum(logits, head.first, head.last, 1);
  const float scale = to_loss / static_cast<float>(head.images);
  for (int64_t category = head.first; category < head.last; ++category)
    result[category] += cross_entropy_slope(all, logits[category], category == head.labels[image]) * scale;
}

void spread(const Head& head, const HeadBackward& slab, int64_t image, std::vector<float>& to_pooled,
            std::vector<char>& pixel_values) {
  for (float& value : to_pooled) value /= static_cast<float>(head.pixels);
  stretches(head.element).narrow(to_pooled.data(), 1, pixel_values.data(), slab.channels);
  char* to_x = static_cast<char*>(slab.to_x) + image * head.pixels * pixel_values.size();
  for (int64_t pixel = 0; pixel < head.pixels; ++pixel)
    std::memcpy(to_x + pixel * pixel_values.size(), pixel_values.data(), pixel_values.size());
}

// Through the weight and the pooling to the slab, for a few images.
void to_slab(const Head& head, const HeadBackward& slab, const Images& task, const float* slopes) {
  const Rotated own = rotated(head, slab.channels);
  std::vector<std::vector<float>> to_pooled(task.end - task.first, std::vector<float>(slab.channels));
  for (int64_t first = 0; first < head.classes; first += ScaledRows::kMost)
    for (int64_t image = task.first; image < task.end; ++image) {
      ScaledRows rows;
      for (int64_t category = first; category < std::min(first + ScaledRows::kMost, head.classes); ++category)
        rows.add(row_of(head, category), slopes[image * head.classes + category]);
      float* here = to_pooled[image - task.first].data();
      rows.add_to(own.offset, here, own.head);
      rows.add_to(0, here + own.head, own.tail);
    }
  std::vector<char> pixel_values(slab.channels * bytes_of(head.element));
  for (int64_t image = task.first; image < task.end; ++image)
    spread(head, slab, image, to_pooled[image - task.first], pixel_values);
}

// The gradients of a few classes' weights and biases, from all slabs and images in their order.
void to_parameters(const Head& head, const std::vector<HeadBackward>& slabs, const std::vector<float>& slopes,
                   int64_t first, int64_t end, float* to_weight, float* to_bias) {
  std::vector<double> biases(end - first);
  if (to_weight) std::fill(to_weight + first * head.features, to_weight + end * head.features, 0.0f);
  for (size_t place = 0; place < slabs.size(); ++place) {
    const HeadBackward& slab = slabs[place];
    const Rotated own = rotated(head, slab.channels);
    for (int64_t start = 0; start < head.images; start += ScaledRows::kMost)
      for (int64_t category = first; category < end; ++category) {
        ScaledRows rows;
        for (int64_t image = start; image < std::min(start + ScaledRows::kMost, head.images); ++image) {
          const float slope = slopes[(place * head.images + image) * head.classes + category];
          biases[category - first] += slope;
          rows.add(slab.pooled + image * slab.channels, slope);
        }
        if (!to_weight) continue;
        rows.add_to(0, to_weight + category * head.features + own.offset, own.head);
        rows.add_to(own.head, to_weight + category * head.features, own.tail);
      }
  }
  if (to_bias)
    for (int64_t category = first; category < end; ++category)
      to_bias[category] = static_cast<float>(biases[category - first]);
}

}  // namespace

void head_forward(const Head& head, const float* bias, const std::vector<HeadForward>& slabs, float* losses) {
  const auto& dot = stretches(Element::float32).dot;
  std::vector<float> image_losses(slabs.size() * head.images);
  for_images(head, static_cast<int64_t>(slabs.size()), [&](const Images& task) {
    const HeadForward& slab = slabs[task.slab];
    const Rotated own = rotated(head, slab.channels);
    for (int64_t image = task.first; image < task.end; ++image) pool(head, slab, image);
    for (int64_t category = 0; category < head.classes; ++category)
      for (int64_t image = task.first; image < task.end; ++image) {
        const float* pooled = slab.pooled + image * slab.channels;
        const float* row = row_of(head, category);
        slab.logits[image * head.classes + category] =
            dot(pooled, row + own.offset, own.head) + dot(pooled + own.head, row, own.tail) + (bias ? bias[category] : 0);
      }
    for (int64_t image = task.first; image < task.end; ++image) {
      const float* logits = slab.logits + image * head.classes;
      image_losses[task.slab * head.images + image] =
          cross_entropy(log_sum(logits, head.first, head.last, 1), logits[head.labels[image]]);
    }
  });
  for (size_t place = 0; place < slabs.size(); ++place) {
    double sum = 0;
    for (int64_t image = 0; image < head.images; ++image) sum += image_losses[place * head.images + image];
    losses[place] = static_cast<float>(sum / static_cast<double>(head.images));
  }
}

void head_backward(const Head& head, const std::vector<HeadBackward>& slabs, const float* to_losses, float* to_weight,
                   float* to_bias) {
  std::vector<float> slopes(slabs.size() * head.images * head.classes);
  for_images(head, static_cast<int64_t>(slabs.size()), [&](const Images& task) {
    float* own = slopes.data() + task.slab * head.images * head.classes;
    for (int64_t image = task.first; image < task.end; ++image)
      to_logits(head, slabs[task.slab], to_losses[task.slab], image, own + image * head.classes);
    if (slabs[task.slab].to_x) to_slab(head, slabs[task.slab], task, own);
  });
  if (!to_weight && !to_bias) return;
  parallel_for((head.classes + kClassesATask - 1) / kClassesATask, [&](int64_t place, int64_t end) {
    for (; place < end; ++place)
      to_parameters(head, slabs, slopes, place * kClassesATask, std::min((place + 1) * kClassesATask, head.classes),
                    to_weight, to_bias);
  });
}

}  // namespace slimkern::cpu
