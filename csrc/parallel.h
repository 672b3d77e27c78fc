// How a kernel asks its caller for threads: the bridge in python/bindings/ passes torch's thread pool,
// the C++ tests pass a plain loop. Kernels never create threads of their own.
#pragma once

#include <cstdint>
#include <type_traits>

namespace mffpa {

// Calls body(begin, end, context) on disjoint sub-ranges of [begin, end) that cover it, each at least `grain` long
// (but for the last). The result must not depend on how the range is cut.
using RangeBody = void (*)(std::int64_t begin, std::int64_t end, void* context);
using ParallelFor = void (*)(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body, void* context);

template <class Body>
void parallel_for(ParallelFor run, std::int64_t count, std::int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  if (count <= 0) return;
  run(0, count, grain < 1 ? 1 : grain,
      [](std::int64_t begin, std::int64_t end, void* context) { (*static_cast<Plain*>(context))(begin, end); },
      const_cast<std::remove_const_t<Plain>*>(&body));
}

}  // namespace mffpa
