#pragma once

// Calls of libtorch's C functions, which return a code instead of throwing. PyTorch's own macro for them has a name of
// its own in each of the first versions with a stable ABI, and the oldest one drops libtorch's message.

#include <torch/csrc/stable/tensor.h>

#include <stdexcept>
#include <string>

// Exported from PyTorch 2.13 on; null where the process runs an older one.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace slimkern {

// Throws std::runtime_error if `code`, which the function named `name` returned, stands for a failure.
inline void check_call(const char* name, AOTITorchError code) {
  if (code == AOTI_TORCH_SUCCESS) return;
  const char* what =
      torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : nullptr;
  throw std::runtime_error(std::string(name) + " failed" + (what ? std::string(": ") + what : std::string()));
}

}  // namespace slimkern
