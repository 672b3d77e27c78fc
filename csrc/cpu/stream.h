// Stores past the cache, for results that it could not hold until they are read: they spare the read of every line
// that an ordinary store begins with, and what is still to be read again stays in the cache.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include "cpu/simd.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mffpa {
namespace {

constexpr std::int64_t kStreamedBytes = std::int64_t{4} << 20;  // of a result from which on it is worth it

// `to` must be aligned to the kLanes elements that are stored. Call stream_fence() before others may read them.
template <class T>
MFFPA_INLINE void stream(T* to, Vector<Accumulator<T>> v) {
#if defined(__SSE2__)
  constexpr int bytes = kLanes<Accumulator<T>> * int(sizeof(T));
  T narrow[kLanes<Accumulator<T>>];
  store(narrow, v);
#if defined(__AVX512F__)
  if constexpr (bytes == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bit_cast_to<__m512i>(narrow));
    return;
  }
#endif
#if defined(__AVX__)
  if constexpr (bytes == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_cast_to<__m256i>(narrow));
    return;
  }
#endif
  if constexpr (bytes == 16) _mm_stream_si128(reinterpret_cast<__m128i*>(to), bit_cast_to<__m128i>(narrow));
  else
#endif
    store(to, v);
}

MFFPA_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Whether a result of so many bytes, in rows of so many elements, can and should be streamed.
template <class T>
bool worth_streaming(const T* result, std::int64_t elements, std::int64_t row) {
  constexpr std::int64_t lanes = kLanes<Accumulator<T>>;
  return elements * std::int64_t(sizeof(T)) >= kStreamedBytes && row % lanes == 0 &&
         reinterpret_cast<std::uintptr_t>(result) % (lanes * sizeof(T)) == 0;
}

}  // namespace
}  // namespace mffpa
