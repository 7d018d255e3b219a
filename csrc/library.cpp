// The operators that Python calls where compiled kernels serve; schema, fake and autograd of the public operators stay
// in Python. Written against libtorch's stable ABI, so that one build serves any PyTorch from 2.11 on.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(slimkern_native, library) {
  library.def(
      "batch_norm_forward(Tensor[] slabs, Tensor? weight, Tensor? bias, int[] offsets, Tensor? running_mean, "
      "Tensor? running_var, float eps, Tensor[] residuals, bool relu, Tensor? moments=None) -> "
      "(Tensor[], Tensor, Tensor)");
  library.def(
      "batch_norm_backward(Tensor[] grads, Tensor[] slabs, Tensor[] results, Tensor? weight, Tensor? bias, "
      "int[] offsets, Tensor mean, Tensor variance, bool batch_statistics, float eps, bool relu, bool to_slabs, "
      "Tensor(a!)? to_weight, Tensor(b!)? to_bias) -> (Tensor[], Tensor[])");
  library.def("pack_weights(Tensor[] weights, int[] parts, Tensor(a!) packed) -> ()");
  library.def("pack_weights_backward(Tensor packed, int[] parts, Tensor(a!)[] to_weights) -> ()");
  library.def(
      "ragged_head(Tensor[] slabs, Tensor weight, Tensor? bias, Tensor labels, int in_offset, int first, int last) -> "
      "(Tensor, Tensor[], Tensor)");
  library.def(
      "ragged_head_backward(Tensor to_losses, Tensor[] to_logits, Tensor[] logits, Tensor pooled, Tensor weight, "
      "Tensor labels, int in_offset, int first, int last, int[] channels, Tensor(a!)[] to_slabs, "
      "Tensor(b!)? to_weight, Tensor(c!)? to_bias) -> ()");
  library.def("winograd_scatter(Tensor images) -> Tensor");
  library.def(
      "winograd_gather(Tensor products, Tensor bias, Tensor? added, int images, int height, int width) -> Tensor");
}
