// Lines of neighbouring elements whose length is no multiple of the vector width, such as the rows of small images:
// vectors run over the line's end where what lies there may be read or written, and through a buffer elsewhere.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace mffpa {
namespace {

// The first `count` elements at `from`, and anything in the lanes after them. Reads beyond them, but not beyond `end`.
template <class T, class V = Vector<Accumulator<T>>>
MFFPA_INLINE V load_some(const T* from, std::int64_t count, const T* end) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (__builtin_expect(end - from >= lanes, 1)) return load(from);
  T buffer[lanes] = {};
  if (count > 0) std::memcpy(buffer, from, std::size_t(count < lanes ? count : lanes) * sizeof(T));
  return load(buffer);
}

// Writes the first `count` lanes, and the others after them where they fit before `end`.
template <class T>
MFFPA_INLINE void store_some(T* to, Vector<Accumulator<T>> v, std::int64_t count, const T* end) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (__builtin_expect(end - to >= lanes, 1)) return store(to, v);
  T buffer[lanes];
  store(buffer, v);
  std::memcpy(to, buffer, std::size_t(count < lanes ? count : lanes) * sizeof(T));
}

// 0 in the lanes from `count` on.
template <class A>
MFFPA_INLINE Vector<A> keep_first(Vector<A> v, std::int64_t count) {
  if (__builtin_expect(count >= kLanes<A>, 1)) return v;
  typename VectorOf<A>::integer lane{};
  for (int i = 0; i < kLanes<A>; ++i) lane[i] = i;
  return lane < int(count) ? v : Vector<A>{};
}

}  // namespace
}  // namespace mffpa
