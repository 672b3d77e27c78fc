// What the forward and the backward kernels of feature normalisation share.
// Included only by feature_norm_*_kernel.cpp; see simd.h for the anonymous namespace.
//
// Contiguous tensors are worked on plane by plane. Channels-last tensors are cut into chunks of pixels whose partial
// results are merged in order, so that no result depends on the number of threads.
#pragma once

#include <cmath>

#include "cpu/packs.h"
#include "feature_norm.h"

namespace mffpa {
namespace {

constexpr std::int64_t kChunkElements = 8192;  // of a contiguous plane, that are summed in one go

template <class T>
struct Problem {
  using A = Accumulator<T>;
  PlaneShape s;
  FeatureNormOptions options;
  const A *weight, *bias;
  std::int64_t pixels, planes, per_chunk, chunks;  // pixels of a plane; planes = batch * channels

  Problem(const PlaneShape& shape, const FeatureNormOptions& o, const void* w, const void* b)
      : s(shape), options(o), weight(static_cast<const A*>(w)), bias(static_cast<const A*>(b)),
        pixels(shape.height * shape.width), planes(shape.batch * shape.channels),
        per_chunk(feature_norm_pixels_per_chunk(shape)), chunks(feature_norm_chunks(shape)) {}

  std::int64_t chunk_size(std::int64_t chunk) const {
    const std::int64_t left = pixels - chunk * per_chunk;
    return left < per_chunk ? left : per_chunk;
  }
};

// How a plane is normalised: y = (x - high - low) * factor + bias.
template <class A>
struct Affine {
  A high, low, factor, bias;
};

template <class T, class A = Accumulator<T>>
MFFPA_INLINE Affine<A> affine_of(const Problem<T>& p, std::int64_t channel, const A* statistics) {
  const A inverse_root = A(1) / std::sqrt(statistics[2] + A(p.options.eps));
  return {statistics[0], statistics[1], p.weight ? p.weight[channel] * inverse_root : inverse_root,
          p.bias ? p.bias[channel] : A(0)};
}

template <class V>
MFFPA_INLINE V relu(V x) {
  return x < V{} ? V{} : x;  // keeps NaN
}

}  // namespace
}  // namespace mffpa
