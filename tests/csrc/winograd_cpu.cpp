// Winograd's convolution on threads of the standard library, which sanitizers understand, beside the plain sum over taps.

#include "cpu/winograd.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/passes.h"

using namespace slimkern::cpu;

namespace {

using Values = std::vector<float>;

Values drawn(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  Values values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// The factors [16, inputs, outputs] of weights [outputs, inputs, 3, 3].
Values transformed(const Values& weight, int64_t inputs, int64_t outputs) {
  const double matrix[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
  Values factors(16 * inputs * outputs);
  for (int64_t position = 0; position < 16; ++position)
    for (int64_t in = 0; in < inputs; ++in)
      for (int64_t out = 0; out < outputs; ++out) {
        double sum = 0;
        for (int tap = 0; tap < 9; ++tap)
          sum += matrix[position / 4][tap / 3] * matrix[position % 4][tap % 3] * weight[(out * inputs + in) * 9 + tap];
        factors[(position * inputs + in) * outputs + out] = static_cast<float>(sum);
      }
  return factors;
}

Values products_of(const Values& spread, const Values& factors, int64_t tiles, int64_t inputs, int64_t outputs) {
  Values products(16 * tiles * outputs);
  for (int64_t row = 0; row < 16 * tiles; ++row)
    for (int64_t in = 0; in < inputs; ++in)
      for (int64_t out = 0; out < outputs; ++out)
        products[row * outputs + out] += spread[row * inputs + in] * factors[(row / tiles * inputs + in) * outputs + out];
  return products;
}

double by_taps(const Images& images, const Values& pixels, const Values& weight, int64_t place, int64_t out) {
  const int64_t column = place % images.width, row = place / images.width % images.height;
  double sum = 0;
  for (int64_t y = -1; y <= 1; ++y)
    for (int64_t x = -1; x <= 1; ++x) {
      if (row + y < 0 || row + y >= images.height || column + x < 0 || column + x >= images.width) continue;
      for (int64_t in = 0; in < images.channels; ++in)
        sum += static_cast<double>(pixels[(place + y * images.width + x) * images.channels + in]) *
               weight[(out * images.channels + in) * 9 + (y + 1) * 3 + x + 1];
    }
  return sum;
}

void check(const Images& images, int64_t outputs, bool adds, std::mt19937& random) {
  const int64_t inputs = images.channels, places = images.count * images.height * images.width, tiles = images.tiles();
  const Values pixels = drawn(random, places * inputs), weight = drawn(random, outputs * inputs * 9);
  const Values bias = drawn(random, outputs), added = drawn(random, places * outputs);
  Values spread(16 * tiles * inputs, NAN), results(places * outputs, NAN);
  winograd_scatter(images, pixels.data(), spread.data());
  const Values products = products_of(spread, transformed(weight, inputs, outputs), tiles, inputs, outputs);
  winograd_gather({images.count, images.height, images.width, outputs}, products.data(), bias.data(),
                  adds ? added.data() : nullptr, results.data());
  for (int64_t place = 0; place < places; ++place)
    for (int64_t out = 0; out < outputs; ++out) {
      const int64_t own = place * outputs + out;
      const double sum = by_taps(images, pixels, weight, place, out) + bias[out] + (adds ? added[own] : 0);
      CHECK(std::abs(results[own] - std::max(sum, 0.0)) < 1e-4, "place %ld, output %ld: %g instead of %g",
            static_cast<long>(place), static_cast<long>(out), results[own], std::max(sum, 0.0));
    }
}

void check_nan() {
  const Values products(16, NAN), bias(1, 0.0f);
  float results[4] = {};
  winograd_gather({1, 2, 2, 1}, products.data(), bias.data(), nullptr, results);
  for (float result : results) CHECK(std::isnan(result), "a ReLU must pass NaN on, not give %g", result);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const Images& images : {Images{1, 1, 1, 1}, Images{2, 2, 3, 5}, Images{1, 4, 4, 16}, Images{3, 5, 2, 19},
                               Images{2, 7, 8, 33}, Images{1, 3, 9, 48}})
    for (int64_t outputs : {1, 8, 35})
      for (bool adds : {false, true}) check(images, outputs, adds, random);
  check_nan();
  std::printf("passed with %s\n", instruction_set());
}
