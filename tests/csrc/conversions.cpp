// The conversions between float32 and the 16-bit formats by one instruction set: all 65536 values of each format, and
// the floats where rounding turns.

#include "cpu/vector.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "halves.h"

using namespace slimkern::cpu;

namespace {

template <typename Kind>
void check_widened(const char* name, const Format& format) {
  for (uint32_t first = 0; first < 0x10000; first += kLanes) {
    uint16_t stored[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) stored[lane] = static_cast<uint16_t>(first + lane);
    float given[kLanes];
    store<Float32>(given, load<Kind>(stored));
    for (int lane = 0; lane < kLanes; ++lane) {
      const double truth = format.value(stored[lane]);
      CHECK(std::isnan(truth) ? std::isnan(given[lane]) : given[lane] == truth, "%s 0x%04x is %g, should be %g", name,
            stored[lane], given[lane], truth);
      CHECK(std::signbit(given[lane]) == std::signbit(truth), "%s 0x%04x has the wrong sign", name, stored[lane]);
    }
  }
}

// Each value of the format, halfway to the next, and the floats beside those; not-a-numbers of many bit patterns.
std::vector<float> edges(const Format& format) {
  std::vector<float> result;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto own = static_cast<uint16_t>(bits), next = static_cast<uint16_t>(bits + 1);
    const double value = format.value(own), after = format.value(next);
    result.push_back(static_cast<float>(value));
    if (!std::isfinite(value)) continue;
    // Beyond the largest value lies where the next power of two would be.
    const double step = std::isfinite(after) ? after - value : value - format.value(static_cast<uint16_t>(bits - 1));
    const auto halfway = static_cast<float>(value + step / 2);
    for (float limit : {-INFINITY, INFINITY})
      for (float middle : {static_cast<float>(value), halfway}) result.push_back(std::nextafter(middle, limit));
    result.push_back(halfway);
  }
  for (int bit = 0; bit < 23; ++bit)
    for (uint32_t sign : {0u, 0x80000000u}) {
      result.push_back(bits_as_float(sign | 0x7f800000 | 1u << bit));           // NaN
      result.push_back(bits_as_float(sign | 0x7f800000 | ((2u << bit) - 1)));   // NaN
      result.push_back(bits_as_float(sign | 1u << bit));                        // below the smallest normal float
    }
  for (float value : {3.4028235e38f, 1e30f, 65536.0f, INFINITY}) result.insert(result.end(), {value, -value});
  while (result.size() % kLanes) result.push_back(0);
  return result;
}

template <typename Kind>
void check_narrowed(const char* name, const Format& format) {
  const std::vector<float> values = edges(format);
  for (size_t first = 0; first < values.size(); first += kLanes) {
    uint16_t given[kLanes];
    store<Kind>(given, floats(&values[first]));
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = values[first + lane];
      const uint16_t truth = format.bits(value);
      const bool right = std::isnan(value) ? std::isnan(format.value(given[lane])) && (given[lane] ^ truth) < 0x8000
                                           : given[lane] == truth;
      CHECK(right, "%s of %a is 0x%04x, should be 0x%04x", name, value, given[lane], truth);
    }
  }
}

}  // namespace

int main() {
  check_widened<Float16>("float16", kFloat16);
  check_widened<Bfloat16>("bfloat16", kBfloat16);
  check_narrowed<Float16>("float16", kFloat16);
  check_narrowed<Bfloat16>("bfloat16", kBfloat16);
  std::printf("passed with %d lanes\n", kLanes);
}
