// Loops over many elements by packs: four vectors, then two, one, then single elements, with one body for all.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"

namespace mffpa {
namespace {

// V is Vector<A> or A itself.
template <class V, class T>
MFFPA_INLINE V load_as(const T* from) {
  if constexpr (std::is_arithmetic_v<V>) return to_accumulator(*from);
  else return load(from);
}

template <class V, class T>
MFFPA_INLINE void store_as(T* to, V v) {
  if constexpr (std::is_arithmetic_v<V>) *to = from_accumulator<T>(v);
  else store(to, v);
}

template <class V, class A>
constexpr int kWidth = int(sizeof(V) / sizeof(A));

// Calls body.operator()<V, N>(at) so that N neighbouring packs V from `at` on, for growing `at`, cover 0..count.
template <class A, class Body>
MFFPA_INLINE void for_each_pack(std::int64_t count, Body body) {
  std::int64_t at = 0;
  for (; at + 4 * kLanes<A> <= count; at += 4 * kLanes<A>) body.template operator()<Vector<A>, 4>(at);
  for (; at + 2 * kLanes<A> <= count; at += 2 * kLanes<A>) body.template operator()<Vector<A>, 2>(at);
  for (; at + kLanes<A> <= count; at += kLanes<A>) body.template operator()<Vector<A>, 1>(at);
  for (; at < count; ++at) body.template operator()<A, 1>(at);
}

}  // namespace
}  // namespace mffpa
