// An operator whose allocation fails where its size is negative: libtorch's C functions return a code then.

#include <torch/csrc/stable/library.h>

#include "common/arguments.h"

namespace {

slimkern::Tensor allocate(const slimkern::Tensor& like, int64_t size) {
  return slimkern::empty({size}, {1}, aoti_torch_dtype_float32(), like);
}

}  // namespace

STABLE_TORCH_LIBRARY(slimkern_libtorch_calls, library) { library.def("allocate(Tensor like, int size) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(slimkern_libtorch_calls, CPU, library) {
  library.impl("allocate", TORCH_BOX(&allocate));
}
