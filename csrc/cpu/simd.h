// One vector type per instruction set, just wide enough for the kernels: loads and stores of every element type as
// float (double for double), arithmetic by GCC/Clang vector operators, and an exponential.
//
// Included only by *_kernel.cpp files, which are compiled once per instruction set (MFFPA_ISA). Everything lives in an
// anonymous namespace: a weak symbol compiled with AVX-512 must never be picked by the linker for the baseline path.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "dtype.h"
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace mffpa {
namespace {

#define MFFPA_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// ---- element types ----------------------------------------------------------------------------------------------

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class To, class From>
MFFPA_INLINE To bit_cast_to(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

MFFPA_INLINE float to_accumulator(float x) { return x; }
MFFPA_INLINE double to_accumulator(double x) { return x; }
MFFPA_INLINE float to_accumulator(BFloat16 x) { return bit_cast_to<float>(std::uint32_t(x.bits) << 16); }
MFFPA_INLINE float to_accumulator(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  const std::uint32_t sign = std::uint32_t(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bit_cast_to<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  // Shifted into float's exponent range and scaled by 2^112: exact for normal and subnormal halves alike.
  return bit_cast_to<float>(sign | bit_cast_to<std::uint32_t>(bit_cast_to<float>(magnitude << 13) * 0x1p112f));
#endif
}

template <class T>
MFFPA_INLINE T from_accumulator(Accumulator<T> x) {
  return x;
}
template <>
MFFPA_INLINE BFloat16 from_accumulator<BFloat16>(float x) {
  const std::uint32_t u = bit_cast_to<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fc0u};  // NaN: rounding must not turn it into infinity
  return {std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};  // round to nearest even
}
template <>
MFFPA_INLINE Half from_accumulator<Half>(float x) {
#if defined(__F16C__)
  return {static_cast<std::uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
  const std::uint32_t u = bit_cast_to<std::uint32_t>(x), magnitude = u & 0x7fffffffu;
  const std::uint16_t sign = std::uint16_t(u >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return {std::uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {std::uint16_t(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded bits at the end of the mantissa
    const float shifted = bit_cast_to<float>(magnitude) + 0.5f;
    return {std::uint16_t(sign | (bit_cast_to<std::uint32_t>(shifted) - 0x3f000000u))};
  }
  return {std::uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13))};
#endif
}

// Calls body.operator()<T>() with the element type that `dtype` names.
template <class Body>
void with_element_type(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32: return body.template operator()<float>();
    case DType::kFloat64: return body.template operator()<double>();
    case DType::kFloat16: return body.template operator()<Half>();
    case DType::kBFloat16: return body.template operator()<BFloat16>();
  }
}

// ---- vectors ----------------------------------------------------------------------------------------------------

template <class A>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef std::int32_t integer __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef std::int64_t integer __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = kVectorBytes / int(sizeof(A));

template <class A>
MFFPA_INLINE Vector<A> broadcast(A x) {
  return x - Vector<A>{};  // x + 0 would not be x for -0, and so cost an addition
}

template <class T>
MFFPA_INLINE Vector<Accumulator<T>> load(const T* from) {
  using V = Vector<Accumulator<T>>;
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
  } else {
    if constexpr (__is_same(T, BFloat16)) {
      typedef std::uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
      typedef std::uint32_t Wide __attribute__((vector_size(kVectorBytes)));
      Narrow raw;
      std::memcpy(&raw, from, sizeof(raw));
      return bit_cast_to<V>(__builtin_convertvector(raw, Wide) << 16);
    }
#if defined(__AVX512F__)
    // The masked form, since GCC 12 warns of the unmasked one's undefined source operand.
    return (V)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    return (V)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    V v;
    for (int lane = 0; lane < kLanes<Accumulator<T>>; ++lane) v[lane] = to_accumulator(from[lane]);
    return v;
#endif
  }
}

// Rounds to nearest even, lane by lane the same bits as from_accumulator.
template <class T>
MFFPA_INLINE void store(T* to, Vector<Accumulator<T>> v) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    std::memcpy(to, &v, sizeof(v));
  } else if constexpr (__is_same(T, BFloat16)) {
    typedef std::uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
    typedef std::uint32_t Wide __attribute__((vector_size(kVectorBytes)));
    const Wide u = bit_cast_to<Wide>(v);
    const Wide rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    const Narrow narrow = __builtin_convertvector(v == v ? rounded : Wide{} + 0x7fc0u, Narrow);
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
#if defined(__AVX512F__)
    const __m256i narrow = _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(to, &narrow, sizeof(narrow));
#elif defined(__AVX2__)
    const __m128i narrow = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(to, &narrow, sizeof(narrow));
#else
    for (int lane = 0; lane < kLanes<Accumulator<T>>; ++lane) to[lane] = from_accumulator<T>(v[lane]);
#endif
  }
}

// a > b ? a : b: b where one is NaN.
template <class V>
MFFPA_INLINE V vector_max(V a, V b) {
#if defined(__AVX512F__)  // which GCC 12 does not find by itself
  if constexpr (__is_same(V, Vector<float>)) return (V)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#endif
  return a > b ? a : b;
}

// Combines the halves of v, in a fixed order, until kCount lanes are left.
template <int kCount, class V, class Combine>
MFFPA_INLINE auto fold_lanes(V v, Combine combine) {
  constexpr int lanes = int(sizeof(V) / sizeof(v[0]));
  if constexpr (lanes == kCount) {
    return v;
  } else {
    return [&]<int... lane>(std::integer_sequence<int, lane...>) {
      return fold_lanes<kCount>(combine(__builtin_shufflevector(v, v, lane...),
                                        __builtin_shufflevector(v, v, (lane + lanes / 2)...)), combine);
    }(std::make_integer_sequence<int, lanes / 2>{});
  }
}

template <class A>
MFFPA_INLINE A horizontal_sum(Vector<A> v) {
  const auto two = fold_lanes<2>(v, [](auto a, auto b) { return a + b; });
  return two[0] + two[1];
}

// exp(x) for x <= 0 (softmax after the maximum is taken off): 2 ulp in float; -inf gives 0, NaN stays NaN.
// Cody-Waite reduction x = n ln2 + r, |r| <= ln2/2, and a degree-6 polynomial for exp(r).
MFFPA_INLINE Vector<float> exp_nonpositive(Vector<float> x) {
  using V = Vector<float>;
  using I = VectorOf<float>::integer;
  const V lowest = broadcast(-87.33654f);  // below it exp(x) is subnormal: taken as 0
  const V clamped = vector_max(lowest, x);
  const V shifter = broadcast(12582912.0f);  // 1.5 * 2^23: the addition rounds to the nearest integer
  const V shifted = clamped * 1.44269504f + shifter;
  const V n = shifted - shifter;
  const V r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = broadcast(1.0f / 720.0f);
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const I exponent = (bit_cast_to<I>(shifted) - bit_cast_to<I>(shifter) + 127) << 23;
  const V result = p * bit_cast_to<V>(exponent);
  return x < lowest ? V{} : result;
}
MFFPA_INLINE Vector<double> exp_nonpositive(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// 1 / (1 + exp(-x)), by the exponential that cannot overflow; NaN stays NaN. V is a vector of A.
template <class A, class V = Vector<A>>
MFFPA_INLINE V sigmoid(V x) {
  const V power = exp_nonpositive(V(x < V{} ? x : -x));
  return (x < V{} ? power : broadcast(A(1))) / (power + A(1));
}

}  // namespace
}  // namespace mffpa
