#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/arguments.h"
#include "common/elements.h"
#include "cpu/switchable_batch_norm.h"

namespace slimkern::cpu {
namespace {

Slab slab_of(const Tensor& slab, int64_t offset, int64_t start) {
  return {slab.numel() / slab.size(1), slab.size(1), offset, start, slab.const_data_ptr()};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward(
    const std::vector<Tensor>& slabs, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::vector<int64_t>& offsets, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_var, double eps, const std::vector<Tensor>& residuals, bool relu,
    const std::optional<Tensor>& moments) {
  check_forward(slabs, offsets, running_mean, running_var, residuals, moments);
  const auto vector = [&](const char* name, const auto& given) { return vector_of(name, given, slabs, offsets); };
  const Norm norm{element_of<Element>("slabs", slabs[0]), eps, relu, vector("weight", weight), vector("bias", bias)};
  const Given given{vector("running_mean", running_mean), vector("running_var", running_var),
                    moments ? static_cast<const float*>(moments->const_data_ptr()) : nullptr,
                    moments ? moments->size(1) : 0, channels(slabs)};

  const std::vector<Tensor> results = empty_like(slabs);
  const Tensor mean = statistics_like(slabs), variance = statistics_like(slabs);
  const std::vector<int64_t> starts = statistic_starts(slabs);
  std::vector<ForwardSlab> rows;
  for (size_t place = 0; place < slabs.size(); ++place)
    rows.push_back({slab_of(slabs[place], offsets[place], starts[place]),
                    residuals.empty() ? nullptr : residuals[place].const_data_ptr(),
                    results[place].mutable_data_ptr()});
  batch_norm_forward(norm, rows, given, static_cast<float*>(mean.mutable_data_ptr()),
                     static_cast<float*>(variance.mutable_data_ptr()));
  return {results, mean, variance};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> backward(
    const std::vector<Tensor>& grads, const std::vector<Tensor>& slabs, const std::vector<Tensor>& results,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, const std::vector<int64_t>& offsets,
    const Tensor& mean, const Tensor& variance, bool batch_statistics, double eps, bool relu, bool to_slabs,
    const std::optional<Tensor>& to_weight, const std::optional<Tensor>& to_bias) {
  check_backward(grads, slabs, results, offsets, mean, variance);
  const auto vector = [&](const char* name, const auto& given) { return vector_of(name, given, slabs, offsets); };
  const Norm norm{element_of<Element>("slabs", slabs[0]), eps, relu, vector("weight", weight), vector("bias", bias)};
  float *weight_sum = vector("to_weight", to_weight), *bias_sum = vector("to_bias", to_bias);

  const std::vector<Tensor> of_slabs = to_slabs ? empty_like(slabs) : std::vector<Tensor>{};
  const std::vector<Tensor> of_sums = relu && !results.empty() ? empty_like(slabs) : std::vector<Tensor>{};
  const std::vector<int64_t> starts = statistic_starts(slabs);
  std::vector<BackwardSlab> rows;
  for (size_t place = 0; place < slabs.size(); ++place)
    rows.push_back({slab_of(slabs[place], offsets[place], starts[place]), grads[place].const_data_ptr(),
                    of_sums.empty() ? nullptr : results[place].const_data_ptr(),
                    of_sums.empty() ? nullptr : of_sums[place].mutable_data_ptr(),
                    of_slabs.empty() ? nullptr : of_slabs[place].mutable_data_ptr()});
  batch_norm_backward(norm, rows, batch_statistics, static_cast<const float*>(mean.const_data_ptr()),
                      static_cast<const float*>(variance.const_data_ptr()), weight_sum, bias_sum);
  return {of_slabs, of_sums};
}

}  // namespace
}  // namespace slimkern::cpu

STABLE_TORCH_LIBRARY_IMPL(slimkern_native, CPU, library) {
  library.impl("batch_norm_forward", TORCH_BOX(&slimkern::cpu::forward));
  library.impl("batch_norm_backward", TORCH_BOX(&slimkern::cpu::backward));
}
