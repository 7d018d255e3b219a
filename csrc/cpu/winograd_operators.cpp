#include <torch/csrc/stable/library.h>

#include "common/arguments.h"
#include "cpu/winograd.h"

namespace slimkern::cpu {
namespace {

constexpr int64_t kPositions = 16;

void check_floats(const char* name, const Tensor& tensor, int64_t dim) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.dim() == dim && tensor.numel() > 0, name,
                  " must be float32 with ", dim, " axes, none of them empty");
}

Tensor scatter(const Tensor& pixels) {
  check_floats("images", pixels, 4);
  STD_TORCH_CHECK(packed(pixels), "images must be packed: channels-last, without gaps");
  const Images images{pixels.size(0), pixels.size(2), pixels.size(3), pixels.size(1)};
  const Tensor transformed = torch::stable::new_empty(pixels, {kPositions, images.tiles(), images.channels});
  winograd_scatter(images, static_cast<const float*>(pixels.const_data_ptr()),
                   static_cast<float*>(transformed.mutable_data_ptr()));
  return transformed;
}

Tensor gather(const Tensor& products, const Tensor& bias, const std::optional<Tensor>& added, int64_t count,
              int64_t height, int64_t width) {
  check_floats("products", products, 3);
  check_floats("bias", bias, 1);
  STD_TORCH_CHECK(count > 0 && height > 0 && width > 0, "there must be images, of at least one pixel");
  const int64_t channels = products.size(2);
  const Images images{count, height, width, channels};
  STD_TORCH_CHECK(products.is_contiguous() && products.size(0) == kPositions && products.size(1) == images.tiles(),
                  "products must be contiguous [16, ", images.tiles(), ", channels]");
  STD_TORCH_CHECK(bias.is_contiguous() && bias.numel() == channels, "bias must be contiguous [", channels, "]");
  const int64_t row = width * channels;
  const Tensor results = empty({count, channels, height, width}, {height * row, 1, row, channels},
                               aoti_torch_dtype_float32(), products);
  if (added) {
    check_floats("added", *added, 4);
    STD_TORCH_CHECK(packed(*added) && added->size(0) == count && added->size(1) == channels &&
                        added->size(2) == height && added->size(3) == width,
                    "added must be packed, of the results' shape");
  }
  winograd_gather(images, static_cast<const float*>(products.const_data_ptr()),
                  static_cast<const float*>(bias.const_data_ptr()),
                  added ? static_cast<const float*>(added->const_data_ptr()) : nullptr,
                  static_cast<float*>(results.mutable_data_ptr()));
  return results;
}

}  // namespace
}  // namespace slimkern::cpu

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CPU, library) {
  library.impl("winograd_scatter", TORCH_BOX(&slimkern::cpu::scatter));
  library.impl("winograd_gather", TORCH_BOX(&slimkern::cpu::gather));
}
