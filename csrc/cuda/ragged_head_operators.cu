#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "common/elements.h"
#include "common/head_arguments.h"
#include "cuda/device_calls.h"
#include "cuda/ragged_head.cuh"

namespace slimkern::cuda {
namespace {

constexpr int64_t kMostClasses = 65536;  // a grid's height

float* floats(const Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }

float* floats(const std::optional<Tensor>& tensor) { return tensor ? floats(*tensor) : nullptr; }

bool all_wide(const std::vector<Tensor>& slabs) {
  return std::all_of(slabs.begin(), slabs.end(), [](const Tensor& slab) {
    const int64_t lanes = slab.scalar_type() == ScalarType::Float ? 4 : 8;
    return slab.size(1) % lanes == 0 && is_wide(slab.const_data_ptr());
  });
}

HeadTable table_of(const HeadSizes& sizes, const Tensor& weight, const Tensor& labels, bool wide) {
  STD_TORCH_CHECK(sizes.classes < kMostClasses, "a head of ", sizes.classes, " classes is too large; it must have under ",
                  kMostClasses);
  HeadTable table{};
  table.images = static_cast<int32_t>(sizes.images);
  table.pixels = static_cast<int32_t>(sizes.pixels);
  table.classes = static_cast<int32_t>(sizes.classes);
  table.features = static_cast<int32_t>(sizes.features);
  table.in_offset = static_cast<int32_t>(sizes.in_offset);
  table.first = static_cast<int32_t>(sizes.first);
  table.last = static_cast<int32_t>(sizes.last);
  table.wide = wide;
  table.weight = static_cast<const float*>(weight.const_data_ptr());
  table.labels = static_cast<const int64_t*>(labels.const_data_ptr());
  return table;
}

// Calls body(table, first slab) for up to kMostHeads slabs at a time, whose rows row(place) gives.
template <typename Row, typename Body>
void for_tables(HeadTable table, size_t slabs, const Row& row, const Body& body) {
  for (size_t first = 0; first < slabs; first += kMostHeads) {
    table.count = static_cast<int32_t>(std::min<size_t>(kMostHeads, slabs - first));
    for (int32_t place = 0; place < table.count; ++place) table.rows[place] = row(first + place);
    body(table, first);
  }
}

std::tuple<Tensor, std::vector<Tensor>, Tensor> forward(const std::vector<Tensor>& slabs, const Tensor& weight,
                                                        const std::optional<Tensor>& bias, const Tensor& labels,
                                                        int64_t in_offset, int64_t first, int64_t last) {
  STD_TORCH_CHECK(!slabs.empty(), "slabs is empty; at least one slab is needed");
  for (const Tensor& slab : slabs) check_slab("slabs", slab, slabs[0]);
  STD_TORCH_CHECK(slabs[0].device() == weight.device(), "weight must be on the device of the slabs");
  const int64_t pixels = slabs[0].numel() / (slabs[0].size(0) * slabs[0].size(1));
  const HeadSizes sizes = head_sizes(pixels, weight, labels, in_offset, first, last);
  const std::vector<int64_t> channels = channels_of(slabs);
  check_features(channels, sizes);
  check_images("slabs", slabs, sizes);
  if (bias) check_vector_of_floats("bias", *bias, sizes.classes, weight);
  const Element element = element_of<Element>("slabs", slabs[0]);
  const DeviceGuard guard(weight.get_device_index());
  const cudaStream_t stream = current_stream(weight);

  const std::vector<int64_t> starts = pooled_starts(channels, sizes);
  const int64_t count = static_cast<int64_t>(slabs.size());
  const Tensor losses = torch::stable::new_empty(weight, {count});
  const Tensor image_losses = torch::stable::new_empty(weight, {count * sizes.images});
  const Tensor pooled = torch::stable::new_empty(weight, {starts.back()});
  std::vector<Tensor> logits;
  for (int64_t place = 0; place < count; ++place)
    logits.push_back(torch::stable::new_empty(weight, {sizes.images, sizes.classes}));
  HeadTable common = table_of(sizes, weight, labels, all_wide(slabs));
  common.bias = floats(bias);
  for_tables(
      common, slabs.size(),
      [&](size_t place) {
        return HeadRow{slabs[place].const_data_ptr(), floats(pooled) + starts[place], floats(logits[place]), nullptr,
                       nullptr, static_cast<int32_t>(channels[place])};
      },
      [&](const HeadTable& table, size_t from) {
        float* const own = floats(image_losses) + from * sizes.images;
        launch_heads(element, table, own, stream);
        launch_mean_losses(table, own, floats(losses) + from, stream);
      });
  check_launches("ragged_head");
  return {losses, logits, pooled};
}

void backward(const Tensor& to_losses, const std::vector<Tensor>& to_logits, const std::vector<Tensor>& logits,
              const Tensor& pooled, const Tensor& weight, const Tensor& labels, int64_t in_offset, int64_t first,
              int64_t last, const std::vector<int64_t>& channels, const std::vector<Tensor>& to_slabs,
              const std::optional<Tensor>& to_weight, const std::optional<Tensor>& to_bias) {
  for (const Tensor& slab : to_slabs) check_slab("to_slabs", slab, to_slabs[0]);
  const int64_t pixels = to_slabs.empty() ? 1 : to_slabs[0].numel() / (to_slabs[0].size(0) * to_slabs[0].size(1));
  const HeadSizes sizes = head_sizes(pixels, weight, labels, in_offset, first, last);
  check_backward_of_head(to_losses, to_logits, logits, pooled, weight, channels, to_slabs, to_weight, to_bias, sizes);
  const Element element = to_slabs.empty() ? Element::float32 : element_of<Element>("to_slabs", to_slabs[0]);
  const DeviceGuard guard(weight.get_device_index());
  const cudaStream_t stream = current_stream(weight);

  const std::vector<int64_t> starts = pooled_starts(channels, sizes);
  const int64_t a_slab = sizes.images * sizes.classes;
  const Tensor slopes = torch::stable::new_empty(weight, {static_cast<int64_t>(channels.size()) * a_slab});
  for_tables(
      table_of(sizes, weight, labels, !to_slabs.empty() && all_wide(to_slabs)), channels.size(),
      [&](size_t place) {
        return HeadRow{nullptr,
                       floats(pooled) + starts[place],
                       floats(logits[place]),
                       to_logits.empty() ? nullptr : floats(to_logits[place]),
                       to_slabs.empty() ? nullptr : to_slabs[place].data_ptr(),
                       static_cast<int32_t>(channels[place])};
      },
      [&](const HeadTable& table, size_t from) {
        float* const own = floats(slopes) + from * a_slab;
        launch_slopes_of_heads(element, table, floats(to_losses) + from, own, stream);
        if (to_weight || to_bias)
          launch_head_parameters(table, own, from > 0, floats(to_weight), floats(to_bias), stream);
      });
  check_launches("ragged_head");
}

}  // namespace
}  // namespace slimkern::cuda

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CUDA, library) {
  library.impl("ragged_head", TORCH_BOX(&slimkern::cuda::forward));
  library.impl("ragged_head_backward", TORCH_BOX(&slimkern::cuda::backward));
}
