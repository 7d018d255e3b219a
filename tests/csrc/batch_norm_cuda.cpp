// The batch norm kernels of CUDA, run on the host, against doubles.

#include "cuda_runtime.h"

#include "cuda/statistics.cu"
#include "cuda/switchable_batch_norm.cu"
#include "slabs.h"

using namespace slimkern;
using namespace slimkern::cuda;

namespace {

constexpr double kEps = 1e-3;

template <typename Stored>
std::vector<Stored> stored(const std::vector<double>& values) {
  std::vector<Stored> result(values.size());
  for (size_t place = 0; place < values.size(); ++place) narrow(result[place], static_cast<float>(values[place]));
  return result;
}

template <typename Stored>
std::vector<float> read(const std::vector<Stored>& values) {
  std::vector<float> result;
  for (Stored value : values) result.push_back(widened(value));
  return result;
}

// Partial results for all rows; not a number where nobody writes.
struct Workspace {
  std::vector<float> values;
  Parts parts;

  explicit Workspace(const Rows& rows) {
    const Row& last = rows.row[rows.count - 1];
    const int64_t length = last.first_part + last.parts * last.part_stride;
    values.assign(3 * length, NAN);
    parts = {values.data(), values.data() + length, values.data() + 2 * length};
  }
};

// With `tiles` the statistics are handed over as moments of so many parts.
template <typename Stored>
void check(Element element, bool wide, const std::vector<Shape>& shapes, bool residual, bool relu, double mean,
           int64_t tiles = 0) {
  const Access access{element, wide};
  const double tolerance = element == Element::float32 ? 1e-5 + 1e-7 * mean : element == Element::float16 ? 2e-3 : 1e-2;
  std::mt19937 random(1);
  int64_t channels = 0;
  for (const Shape& shape : shapes) channels += shape.channels;
  std::vector<double> weight = drawn(random, channels), bias = drawn(random, channels);
  for (double& value : bias) value += 0x1.357p-5;
  const std::vector<float> weights(weight.begin(), weight.end()), biases(bias.begin(), bias.end());
  std::vector<TrueSlab> truths;
  std::vector<std::vector<Stored>> xs, residuals, grads, ys, to_sums, to_xs;
  Rows rows{};
  rows.count = static_cast<int32_t>(shapes.size());
  int64_t block = 0, part = 0, start = 0;
  for (int32_t place = 0; place < rows.count; ++place) {
    const auto [pixels, own] = shapes[place];
    truths.emplace_back(shapes[place], random);
    for (double& value : truths.back().x) value += mean;
    xs.push_back(stored<Stored>(truths.back().x));
    residuals.push_back(stored<Stored>(truths.back().residual));
    grads.push_back(stored<Stored>(truths.back().grad));
    const std::vector<double> unwritten(pixels * own, NAN);
    for (auto* results : {&ys, &to_sums, &to_xs}) results->push_back(stored<Stored>(unwritten));
    const Tiling cut = tiling(pixels, own / access.lanes(), 4, block);
    rows.row[place] = {xs[place].data(), residual ? residuals[place].data() : nullptr, nullptr, ys[place].data(),
                       nullptr, pixels, int32_t(own), int32_t(start), int32_t(start), cut.chunks, part, own, cut};
    block += blocks(cut);
    part += cut.chunks * own;
    start += own;
  }

  std::vector<float> means(channels), variances(channels), to_weight(channels), to_bias(channels);
  std::vector<Affine> norms(channels);
  std::vector<Slope> slopes(channels);
  const Vectors vectors{weights.data(), biases.data(), nullptr, nullptr, means.data(), variances.data(),
                        to_weight.data(), to_bias.data()};
  Workspace moments(rows), sums(rows);
  if (tiles) {
    std::vector<float> given = moments_of_parts(truths, tiles);
    const Parts parts{given.data(), given.data() + tiles * channels, given.data() + 2 * tiles * channels};
    launch_norms(Source::parts, with_parts_of_tiles(rows, tiles, channels), parts, vectors, kEps, norms.data(), nullptr);
  } else {
    launch_moments(access, rows, moments.parts, nullptr);
    launch_norms(Source::parts, rows, moments.parts, vectors, kEps, norms.data(), nullptr);
  }
  launch_normalise(access, rows, norms.data(), relu, nullptr);
  const bool masks = relu && residual;
  for (int32_t place = 0; place < rows.count; ++place) {
    rows.row[place].other = grads[place].data();
    rows.row[place].result = masks ? ys[place].data() : nullptr;
    rows.row[place].to_sum = masks ? to_sums[place].data() : nullptr;
    rows.row[place].out = to_xs[place].data();
  }
  std::fill(norms.begin(), norms.end(), Affine{NAN, NAN, NAN, NAN});
  launch_norms(Source::given, rows, {}, vectors, kEps, norms.data(), nullptr);
  launch_reduce(access, rows, norms.data(), relu, sums.parts, nullptr);
  launch_slopes(rows, sums.parts, norms.data(), true, vectors, slopes.data(), nullptr);
  for (int32_t place = 0; place < rows.count && masks; ++place) rows.row[place].other = to_sums[place].data();
  launch_differentiate(access, rows, norms.data(), slopes.data(), relu && !masks, nullptr);

  start = 0;
  for (int32_t place = 0; place < rows.count; ++place) {
    TrueSlab& truth = truths[place];
    normalise(truth, kEps, weight, bias, start, residual, relu);
    const auto own = [&](const std::vector<float>& vector) {
      return std::vector<float>(vector.begin() + start, vector.begin() + start + truth.shape.channels);
    };
    check_near("mean", own(means), truth.mean, 1e-6);
    check_near("variance", own(variances), truth.variance, 1e-5);
    check_near("y", read(ys[place]), truth.y, tolerance);
    if (masks) check_near("to_sum", read(to_sums[place]), truth.to_sum, tolerance);
    check_near("to_x", read(to_xs[place]), truth.to_x, tolerance);
    check_near("to_weight", own(to_weight), truth.to_weight, tolerance);
    check_near("to_bias", own(to_bias), truth.to_bias, 1e-5);
    start += truth.shape.channels;
  }
}

}  // namespace

int main() {
  for (bool last_first : {false, true}) {
    cuda_on_host::last_first = last_first;
    for (bool residual : {false, true})
      for (bool relu : {false, true}) {
        check<float>(Element::float32, true, {{1100, 4}, {700, 8}, {1100, 12}, {40, 40}}, residual, relu, 0);
        check<__nv_bfloat16>(Element::bfloat16, true, {{300, 8}, {200, 72}}, residual, relu, 0);
        check<__half>(Element::float16, true, {{300, 16}, {200, 40}}, residual, relu, 0);
        check<__half>(Element::float16, false, {{40, 3}}, residual, relu, 0);
        check<float>(Element::float32, false, {{1500, 1}, {33, 17}}, residual, relu, 0);
      }
    check<float>(Element::float32, true, {{1100, 4}}, false, true, 1000);
    check<float>(Element::float32, true, {{1100, 4}, {700, 8}, {40, 40}}, true, true, 1000, 21);
    check<__half>(Element::float16, true, {{300, 16}, {7, 8}}, true, true, 0, 9);
  }
  std::printf("passed\n");
}
