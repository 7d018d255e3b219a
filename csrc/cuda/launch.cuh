#pragma once

#include <cuda_runtime.h>

namespace slimkern::cuda {

// The one place that starts kernels, so that tests without a GPU can run them another way.
#if defined(__CUDACC__)
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, const Arguments&... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
}
#endif

}  // namespace slimkern::cuda
