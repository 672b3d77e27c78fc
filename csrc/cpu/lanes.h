// Vectors of which only some lanes count, and reductions over the lanes.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace mffpa {
namespace {

// body(0, 1, ..., lanes - 1), each a compile-time constant.
template <class A, class Body>
MFFPA_INLINE auto for_lanes(Body body) {
  return [&]<int... lane>(std::integer_sequence<int, lane...>) {
    return body(std::integral_constant<int, lane>{}...);
  }(std::make_integer_sequence<int, kLanes<A>>{});
}

// The first `count` elements alone are read or written; lanes past them are 0.
template <class T>
MFFPA_INLINE Vector<Accumulator<T>> load_first(const T* from, int count) {
#if defined(__AVX512F__)
  if constexpr (__is_same(T, float)) return (Vector<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
  if constexpr (sizeof(T) == 2) {
    const __m256i raw = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from);
    return load(reinterpret_cast<const T*>(&raw));
  }
#endif
  T lanes[kLanes<Accumulator<T>>] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = from[lane];
  return load(lanes);
}

template <class T>
MFFPA_INLINE void store_first(T* to, Vector<Accumulator<T>> v, int count) {
#if defined(__AVX512F__)
  if constexpr (__is_same(T, float)) return _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)v);
#endif
  T lanes[kLanes<Accumulator<T>>];
  store(lanes, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) {
    __m256i raw;
    std::memcpy(&raw, lanes, sizeof(raw));
    return _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), raw);
  }
#endif
  for (int lane = 0; lane < count; ++lane) to[lane] = lanes[lane];
}

template <class A>
MFFPA_INLINE A horizontal_max(Vector<A> v) {
  return fold_lanes<A, 1>(v, [](auto a, auto b) { return a > b ? a : b; })[0];
}

// Within every group of four lanes, the result's lane l is lane k_l of a's group (0 to 3) or of b's group (4 to 7).
template <class A, int k0, int k1, int k2, int k3>
MFFPA_INLINE Vector<A> shuffle_groups(Vector<A> a, Vector<A> b) {
  constexpr int chosen[4] = {k0, k1, k2, k3};
  return for_lanes<A>([&](auto... lane) {
    return __builtin_shufflevector(a, b, (lane / 4 * 4 + chosen[lane % 4] % 4 + chosen[lane % 4] / 4 * kLanes<A>)...);
  });
}

// results[k] = all lanes of v[k] combined, for one or four vectors; four cost less than four times one.
template <int N, class A, class Combine>
MFFPA_INLINE void reduce_lanes(const Vector<A> (&v)[N], A (&results)[N], Combine combine) {
  if constexpr (N == 4 && kLanes<A> >= 4) {
    const auto pair = [&](Vector<A> a, Vector<A> b) {
      return combine(shuffle_groups<A, 0, 4, 1, 5>(a, b), shuffle_groups<A, 2, 6, 3, 7>(a, b));
    };
    const Vector<A> first = pair(v[0], v[1]), second = pair(v[2], v[3]);
    const auto four = fold_lanes<4>(combine(shuffle_groups<A, 0, 1, 4, 5>(first, second),
                                            shuffle_groups<A, 2, 3, 6, 7>(first, second)), combine);
    std::memcpy(results, &four, sizeof(four));
  } else {
    for (int k = 0; k < N; ++k) {
      const auto two = fold_lanes<2>(v[k], combine);
      results[k] = combine(two[0], two[1]);
    }
  }
}

template <int N, class A>
MFFPA_INLINE void horizontal_sums(const Vector<A> (&v)[N], A (&sums)[N]) {
  reduce_lanes(v, sums, [](auto a, auto b) { return a + b; });
}

template <int N, class A>
MFFPA_INLINE void horizontal_maxima(const Vector<A> (&v)[N], A (&maxima)[N]) {
  reduce_lanes(v, maxima, [](auto a, auto b) { return vector_max(a, b); });
}

}  // namespace
}  // namespace mffpa
