// The kernels of CUDA for heads, run on the host, against doubles.

#include "cuda_runtime.h"

#include "cuda/ragged_head.cu"
#include "heads.h"

using namespace slimkern;
using namespace slimkern::cuda;

namespace {

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

template <typename Stored>
void check(const TrueHeads& truth, Element element, bool wide) {
  const HeadCase& own = truth.sizes;
  const double tolerance = element == Element::float32 ? 1e-5 : element == Element::float16 ? 2e-3 : 1e-2;
  const std::vector<float> weight = floats(truth.weight), bias = floats(truth.bias), to_losses = floats(truth.to_losses);
  const size_t count = own.channels.size();
  for (int64_t channels : own.channels)
    if (channels % (16 / sizeof(Stored))) wide = false;
  std::vector<std::vector<Stored>> x, to_x;
  std::vector<std::vector<float>> pooled, logits, to_logits;
  HeadTable table{};
  table.count = int32_t(count);
  table.images = int32_t(own.images);
  table.pixels = int32_t(own.pixels);
  table.classes = int32_t(own.classes);
  table.features = int32_t(own.features);
  table.in_offset = int32_t(own.in_offset);
  table.first = int32_t(own.first);
  table.last = int32_t(own.last);
  table.wide = wide;
  table.weight = weight.data();
  table.bias = bias.data();
  table.labels = truth.labels.data();
  for (size_t slab = 0; slab < count; ++slab) {
    x.emplace_back(truth.x[slab].size());
    for (size_t place = 0; place < x[slab].size(); ++place) narrow(x[slab][place], float(truth.x[slab][place]));
    to_x.emplace_back(x[slab].size());
    pooled.emplace_back(truth.pooled[slab].size(), NAN);
    logits.emplace_back(truth.logits[slab].size(), NAN);
    to_logits.push_back(floats(truth.to_logits[slab]));
    table.rows[slab] = {x[slab].data(), pooled[slab].data(), logits[slab].data(),
                        own.through_logits ? to_logits[slab].data() : nullptr, to_x[slab].data(),
                        int32_t(own.channels[slab])};
  }
  std::vector<float> image_losses(count * own.images, NAN), losses(count, NAN);
  std::vector<float> slopes(count * own.images * own.classes, NAN);
  std::vector<float> to_weight(weight.size(), NAN), to_bias(bias.size(), NAN);
  launch_heads(element, table, image_losses.data(), nullptr);
  launch_mean_losses(table, image_losses.data(), losses.data(), nullptr);
  launch_slopes_of_heads(element, table, to_losses.data(), slopes.data(), nullptr);
  launch_head_parameters(table, slopes.data(), false, to_weight.data(), to_bias.data(), nullptr);
  check_near("losses", losses, truth.losses, 1e-5);
  check_near("to_weight", to_weight, truth.to_weight, 1e-5);
  check_near("to_bias", to_bias, truth.to_bias, 1e-5);
  for (size_t slab = 0; slab < count; ++slab) {
    check_near("pooled", pooled[slab], truth.pooled[slab], 1e-6);
    check_near("logits", logits[slab], truth.logits[slab], 1e-5);
    std::vector<float> given;
    for (Stored value : to_x[slab]) given.push_back(widened(value));
    check_near("to_x", given, truth.to_x[slab], tolerance);
  }
  launch_head_parameters(table, slopes.data(), true, to_weight.data(), nullptr, nullptr);
  std::vector<double> twice = truth.to_weight;
  for (double& value : twice) value *= 2;
  check_near("to_weight twice", to_weight, twice, 1e-5);
}

void check_foreign_label(TrueHeads truth) {
  truth.labels[0] = truth.sizes.last;
  std::vector<float> weight = floats(truth.weight), x = floats(truth.x[0]), pooled(truth.pooled[0].size()),
                     logits(truth.logits[0].size()), image_losses(truth.sizes.images), loss(1);
  HeadTable table{};
  table.count = 1;
  table.images = int32_t(truth.sizes.images);
  table.pixels = int32_t(truth.sizes.pixels);
  table.classes = int32_t(truth.sizes.classes);
  table.features = int32_t(truth.sizes.features);
  table.first = int32_t(truth.sizes.first);
  table.last = int32_t(truth.sizes.last);
  table.weight = weight.data();
  table.labels = truth.labels.data();
  table.rows[0] = {x.data(), pooled.data(), logits.data(), nullptr, nullptr, int32_t(truth.sizes.channels[0])};
  launch_heads(Element::float32, table, image_losses.data(), nullptr);
  launch_mean_losses(table, image_losses.data(), loss.data(), nullptr);
  CHECK(std::isnan(loss[0]), "a label outside of the range has the loss %g", loss[0]);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (bool last_first : {false, true}) {
    cuda_on_host::last_first = last_first;
    for (const HeadCase& sizes : head_cases()) {
      const TrueHeads truth(sizes, random);
      check_foreign_label(truth);
      for (bool wide : {false, true}) {
        check<float>(truth, Element::float32, wide);
        check<__nv_bfloat16>(truth, Element::bfloat16, wide);
        check<__half>(truth, Element::float16, wide);
      }
    }
  }
  std::printf("passed\n");
}
