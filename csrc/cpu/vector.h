#pragma once

// Included by the passes alone, which are compiled once for each instruction set: everything here has internal linkage,
// lest the linker take one instruction set's copy for another's.

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// `name` of the instruction set that SLIMKERN_ISA names.
#define SLIMKERN_JOIN_AGAIN(a, b) a##b
#define SLIMKERN_JOIN(name, isa) SLIMKERN_JOIN_AGAIN(name, isa)

namespace slimkern::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef int32_t Choice __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));

struct Float32 {
  using Stored = float;
};
struct Bfloat16 {
  using Stored = uint16_t;
};
struct Float16 {
  using Stored = uint16_t;
};

template <typename To, typename From>
inline To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Words either(Choice choice, Words yes, Words no) {
  const Words bits = same_bits<Words>(choice);
  return (bits & yes) | (~bits & no);
}

// Vectors of 16-bit values as words, and words that fit as 16-bit values. GCC takes detours for these conversions.
inline Words extended(Halves stored) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32((__m256i)stored);
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32((__m128i)stored);
#else
  return __builtin_convertvector(stored, Words);
#endif
}

inline Halves shortened(Words words) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtepi32_epi16((__m512i)words);
#else
  return __builtin_convertvector(words, Halves);
#endif
}

inline Floats widened(Halves stored, Bfloat16) { return same_bits<Floats>(extended(stored) << 16); }

inline Halves narrowed(Floats value, Bfloat16) {
  const Words bits = same_bits<Words>(value);
  const Words nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
#if defined(__AVX512F__)
  const __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
  const Words rounded = (Words)_mm512_mask_or_epi32((__m512i)nearest_even, is_nan, (__m512i)bits,
                                                    _mm512_set1_epi32(0x400000));
#else
  const Words rounded = either(value == value, nearest_even, bits | 0x400000);
#endif
  return shortened(rounded >> 16);
}

inline Floats widened(Halves stored, Float16) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(same_bits<__m256i>(stored));
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(same_bits<__m128i>(stored));
#else
  const Words word = extended(stored);
  const Words magnitude = (word & 0x7fff) << 13;
  const Floats rescaled = same_bits<Floats>(magnitude) * 0x1p112f;  // the difference of the exponents' biases
  const Words finite = same_bits<Words>(rescaled);
  const Words bits = either(magnitude >= (Words{} + (0x7c00u << 13)), magnitude | 0x7f800000, finite);
  return same_bits<Floats>(bits | ((word & 0x8000) << 16));
#endif
}

inline Halves narrowed(Floats value, Float16) {
#if defined(__AVX512F__)
  return same_bits<Halves>(_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return same_bits<Halves>(_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#else
  const Words bits = same_bits<Words>(value);
  const Words sign = (bits >> 16) & 0x8000;
  const Words magnitude = bits & 0x7fffffff;
  // Below the smallest normal number, adding a constant lets the addition itself round to the right place.
  const Words tiny = same_bits<Words>(same_bits<Floats>(magnitude) + 0.5f) - 0x3f000000;
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  Words half = either(magnitude < (Words{} + 0x38800000), tiny, normal);
  half = either(magnitude >= (Words{} + 0x477ff000), Words{} + 0x7c00, half);
  half = either(magnitude > (Words{} + 0x7f800000), Words{} + 0x7e00, half);
  return shortened(half | sign);
#endif
}

template <typename Kind>
inline Floats load(const typename Kind::Stored* from) {
  if constexpr (sizeof(*from) == 4) {
    Floats value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  } else {
    Halves stored;
    std::memcpy(&stored, from, sizeof(stored));
    return widened(stored, Kind{});
  }
}

template <typename Kind>
inline void store(typename Kind::Stored* to, Floats value) {
  if constexpr (sizeof(*to) == 4) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    const Halves stored = narrowed(value, Kind{});
    std::memcpy(to, &stored, sizeof(stored));
  }
}

// The last values of a stretch, fewer than a vector of them; the lanes beyond are zeros.
template <typename Kind>
inline Floats load_some(const typename Kind::Stored* from, int64_t count) {
  typename Kind::Stored whole[kLanes] = {};
  std::memcpy(whole, from, count * sizeof(*from));
  return load<Kind>(whole);
}

template <typename Kind>
inline void store_some(typename Kind::Stored* to, Floats value, int64_t count) {
  typename Kind::Stored whole[kLanes];
  store<Kind>(whole, value);
  std::memcpy(to, whole, count * sizeof(*to));
}

// Stores past the caches, for results too large to be found there again; `to` is aligned for a vector of its size.
template <typename Kind>
inline void stream(typename Kind::Stored* to, Floats value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(*to) == 4)
    _mm512_stream_ps(to, (__m512)value);
  else
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)narrowed(value, Kind{}));
#elif defined(__AVX2__)
  if constexpr (sizeof(*to) == 4)
    _mm256_stream_ps(to, (__m256)value);
  else
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)narrowed(value, Kind{}));
#else
  store<Kind>(to, value);
#endif
}

// Streaming stores keep no order with others: to be called before another thread may read what was streamed.
inline void finish_streaming() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 64 == 0; }

// Asks for a value that is read soon: the processor's own prefetching stops at the end of each page. An address beyond
// the tensor does no harm.
template <typename Stored>
inline void prefetch(const Stored* from) {
  __builtin_prefetch(from);
}

inline Floats floats(const float* from) { return load<Float32>(from); }

// `value` where `sign` is above zero or not a number, else zero: a ReLU passes NaN on, and so does its gradient.
inline Floats unless_negative(Floats value, Floats sign) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)sign, _mm512_setzero_ps(), _CMP_NLE_UQ), (__m512)value);
#else
  return same_bits<Floats>(same_bits<Words>(value) & ~same_bits<Words>(sign <= 0));
#endif
}

}  // namespace
}  // namespace slimkern::cpu
