#pragma once

// Values in memory as each element has them, for programs without the device's own conversions.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/passes.h"

// Eighths lose nothing.
inline std::vector<char> stored(const std::vector<double>& values, slimkern::cpu::Element element) {
  using slimkern::cpu::Element;
  std::vector<char> bytes(values.size() * bytes_of(element));
  for (size_t place = 0; place < values.size(); ++place) {
    const float value = static_cast<float>(values[place]);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (element == Element::float32) std::memcpy(&bytes[place * 4], &bits, 4);
    uint16_t half = static_cast<uint16_t>(bits >> 16);
    if (element == Element::float16)
      half = bits << 1 ? static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10))) : 0;
    if (element != Element::float32) std::memcpy(&bytes[place * 2], &half, 2);
  }
  return bytes;
}

inline std::vector<float> read(const std::vector<char>& bytes, slimkern::cpu::Element element) {
  using slimkern::cpu::Element;
  std::vector<float> values(bytes.size() / bytes_of(element));
  for (size_t place = 0; place < values.size(); ++place) {
    if (element == Element::float32) {
      std::memcpy(&values[place], &bytes[place * 4], 4);
      continue;
    }
    uint16_t half;
    std::memcpy(&half, &bytes[place * 2], 2);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    if (element == Element::bfloat16) std::memcpy(&values[place], &word, 4);
    if (element == Element::float16)
      values[place] = std::ldexp(half & 0x7c00 ? 0x400 | (half & 0x3ff) : half & 0x3ff,
                                 std::max(half >> 10 & 0x1f, 1) - 25) *
                      (half & 0x8000 ? -1 : 1);
  }
  return values;
}
