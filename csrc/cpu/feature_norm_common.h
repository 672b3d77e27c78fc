// What the forward and the backward kernels of feature normalisation share.
// Included only by feature_norm_*_kernel.cpp; see simd.h for the anonymous namespace.
//
// Contiguous tensors are worked on plane by plane. Channels-last tensors are cut into chunks of pixels whose partial
// results are merged in order, so that no result depends on the number of threads. Every second pass over something
// goes backwards: what was read last is still in the cache.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/packs.h"
#include "cpu/stream.h"
#include "feature_norm.h"

namespace mffpa {
namespace {

constexpr std::int64_t kTaskElements = 16384;  // at least; less is not worth waking a thread for

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

  std::int64_t chunk_size(std::int64_t chunk) const { return std::min(pixels - chunk * per_chunk, per_chunk); }
};

// body(plane)
template <class T, class Body>
void for_each_plane(const Problem<T>& p, ParallelFor parallel, Body body) {
  parallel_for(parallel, p.planes, kTaskElements / p.pixels, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) body(plane);
    stream_fence();
  });
}

// body(sample, chunk of a channels-last sample, offset of its first element); each thread's last chunk comes first if
// `backwards`.
template <class T, class Body>
void for_each_chunk(const Problem<T>& p, ParallelFor parallel, bool backwards, Body body) {
  const std::int64_t grain = kTaskElements / (p.per_chunk * p.s.channels);
  parallel_for(parallel, p.s.batch * p.chunks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t task = backwards ? begin + end - 1 - i : i, sample = task / p.chunks, chunk = task % p.chunks;
      body(sample, chunk, (sample * p.pixels + chunk * p.per_chunk) * p.s.channels);
    }
    stream_fence();
  });
}

// body(sample), for work on every chunk's partial results and nothing else.
template <class T, class Body>
void for_each_sample(const Problem<T>& p, ParallelFor parallel, Body body) {
  parallel_for(parallel, p.s.batch, kTaskElements / (p.chunks * p.s.channels),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t sample = begin; sample < end; ++sample) body(sample);
               });
}

template <bool streamed, class V, class T>
MFFPA_INLINE void put(T* to, V v) {
  if constexpr (streamed && !std::is_arithmetic_v<V>) stream(to, v);
  else store_as<V>(to, v);
}

// How a plane is normalised: y = (x - high) * factor + offset. The part of the mean that `high` cannot hold is in the
// offset; all of the mean there would cancel for planes far from 0.
template <class A>
struct Affine {
  A high, factor, offset;

  template <class V>
  MFFPA_INLINE V operator()(V x) const {
    return (x - high) * factor + offset;
  }
};

template <class T, class A = Accumulator<T>>
MFFPA_INLINE Affine<A> affine_of(const Problem<T>& p, std::int64_t channel, const A* statistics) {
  const A inverse_root = A(1) / std::sqrt(statistics[2] + A(p.options.eps));
  const A factor = p.weight ? p.weight[channel] * inverse_root : inverse_root;
  return {statistics[0], factor, (p.bias ? p.bias[channel] : A(0)) - statistics[1] * factor};
}

template <class V>
MFFPA_INLINE V relu(V x) {
  return x < V{} ? V{} : x;  // keeps NaN
}
template <class V>
MFFPA_INLINE V relu_if(bool on, V x) {
  return on ? relu(x) : x;
}

}  // namespace
}  // namespace mffpa
