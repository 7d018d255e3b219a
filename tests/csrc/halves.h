#pragma once

// The 16-bit formats by arithmetic on doubles: slow, but plainly right, and independent of any instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

inline float bits_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A format with so many bits of mantissa whose smallest normal number is 2^lowest; one bit of sign, the rest exponent.
struct Format {
  int mantissa;
  int lowest;

  uint16_t infinity() const { return static_cast<uint16_t>(0x7fff >> mantissa << mantissa); }

  double value(uint16_t bits) const {
    const int size = bits & 0x7fff, exponent = size >> mantissa, fraction = size & ((1 << mantissa) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (size >= infinity()) return fraction ? std::copysign(NAN, sign) : sign * INFINITY;
    const int units = exponent ? fraction | 1 << mantissa : fraction;
    return sign * std::ldexp(units, std::max(exponent, 1) - 1 + lowest - mantissa);
  }

  // Rounded to the nearest value, to the even one of two.
  uint16_t bits(double given) const {
    const uint16_t sign = std::signbit(given) ? 0x8000 : 0;
    if (std::isnan(given)) return sign | infinity() | 1 << (mantissa - 1);
    const double size = std::abs(given);
    if (size == 0) return sign;
    if (std::isinf(size)) return sign | infinity();
    const int exponent = std::max(std::ilogb(size), lowest);
    const auto units = static_cast<int64_t>(std::nearbyint(std::ldexp(size, mantissa - exponent)));
    // A mantissa that rounds up to the next power of two carries into the exponent, as it should.
    const int64_t found = (int64_t{exponent - lowest} << mantissa) + units;
    return sign | static_cast<uint16_t>(std::min<int64_t>(found, infinity()));
  }
};

constexpr Format kFloat16{10, -14};
constexpr Format kBfloat16{7, -126};
