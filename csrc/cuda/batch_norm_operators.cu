#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "common/arguments.h"
#include "common/elements.h"
#include "cuda/device_calls.h"
#include "cuda/switchable_batch_norm.cuh"

namespace slimkern::cuda {
namespace {

constexpr int64_t kEnoughBlocks = 1024;  // to keep the largest GPUs busy

// All tensors that a pass touches can be read 16 bytes at a time: whole vectors of channels, at aligned addresses.
bool is_wide(const std::vector<Tensor>& tensors, int64_t lanes) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& tensor) {
    return tensor.size(1) % lanes == 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  });
}

Access access_of(const std::vector<Tensor>& slabs, std::initializer_list<std::vector<Tensor>> others) {
  Access access{element_of<Element>("slabs", slabs[0]), true};
  const int64_t lanes = access.lanes();
  access.wide = is_wide(slabs, lanes) && std::all_of(others.begin(), others.end(), [&](const auto& tensors) {
                  return is_wide(tensors, lanes);
                });
  return access;
}

// The rows of up to kMostRows slabs, from `first` on. Their parts lie one row after the other.
Rows rows_of(const std::vector<Tensor>& slabs, size_t first, const std::vector<int64_t>& offsets, Access access) {
  const std::vector<int64_t> starts = statistic_starts(slabs);
  Rows rows{};
  for (int32_t steps = 16; steps >= 4; steps /= 2) {
    int64_t block = 0, part = 0;
    rows.count = static_cast<int32_t>(std::min<size_t>(kMostRows, slabs.size() - first));
    for (int32_t place = 0; place < rows.count; ++place) {
      const Tensor& slab = slabs[first + place];
      const int64_t channels = slab.size(1), pixels = slab.numel() / channels;
      const Tiling cut = tiling(pixels, channels / access.lanes(), steps, block);
      rows.row[place] = {slab.const_data_ptr(), nullptr, nullptr, nullptr, nullptr, pixels,
                         static_cast<int32_t>(channels), static_cast<int32_t>(offsets[first + place]),
                         static_cast<int32_t>(starts[first + place]), cut.chunks, part, channels, cut};
      block += blocks(cut);
      part += cut.chunks * channels;
    }
    if (block >= kEnoughBlocks) break;
  }
  return rows;
}

int64_t parts_of(const Rows& rows) {
  const Row& last = rows.row[rows.count - 1];
  return last.first_part + last.parts * last.part_stride;
}

float* floats(const Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

Parts parts_at(float* start, int64_t length) { return {start, start + length, start + 2 * length}; }

const void* data_of(const std::vector<Tensor>& tensors, size_t place) {
  return tensors.empty() ? nullptr : tensors[place].const_data_ptr();
}

void* mutable_data_of(const std::vector<Tensor>& tensors, size_t place) {
  return tensors.empty() ? nullptr : tensors[place].mutable_data_ptr();
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward(
    const std::vector<Tensor>& slabs, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::vector<int64_t>& offsets, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_var, double eps, const std::vector<Tensor>& residuals, bool relu,
    const std::optional<Tensor>& moments) {
  check_forward(slabs, offsets, running_mean, running_var, residuals, moments);
  const auto vector = [&](const char* name, const auto& given) { return vector_of(name, given, slabs, offsets); };
  const DeviceGuard guard(slabs[0].get_device_index());
  const cudaStream_t stream = current_stream(slabs[0]);
  const std::vector<Tensor> results = empty_like(slabs);
  const Tensor mean = statistics_like(slabs), variance = statistics_like(slabs);
  const int64_t all = channels(slabs);
  const Tensor norms = torch::stable::new_empty(mean, {all, static_cast<int64_t>(sizeof(Affine) / sizeof(float))});
  const Vectors vectors{vector("weight", weight), vector("bias", bias), vector("running_mean", running_mean),
                        vector("running_var", running_var), floats(mean), floats(variance), nullptr, nullptr};
  auto* const affines = reinterpret_cast<Affine*>(floats(norms));
  const Access access = access_of(slabs, {residuals, results});

  for (size_t first = 0; first < slabs.size(); first += kMostRows) {
    Rows rows = rows_of(slabs, first, offsets, access);
    for (int32_t place = 0; place < rows.count; ++place) {
      rows.row[place].other = data_of(residuals, first + place);
      rows.row[place].out = results[first + place].mutable_data_ptr();
    }
    if (running_mean) {
      launch_norms(Source::running, rows, {}, vectors, eps, affines, stream);
    } else if (moments) {
      const int64_t tiles = moments->size(1);
      const Parts parts = parts_at(const_cast<float*>(static_cast<const float*>(moments->const_data_ptr())), tiles * all);
      launch_norms(Source::parts, with_parts_of_tiles(rows, tiles, all), parts, vectors, eps, affines, stream);
    } else {
      const int64_t length = parts_of(rows);
      const Tensor workspace = torch::stable::new_empty(mean, {3 * length});
      const Parts parts = parts_at(floats(workspace), length);
      launch_moments(access, rows, parts, stream);
      launch_norms(Source::parts, rows, parts, vectors, eps, affines, stream);
    }
    launch_normalise(access, rows, affines, relu, stream);
  }
  check_launches("batch norm");
  return {results, mean, variance};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> backward(
    const std::vector<Tensor>& grads, const std::vector<Tensor>& slabs, const std::vector<Tensor>& results,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const std::vector<int64_t>& offsets,
    const Tensor& mean, const Tensor& variance, bool batch_statistics, double eps, bool relu, bool to_slabs,
    const std::optional<Tensor>& to_weight, const std::optional<Tensor>& to_bias) {
  check_backward(grads, slabs, results, offsets, mean, variance);
  const auto vector = [&](const char* name, const auto& given) { return vector_of(name, given, slabs, offsets); };
  const DeviceGuard guard(slabs[0].get_device_index());
  const cudaStream_t stream = current_stream(slabs[0]);
  const std::vector<Tensor> of_slabs = to_slabs ? empty_like(slabs) : std::vector<Tensor>{};
  const std::vector<Tensor> of_sums = relu && !results.empty() ? empty_like(slabs) : std::vector<Tensor>{};
  const int64_t all = channels(slabs), affine_floats = sizeof(Affine) / sizeof(float),
                slope_floats = sizeof(Slope) / sizeof(float);
  const Tensor coefficients = torch::stable::new_empty(mean, {all * (affine_floats + slope_floats)});
  auto* const affines = reinterpret_cast<Affine*>(floats(coefficients));
  auto* const slopes = reinterpret_cast<Slope*>(floats(coefficients) + all * affine_floats);
  const Vectors vectors{vector("weight", weight), vector("bias", bias), nullptr, nullptr,
                        static_cast<float*>(mean.data_ptr()), static_cast<float*>(variance.data_ptr()),
                        vector("to_weight", to_weight), vector("to_bias", to_bias)};
  const Access access = access_of(slabs, {grads, results, of_slabs, of_sums});

  for (size_t first = 0; first < slabs.size(); first += kMostRows) {
    Rows rows = rows_of(slabs, first, offsets, access);
    for (int32_t place = 0; place < rows.count; ++place) {
      rows.row[place].other = grads[first + place].const_data_ptr();
      rows.row[place].result = of_sums.empty() ? nullptr : results[first + place].const_data_ptr();
      rows.row[place].to_sum = mutable_data_of(of_sums, first + place);
      rows.row[place].out = mutable_data_of(of_slabs, first + place);
    }
    const int64_t length = parts_of(rows);
    const Tensor workspace = torch::stable::new_empty(mean, {2 * length});
    const Parts parts = parts_at(floats(workspace), length);
    launch_norms(Source::given, rows, {}, vectors, eps, affines, stream);
    launch_reduce(access, rows, affines, relu, parts, stream);
    launch_slopes(rows, parts, affines, batch_statistics, vectors, slopes, stream);
    if (!to_slabs) continue;
    // A masked gradient that was written needs no mask any more.
    for (int32_t place = 0; place < rows.count && !of_sums.empty(); ++place)
      rows.row[place].other = rows.row[place].to_sum;
    launch_differentiate(access, rows, affines, slopes, relu && of_sums.empty(), stream);
  }
  check_launches("batch norm");
  return {of_slabs, of_sums};
}

}  // namespace
}  // namespace slimkern::cuda

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CUDA, library) {
  library.impl("batch_norm_forward", TORCH_BOX(&slimkern::cuda::forward));
  library.impl("batch_norm_backward", TORCH_BOX(&slimkern::cuda::backward));
}
