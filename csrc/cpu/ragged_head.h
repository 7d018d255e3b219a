#pragma once

#include <cstdint>
#include <vector>

#include "cpu/passes.h"

namespace slimkern::cpu {

// What all heads of a call share: the weight [classes, features], of which a slab's channel j meets feature
// (j + in_offset) mod features; the labels [images], in the classes [first, last) that compete in the loss.
struct Head {
  Element element;
  int64_t images;
  int64_t pixels;
  int64_t classes;
  int64_t features;
  const float* weight;
  int64_t in_offset;
  const int64_t* labels;
  int64_t first;
  int64_t last;
};

// One slab [images, pixels, channels], its means [images, channels] and its logits [images, classes].
struct HeadForward {
  int64_t channels;
  const void* x;
  float* pooled;
  float* logits;
};

// Writes pooled features, logits, and each slab's mean loss. `bias` [classes] may be null.
void head_forward(const Head& head, const float* bias, const std::vector<HeadForward>& slabs, float* losses);

struct HeadBackward {
  int64_t channels;
  const float* pooled;
  const float* logits;
  const float* to_logits;  // the gradient that they have besides that of the loss, or null
  void* to_x;              // null if unwanted
};

// The gradients of a forward pass, given those of the losses. `to_weight` and `to_bias` are null if unwanted.
void head_backward(const Head& head, const std::vector<HeadBackward>& slabs, const float* to_losses, float* to_weight,
                   float* to_bias);

}  // namespace slimkern::cpu
