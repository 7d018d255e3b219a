#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/switchable_batch_norm.cuh"

namespace slimkern::cuda {

constexpr int kMostHeads = 32;  // in one launch: kernel arguments are at most 4 KB
constexpr int kHeadThreads = 256;

// One slab [images, pixels, channels], its means [images, channels] and its logits [images, classes]. The backward pass
// reads the means and logits; `to_logits` is null unless the logits have gradients besides that of the loss.
struct HeadRow {
  const void* x;
  float* pooled;
  float* logits;
  const float* to_logits;
  void* to_x;
  int32_t channels;
};

// The weight [classes, features], of which a slab's channel j meets feature (j + in_offset) mod features; the labels
// [images], in the classes [first, last) that compete in the loss.
struct HeadTable {
  HeadRow rows[kMostHeads];
  int32_t count;
  int32_t images;
  int32_t pixels;
  int32_t classes;
  int32_t features;
  int32_t in_offset;
  int32_t first;
  int32_t last;
  bool wide;  // slabs are read and written 16 bytes at a time
  const float* weight;
  const float* bias;  // or null
  const int64_t* labels;
};

// Pooled features, logits, and the loss of each image [rows, images]: NaN where its label is outside the range.
void launch_heads(Element element, const HeadTable& table, float* image_losses, cudaStream_t stream);

// The mean of each row's images.
void launch_mean_losses(const HeadTable& table, const float* image_losses, float* losses, cudaStream_t stream);

// The gradients of the logits [rows, images, classes] and, where wanted, of the slabs.
void launch_slopes_of_heads(Element element, const HeadTable& table, const float* to_losses, float* slopes,
                            cudaStream_t stream);

// The gradients of the weight and the bias, null if unwanted; added to what is there if `accumulate`.
void launch_head_parameters(const HeadTable& table, const float* slopes, bool accumulate, float* to_weight,
                            float* to_bias, cudaStream_t stream);

}  // namespace slimkern::cuda
