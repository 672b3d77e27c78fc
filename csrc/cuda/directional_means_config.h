// Launch configurations of the directional means. In memory, one of the two means is along the last axis, or both are
// across it: of [outer, size, inner], over `size`.
#pragma once

#include <cstdint>

#include "cuda/launch_config.h"

namespace mffpa::cuda {

constexpr int kMeanWarps = 4;

inline LaunchConfig mean_along_launch(std::int64_t lines) {  // a warp per line
  return {ceil_div(lines, kMeanWarps), kMeanWarps * kWarpSize};
}

// A block takes 32 vectors of `inner`, its warps every fourth of `size`.
inline std::int64_t mean_across_tiles(std::int64_t inner, int vector) {
  return ceil_div(inner, std::int64_t{kWarpSize} * vector);
}

inline LaunchConfig mean_across_launch(std::int64_t outer, std::int64_t inner, int vector, int accumulator_bytes) {
  return {outer * mean_across_tiles(inner, vector), kMeanWarps * kWarpSize,
          std::int64_t{kMeanWarps} * kWarpSize * vector * accumulator_bytes};
}

}  // namespace mffpa::cuda
