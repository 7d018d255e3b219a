#pragma once

// Values in memory as each element has them, for programs without the device's own conversions.

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/passes.h"
#include "halves.h"

inline const Format& format_of(slimkern::cpu::Element element) {
  return element == slimkern::cpu::Element::float16 ? kFloat16 : kBfloat16;
}

inline std::vector<char> stored(const std::vector<double>& values, slimkern::cpu::Element element) {
  std::vector<char> bytes(values.size() * bytes_of(element));
  for (size_t place = 0; place < values.size(); ++place) {
    const float value = static_cast<float>(values[place]);
    const uint16_t half = format_of(element).bits(value);
    if (bytes_of(element) == 4)
      std::memcpy(&bytes[place * 4], &value, 4);
    else
      std::memcpy(&bytes[place * 2], &half, 2);
  }
  return bytes;
}

inline std::vector<float> read(const std::vector<char>& bytes, slimkern::cpu::Element element) {
  std::vector<float> values(bytes.size() / bytes_of(element));
  for (size_t place = 0; place < values.size(); ++place) {
    uint16_t half = 0;
    if (bytes_of(element) == 4)
      std::memcpy(&values[place], &bytes[place * 4], 4);
    else
      std::memcpy(&half, &bytes[place * 2], 2);
    if (bytes_of(element) == 2) values[place] = static_cast<float>(format_of(element).value(half));
  }
  return values;
}
