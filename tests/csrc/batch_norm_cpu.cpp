// The CPU's batch norm on threads of the standard library, which sanitizers understand, against doubles.

#include <string>

#include "cpu/switchable_batch_norm.h"
#include "cpu/tasks.h"
#include "elements.h"
#include "slabs.h"

using namespace slimkern::cpu;

namespace {

constexpr double kEps = 1e-3;

// With `tiles` the statistics are handed over as moments of so many parts.
void check(const std::vector<Shape>& shapes, Element element, bool residual, bool relu, int64_t tiles = 0) {
  const double tolerance = element == Element::float32 ? 1e-5 : element == Element::float16 ? 2e-3 : 1e-2;
  std::mt19937 random(1);
  int64_t channels = 0;
  for (const Shape& shape : shapes) channels += shape.channels;
  const std::vector<double> weight = drawn(random, channels);
  std::vector<double> bias = drawn(random, channels);
  for (double& value : bias) value += 0x1.357p-5;  // or results that should be zero would be so up to rounding
  const std::vector<float> weights(weight.begin(), weight.end()), biases(bias.begin(), bias.end());
  std::vector<TrueSlab> truths;
  std::vector<std::vector<char>> xs, residuals, grads, ys, to_sums, to_xs;
  for (const Shape& shape : shapes) {
    const int64_t count = shape.pixels * shape.channels;
    truths.emplace_back(shape, random);
    xs.push_back(stored(truths.back().x, element));
    residuals.push_back(stored(truths.back().residual, element));
    grads.push_back(stored(truths.back().grad, element));
    for (auto* results : {&ys, &to_sums, &to_xs}) results->emplace_back(count * bytes_of(element), '\xff');
  }

  const Norm norm{element, kEps, relu, weights.data(), biases.data()};
  std::vector<float> mean(channels), variance(channels), to_weight(channels), to_bias(channels);
  std::vector<ForwardSlab> forward;
  std::vector<BackwardSlab> backward;
  int64_t start = 0;
  for (size_t place = 0; place < shapes.size(); ++place) {
    const Slab slab{shapes[place].pixels, shapes[place].channels, start, start, xs[place].data()};
    forward.push_back({slab, residual ? residuals[place].data() : nullptr, ys[place].data()});
    const bool masks = relu && residual;
    backward.push_back({slab, grads[place].data(), masks ? ys[place].data() : nullptr,
                        masks ? to_sums[place].data() : nullptr, to_xs[place].data()});
    start += shapes[place].channels;
  }
  const std::vector<float> moments = moments_of_parts(truths, tiles);
  const Given given{nullptr, nullptr, tiles ? moments.data() : nullptr, tiles, channels};
  batch_norm_forward(norm, forward, given, mean.data(), variance.data());
  batch_norm_backward(norm, backward, true, mean.data(), variance.data(), to_weight.data(), to_bias.data());

  start = 0;
  for (size_t place = 0; place < shapes.size(); ++place) {
    TrueSlab& truth = truths[place];
    normalise(truth, kEps, weight, bias, start, residual, relu);
    const auto own = [&](const std::vector<float>& vector) {
      return std::vector<float>(vector.begin() + start, vector.begin() + start + truth.shape.channels);
    };
    check_near("mean", own(mean), truth.mean, 1e-6);
    check_near("variance", own(variance), truth.variance, 1e-5);
    check_near("y", read(ys[place], element), truth.y, tolerance);
    if (relu && residual) check_near("to_sum", read(to_sums[place], element), truth.to_sum, tolerance);
    check_near("to_x", read(to_xs[place], element), truth.to_x, tolerance);
    check_near("to_weight", own(to_weight), truth.to_weight, 1e-5);
    check_near("to_bias", own(to_bias), truth.to_bias, 1e-5);
    start += truth.shape.channels;
  }
}

// Each task keeps sums of all its columns; were they as many as its values, merging them would take the time.
void check_sums_are_few(int64_t pixels, int64_t channels) {
  const std::vector<Slab> slabs{{pixels, channels, 0, 0, nullptr}};
  const Tasks tasks(slabs);
  const int64_t sums = tasks.columns.back(), most = pixels * channels / 16 + 2 * tasks.folds[0].columns;
  CHECK(sums <= most, "%ld pixels of %ld channels: %ld sums, at most %ld allowed", long(pixels), long(channels),
        long(sums), long(most));
}

}  // namespace

int main() {
  for (int64_t channels : {1, 3, 17, 64, 2047, 2048, 2049}) check_sums_are_few(1024, channels);
  for (Element element : {Element::float32, Element::bfloat16, Element::float16})
    for (bool residual : {false, true})
      for (bool relu : {false, true}) {
        check({{35, 1}, {35, 3}, {35, 17}, {35, 64}}, element, residual, relu);
        check({{9, 2049}}, element, residual, relu);
        check({{35, 1}, {3, 17}, {35, 64}}, element, residual, relu, 5);
        check({{600, 2049}}, element, residual, relu);
        check({{3000, 16}, {3000, 48}, {3000, 64}}, element, residual, relu);
      }
  std::printf("passed with %s\n", instruction_set());
}
