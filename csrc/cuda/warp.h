// Reductions over the 32 lanes of a warp, in one fixed order. All lanes must take part; each gets the result.
#pragma once

#include "cuda/elements.h"

namespace mffpa::cuda {

template <class A>
MFFPA_DEVICE A warp_sum(A x) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

template <class A>
MFFPA_DEVICE A warp_max(A x) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    x = larger(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

}  // namespace mffpa::cuda
