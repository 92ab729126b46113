// Vectors as wide as the machine's, and what gates need of them.
//
// GCC's and Clang's vector extensions: one source for AVX-512, AVX2, SSE and NEON. Intrinsics only
// where there are instructions for bfloat16.
#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int64_t BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int64_t BYTES = 16, REGISTERS = 32;
#else
constexpr int64_t BYTES = 16, REGISTERS = 16;
#endif

constexpr int64_t CACHE_LINE = 64;  // bytes

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
constexpr int64_t LANES = BYTES / sizeof(T);

template <typename To, typename From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // adding to zero would be an instruction more: it changes -0
}

// `count` numbers, at most a vector of them; the other lanes are zero.

template <typename T, typename = std::enable_if_t<std::is_floating_point_v<T>>>
inline Vector<T> load(const T* from, int64_t count = LANES<T>) {
  Vector<T> values = {};
  if (count >= LANES<T>) {
    std::memcpy(&values, from, BYTES);
  } else {
    std::memcpy(&values, from, count * sizeof(T));
  }
  return values;
}

template <typename T>
inline void store(T* to, Vector<T> values, int64_t count = LANES<T>) {
  if (count >= LANES<T>) {
    std::memcpy(to, &values, BYTES);
  } else {
    std::memcpy(to, &values, count * sizeof(T));
  }
}

// Ask for memory that will soon be used, where the processor does not foresee it by itself.
template <typename T>
inline void fetch(const T* from, int64_t count) {
  auto line = reinterpret_cast<const char*>(from);
  for (auto end = line + count * sizeof(T); line < end; line += CACHE_LINE)
    __builtin_prefetch(line, 1, 2);
}

// A bfloat16 is the upper half of a float.

typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));

inline Vector<float> load(const c10::BFloat16* from, int64_t count = LANES<float>) {
  Halves halves = {};
  if (count >= LANES<float>) {
    std::memcpy(&halves, from, BYTES / 2);
  } else {
    std::memcpy(&halves, from, count * sizeof(c10::BFloat16));
  }
  return same_bits<Vector<float>>(__builtin_convertvector(halves, Vector<uint32_t>) << 16);
}

inline Vector<uint32_t> rounded_to_upper_half(Vector<float> values) {
  auto bits = same_bits<Vector<uint32_t>>(values);
  auto rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
  return values == values ? rounded : bits | 0x400000;  // what is not a number stays that
}

inline Halves upper_halves(Vector<float> values) {
#if defined(__AVX512BF16__)
  return same_bits<Halves>(_mm512_cvtneps_pbh(same_bits<__m512>(values)));
#else
  return __builtin_convertvector(rounded_to_upper_half(values) >> 16, Halves);
#endif
}

inline void store(c10::BFloat16* to, Vector<float> values, int64_t count = LANES<float>) {
  auto halves = upper_halves(values);
  if (count >= LANES<float>) {
    std::memcpy(to, &halves, BYTES / 2);
  } else {
    std::memcpy(to, &halves, count * sizeof(c10::BFloat16));
  }
}

// exp(x) = 2^n exp(r) with |r| <= ln(2) / 2; the polynomial is that of Moshier's Cephes (1989).
inline Vector<float> exponential(Vector<float> x) {
  x = x < -87.0f ? broadcast(-87.0f) : x;
  x = x > 88.0f ? broadcast(88.0f) : x;
  // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits.
  auto shifted = x * 1.44269504f + 12582912.0f;
  auto n = shifted - 12582912.0f;
  auto r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln(2) in two parts
  auto p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  auto bits = same_bits<Vector<int32_t>>(p) + (same_bits<Vector<int32_t>>(shifted) << 23);
  return x == x ? same_bits<Vector<float>>(bits) : x;
}

inline Vector<float> sigmoid(Vector<float> x) { return 1 / (1 + exponential(-x)); }

// To about 1e-7, which near zero is not the same as to seven digits.
inline Vector<float> hyperbolic_tangent(Vector<float> x) {
  return 1 - 2 / (1 + exponential(2 * x));
}

// In double precision exact rather than fast: it is what tests compare with.

inline Vector<double> sigmoid(Vector<double> x) {
  for (int64_t lane = 0; lane < LANES<double>; ++lane) x[lane] = 1 / (1 + std::exp(-x[lane]));
  return x;
}

inline Vector<double> hyperbolic_tangent(Vector<double> x) {
  for (int64_t lane = 0; lane < LANES<double>; ++lane) x[lane] = std::tanh(x[lane]);
  return x;
}

}  // namespace
