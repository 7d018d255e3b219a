// The CPU's heads on threads of the standard library, which sanitizers understand, against doubles.

#include "cpu/ragged_head.h"

#include "elements.h"
#include "heads.h"

using namespace slimkern::cpu;

namespace {

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

void check(const TrueHeads& truth, Element element) {
  const HeadCase& own = truth.sizes;
  const double tolerance = element == Element::float32 ? 1e-5 : element == Element::float16 ? 2e-3 : 1e-2;
  const std::vector<float> weight = floats(truth.weight), bias = floats(truth.bias), to_losses = floats(truth.to_losses);
  const size_t count = own.channels.size();
  std::vector<std::vector<char>> x, to_x;
  std::vector<std::vector<float>> pooled, logits, to_logits;
  std::vector<HeadForward> forward;
  std::vector<HeadBackward> backward;
  for (size_t slab = 0; slab < count; ++slab) {
    x.push_back(stored(truth.x[slab], element));
    to_x.emplace_back(x[slab].size(), '\xff');
    pooled.emplace_back(truth.pooled[slab].size(), NAN);
    logits.emplace_back(truth.logits[slab].size(), NAN);
    to_logits.push_back(floats(truth.to_logits[slab]));
    forward.push_back({own.channels[slab], x[slab].data(), pooled[slab].data(), logits[slab].data()});
    backward.push_back({own.channels[slab], pooled[slab].data(), logits[slab].data(),
                        own.through_logits ? to_logits[slab].data() : nullptr, to_x[slab].data()});
  }
  const Head head{element, own.images, own.pixels, own.classes, own.features, weight.data(), own.in_offset,
                  truth.labels.data(), own.first, own.last};
  std::vector<float> losses(count, NAN), to_weight(weight.size(), NAN), to_bias(bias.size(), NAN);
  head_forward(head, bias.data(), forward, losses.data());
  head_backward(head, backward, to_losses.data(), to_weight.data(), to_bias.data());
  check_near("losses", losses, truth.losses, 1e-5);
  check_near("to_weight", to_weight, truth.to_weight, 1e-5);
  check_near("to_bias", to_bias, truth.to_bias, 1e-5);
  for (size_t slab = 0; slab < count; ++slab) {
    check_near("pooled", pooled[slab], truth.pooled[slab], 1e-6);
    check_near("logits", logits[slab], truth.logits[slab], 1e-5);
    check_near("to_x", read(to_x[slab], element), truth.to_x[slab], tolerance);
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const HeadCase& sizes : head_cases()) {
    const TrueHeads truth(sizes, random);
    for (Element element : {Element::float32, Element::bfloat16, Element::float16}) check(truth, element);
  }
  std::printf("passed with %s\n", instruction_set());
}
