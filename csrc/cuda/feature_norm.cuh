// What the kernels of feature normalisation share: a thread's place, sums over a block, moments, and the affine map.
//
// Sums run in the accumulator type over at most kLongestRun elements of a thread, and in double beyond. Sums of squares
// are those of differences from an element of the same run, so that nothing cancels in planes far from 0.
#pragma once

#include "cuda/elements.h"
#include "cuda/feature_norm_config.h"

namespace mffpa::cuda {

constexpr int kLongestRun = 64;

// One kernel for vectors of N elements. kByPixel: of N channels at one pixel (channels last), else of N pixels.
template <int kElements, bool kChannelsLast>
struct Access {
  static constexpr int N = kElements;
  static constexpr bool kByPixel = kChannelsLast;
  static constexpr int kLanes = kByPixel ? N : 1;  // channels of a thread
};

// Calls body(Access) with vectors or single elements.
template <class T, class Body>
void with_access(Layout layout, bool vectors, Body body) {
  constexpr int n = kVectorSize<T>;
  if (layout == Layout::kChannelsLast) return vectors ? body(Access<n, true>()) : body(Access<1, true>());
  return vectors ? body(Access<n, false>()) : body(Access<1, false>());
}

struct Place {
  std::int64_t batch, chunk;
  std::int64_t tile_channel, channel;  // the first of the tile, and of the thread; both are the plane's if contiguous
  std::int64_t begin, end;             // pixels of the chunk
  std::int64_t first, step;            // pixels of the thread: first, first + step, ... below end
};

// kRun: neighbouring pixels that a thread takes at once. `reversed`: what an earlier launch has read last comes first,
// since it may still be in the cache.
template <class Access, int kRun>
MFFPA_DEVICE Place place_of_thread(const FeatureNormGrid& g, bool reversed) {
  std::int64_t block = reversed ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
  const int t = int(threadIdx.x);
  Place p;
  std::int64_t tile;
  if constexpr (Access::kByPixel) {  // tiles fastest: they share the memory pages of their pixels
    tile = block % g.tiles, block /= g.tiles;
    p.chunk = block % g.chunks, p.batch = block / g.chunks;
  } else {
    p.chunk = block % g.chunks, block /= g.chunks;
    tile = block % g.tiles, p.batch = block / g.tiles;
  }
  p.tile_channel = tile * g.groups * Access::kLanes;
  p.channel = p.tile_channel + t % g.groups * Access::kLanes;
  p.begin = p.chunk * g.per_chunk;
  p.end = p.begin + g.per_chunk < g.pixels ? p.begin + g.per_chunk : g.pixels;
  p.first = p.channel < g.channels ? p.begin + t / g.groups * kRun : p.end;
  p.step = std::int64_t(g.threads / g.groups) * kRun;
  return p;
}

// Where a channel of `pixels` pixels starts in memory, and the distance of its pixels.
template <class Access>
MFFPA_DEVICE std::int64_t start_of(const FeatureNormGrid& g, std::int64_t pixels, std::int64_t batch,
                                   std::int64_t channel) {
  return Access::kByPixel ? batch * pixels * g.channels + channel : (batch * g.channels + channel) * pixels;
}
template <class Access>
MFFPA_DEVICE std::int64_t stride_of(const FeatureNormGrid& g) {
  return Access::kByPixel ? g.channels : 1;
}

// The partial sums of every chunk: contiguous [batch, channels, chunks, 3], channels last [batch, chunks, 3, channels].
template <class A>
struct Partials {
  A* at;
  std::int64_t pixels, per_chunk, chunks;

  template <class Access>
  MFFPA_DEVICE A& of(const FeatureNormGrid& g, std::int64_t batch, std::int64_t channel, std::int64_t chunk,
                     int which) const {
    if constexpr (Access::kByPixel)
      return at[((batch * chunks + chunk) * kPartialsPerChunk + which) * g.channels + channel];
    return at[((batch * g.channels + channel) * chunks + chunk) * kPartialsPerChunk + which];
  }
  MFFPA_DEVICE double count(std::int64_t chunk) const {
    return double(chunk + 1 < chunks ? per_chunk : pixels - chunk * per_chunk);
  }
};

struct Pair {
  double first, second;
};

// Sums over the block in fixed order. Thread t brings kLanes pairs, those of columns (t % groups) * kLanes + lane, and
// gets the total of column t where there is one. `groups` is a power of two.
template <int kLanes>
MFFPA_DEVICE Pair sum_columns(const Pair (&pairs)[kLanes], int groups, double* shared) {
  const int t = int(threadIdx.x), lane = t % kWarpSize, threads = int(blockDim.x);
  const int slots = groups < kWarpSize ? threads / kWarpSize * groups : threads;
  const int slot = groups < kWarpSize ? t / kWarpSize * groups + lane : t;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    Pair pair = pairs[k];
    for (int distance = kWarpSize / 2; distance >= groups; distance /= 2) {
      pair.first += __shfl_xor_sync(0xffffffffu, pair.first, distance);
      pair.second += __shfl_xor_sync(0xffffffffu, pair.second, distance);
    }
    if (lane < groups) shared[2 * (k * slots + slot)] = pair.first, shared[2 * (k * slots + slot) + 1] = pair.second;
  }
  __syncthreads();
  Pair total{0, 0};
  if (t < groups * kLanes)
    for (int s = t / kLanes; s < slots; s += groups) {
      total.first += shared[2 * (t % kLanes * slots + s)];
      total.second += shared[2 * (t % kLanes * slots + s) + 1];
    }
  return total;
}

// Adds part(chunk, channel) up over the chunks; thread t gets the total of the tile's channel t where there is one.
template <class Access, class Part>
MFFPA_DEVICE Pair merge_chunks(const FeatureNormGrid& g, const Place& p, std::int64_t chunks, double* shared,
                               Part part) {
  const int t = int(threadIdx.x), columns = g.groups * Access::kLanes;
  const std::int64_t channel = p.tile_channel + t % columns;
  Pair sums[1] = {{0, 0}};
  for (std::int64_t chunk = t / columns; channel < g.channels && chunk < chunks; chunk += g.threads / columns) {
    const Pair pair = part(chunk, channel);
    sums[0].first += pair.first, sums[0].second += pair.second;
  }
  return sum_columns(sums, columns, shared);
}

// How a plane is normalised: y = (x - high) * factor + offset. The part of the mean that `high` cannot hold is in the
// offset; all of the mean there would cancel for planes far from 0.
template <class A>
struct Affine {
  A high, factor, offset;
  MFFPA_DEVICE A operator()(A x) const { return multiply_add(x - high, factor, offset); }
};

// The accumulators that a block shares after the merge, [map][column], behind its sums.
template <class A>
MFFPA_DEVICE A* shared_maps(double* shared, int columns) {
  return reinterpret_cast<A*>(shared + feature_norm_sums(int(blockDim.x), columns));
}

// A thread's own maps; maps 0, 1 and 2 are the affine map.
template <int kLanes, class A>
MFFPA_DEVICE void load_affine(const A* maps, int columns, int column, Affine<A> (&affine)[kLanes]) {
#pragma unroll
  for (int k = 0; k < kLanes; ++k)
    affine[k] = {maps[column + k], maps[columns + column + k], maps[2 * columns + column + k]};
}

template <class A>
MFFPA_DEVICE Affine<A> affine_of(A high, A low, A std, A eps, const A* weight, const A* bias, std::int64_t channel) {
  const A inverse_root = A(1) / root(std + eps), factor = weight ? weight[channel] * inverse_root : inverse_root;
  return {high, factor, (bias ? bias[channel] : A(0)) - low * factor};
}

}  // namespace mffpa::cuda
