// Feature normalisation forward on CUDA, two launches: moments of every chunk; then every block merges those of its
// channels and normalises its own chunk, with or without a 2 x 2 max-pool. Two reads and one write.
#include "cuda/feature_norm.cuh"

namespace mffpa {
namespace cuda {
namespace {

enum Moment { kMeanHigh, kMeanLow, kSquares };  // squares of differences from the mean, summed

template <class T>
struct Moments {
  FeatureNormGrid g;
  const T* x;
  Partials<Accumulator<T>> partials;
};

// Adds the thread's elements to sums of differences from `reference`, and of their squares.
template <class Access, class T, class A = Accumulator<T>>
MFFPA_DEVICE void add_moments(const T* from, std::int64_t stride, const Place& p, const A* reference,
                              Pair (&sums)[Access::kLanes]) {
  constexpr int N = Access::N;
  for (std::int64_t run = p.first; run < p.end; run += kLongestRun * p.step) {
    const std::int64_t end = run + kLongestRun * p.step < p.end ? run + kLongestRun * p.step : p.end;
    const Vector<T, N> first = load_vector<T, N>(from + run * stride);
    A shift[N], sum[N] = {}, squares[N] = {};
#pragma unroll
    for (int k = 0; k < N; ++k) shift[k] = to_accumulator(first.at[k]);
    int count = 1;
#pragma unroll 4
    for (std::int64_t i = run + p.step; i < end; i += p.step) {
      const Vector<T, N> vector = load_vector<T, N>(from + i * stride);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const A d = to_accumulator(vector.at[k]) - shift[k];
        sum[k] += d;
        squares[k] += d * d;
      }
      ++count;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int lane = Access::kByPixel ? k : 0;
      const double e = double(shift[k]) - double(reference[lane]), s = double(sum[k]), n = double(count);
      sums[lane].first += n * e + s;
      sums[lane].second += double(squares[k]) + e * (2 * s + n * e);
    }
  }
}

// One block less than the other kernels: eight channels at once, in double, take up to 170 registers.
template <class T, class Access>
__global__ void __launch_bounds__(kFeatureNormThreads, kFeatureNormBlocks - 1) moments(const Moments<T> a) {
  using A = Accumulator<T>;
  constexpr int lanes = Access::kLanes;
  MFFPA_DYNAMIC_SHARED(double, shared);
  const Place p = place_of_thread<Access, Access::kByPixel ? 1 : Access::N>(a.g, false);
  const std::int64_t stride = stride_of<Access>(a.g);
  const T* const from = a.x + start_of<Access>(a.g, a.g.pixels, p.batch, p.channel);
  A reference[lanes] = {};
  if (p.channel < a.g.channels) {
#pragma unroll
    for (int k = 0; k < lanes; ++k) reference[k] = to_accumulator(from[p.begin * stride + k]);
  }
  Pair sums[lanes] = {};
  add_moments<Access>(from, stride, p, reference, sums);
  const Pair total = sum_columns(sums, a.g.groups, shared);
  const std::int64_t channel = p.tile_channel + threadIdx.x;
  if (int(threadIdx.x) >= a.g.groups * lanes || channel >= a.g.channels) return;
  const T* const column = a.x + start_of<Access>(a.g, a.g.pixels, p.batch, channel);
  const double shift = total.first / double(p.end - p.begin);
  const double mean = double(to_accumulator(column[p.begin * stride])) + shift;
  const double squares = total.second - total.first * shift;
  const A high = A(mean);
  a.partials.template of<Access>(a.g, p.batch, channel, p.chunk, kMeanHigh) = high;
  a.partials.template of<Access>(a.g, p.batch, channel, p.chunk, kMeanLow) = A(mean - double(high));
  // Rounding may leave less than 0; written so that NaN stays.
  a.partials.template of<Access>(a.g, p.batch, channel, p.chunk, kSquares) = A(squares < 0 ? 0.0 : squares);
}

template <class T>
struct Normalise {
  FeatureNormGrid g;
  const T* x;
  Partials<Accumulator<T>> partials;
  const Accumulator<T>*weight, *bias;
  Accumulator<T> eps;
  bool relu;
  std::int64_t width;  // of x
  T* y;
  Accumulator<T>* statistics;
};

// The affine maps of the thread's channels from the moments of all chunks, and the statistics, by one block per tile.
template <class Access, class T, class A = Accumulator<T>>
MFFPA_DEVICE void finish_statistics(const Normalise<T>& a, const Place& p, double* shared,
                                    Affine<A> (&affine)[Access::kLanes]) {
  const auto moment = [&](std::int64_t channel, std::int64_t chunk, Moment which) {
    return double(a.partials.template of<Access>(a.g, p.batch, channel, chunk, which));
  };
  const auto mean_of = [&](std::int64_t channel, std::int64_t chunk) {
    return moment(channel, chunk, kMeanHigh) + moment(channel, chunk, kMeanLow);
  };
  const Pair total = merge_chunks<Access>(a.g, p, a.partials.chunks, shared, [&](std::int64_t chunk, std::int64_t c) {
    const double e = mean_of(c, chunk) - mean_of(c, 0), n = a.partials.count(chunk);
    return Pair{n * e, moment(c, chunk, kSquares) + n * e * e};
  });
  const int t = int(threadIdx.x), columns = a.g.groups * Access::kLanes;
  A* const maps = shared_maps<A>(shared, columns);
  const std::int64_t channel = p.tile_channel + t;
  if (t < columns && channel < a.g.channels) {
    const double n = double(a.partials.pixels), shift = total.first / n, mean = mean_of(channel, 0) + shift;
    const double squares = total.second - total.first * shift;
    const A high = A(mean), low = A(mean - double(high));
    const A std = A(sqrt(squares < 0 ? 0.0 : squares / (n > 1 ? n - 1 : 1)));
    const Affine<A> map = affine_of(high, low, std, a.eps, a.weight, a.bias, channel);
    maps[t] = map.high, maps[columns + t] = map.factor, maps[2 * columns + t] = map.offset;
    if (p.chunk == 0) {
      A* const statistics = a.statistics + (p.batch * a.g.channels + channel) * kStatisticsPerPlane;
      statistics[0] = high, statistics[1] = low, statistics[2] = std;
    }
  }
  __syncthreads();
  load_affine(maps, columns, t % a.g.groups * Access::kLanes, affine);
}

template <class A>
MFFPA_DEVICE A relu_if(bool on, A x) {
  return on && x < A(0) ? A(0) : x;  // keeps NaN
}

template <class T, class Access>
__global__ void __launch_bounds__(kFeatureNormThreads, kFeatureNormBlocks) normalise(const Normalise<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N;
  MFFPA_DYNAMIC_SHARED(double, shared);
  const Place p = place_of_thread<Access, Access::kByPixel ? 1 : N>(a.g, true);
  Affine<A> affine[Access::kLanes];
  finish_statistics<Access>(a, p, shared, affine);
  const std::int64_t start = start_of<Access>(a.g, a.g.pixels, p.batch, p.channel), stride = stride_of<Access>(a.g);
#pragma unroll 4
  for (std::int64_t i = p.first; i < p.end; i += p.step) {
    const Vector<T, N> from = load_vector<T, N>(a.x + start + i * stride);
    Vector<T, N> to;
#pragma unroll
    for (int k = 0; k < N; ++k)
      to.at[k] = from_accumulator<T>(relu_if(a.relu, affine[Access::kByPixel ? k : 0](to_accumulator(from.at[k]))));
    store_vector(a.y + start + i * stride, to);
  }
}

// Pixels of the result share their row number: so do the neighbours that a thread takes, since N divides the width.
MFFPA_DEVICE std::int64_t row_of(std::int64_t pixel, std::int64_t width) {
  if ((pixel | width) >> 32 == 0) return std::uint32_t(pixel) / std::uint32_t(width);  // many times faster
  return pixel / width;
}

// A NaN or an infinity anywhere makes its whole plane NaN, so it does not matter which of two `larger` takes.
template <class T, class Access>
__global__ void __launch_bounds__(kFeatureNormThreads, kFeatureNormBlocks) normalise_and_pool(const Normalise<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N;
  constexpr bool pairs = !Access::kByPixel && N > 1;  // both columns of a window come in one vector
  constexpr int results = pairs ? N / 2 : N;
  MFFPA_DYNAMIC_SHARED(double, shared);
  const Place p = place_of_thread<Access, Access::kByPixel ? 1 : results>(a.g, true);
  Affine<A> affine[Access::kLanes];
  finish_statistics<Access>(a, p, shared, affine);
  const std::int64_t stride = stride_of<Access>(a.g), out_width = a.width / 2;
  const T* const x = a.x + start_of<Access>(a.g, a.partials.pixels, p.batch, p.channel);
  T* const y = a.y + start_of<Access>(a.g, a.g.pixels, p.batch, p.channel);
#pragma unroll 2
  for (std::int64_t i = p.first; i < p.end; i += p.step) {
    const std::int64_t row = row_of(i, out_width), column = i - row * out_width;
    const T* const corner = x + (2 * row * a.width + 2 * column) * stride;
    A largest[N];
    const auto take = [&](std::int64_t pixel, bool first) {
      const Vector<T, N> from = load_vector<T, N>(corner + pixel * stride);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const A value = affine[Access::kByPixel ? k : 0](to_accumulator(from.at[k]));
        largest[k] = first ? value : larger(largest[k], value);
      }
    };
    take(0, true), take(a.width, false);
    if constexpr (!pairs) take(1, false), take(a.width + 1, false);
    Vector<T, results> to;
#pragma unroll
    for (int k = 0; k < results; ++k) {
      if constexpr (pairs) largest[k] = larger(largest[2 * k], largest[2 * k + 1]);
      to.at[k] = from_accumulator<T>(relu_if(a.relu, largest[k]));
    }
    store_vector(y + i * stride, to);
  }
}

template <class T>
void forward(const PlaneShape& s, const FeatureNormOptions& options, const T* x, const Accumulator<T>* weight,
             const Accumulator<T>* bias, T* y, Accumulator<T>* statistics, Accumulator<T>* workspace, void* stream) {
  using A = Accumulator<T>;
  const bool by_pixel = s.layout == Layout::kChannelsLast;
  const std::int64_t pixels = s.height * s.width, chunk = feature_norm_chunk(s.layout, pixels);
  const Partials<A> partials{workspace, pixels, chunk, ceil_div(pixels, chunk)};
  const auto vectors = [&](std::int64_t along) {
    return is_aligned(x) && is_aligned(y) && (by_pixel ? s.channels : along) % kVectorSize<T> == 0;
  };
  with_access<T>(s.layout, vectors(pixels), [&]<class Access>(Access) {
    const FeatureNormGrid g(s, pixels, chunk, Access::kLanes, by_pixel ? 1 : Access::N);
    launch(moments<T, Access>, g.launch(g.groups * Access::kLanes, 0, 0), stream, {g, x, partials});
    if (!options.pool)
      launch(normalise<T, Access>, g.launch(g.groups * Access::kLanes, 3, sizeof(A)), stream,
             {g, x, partials, weight, bias, A(options.eps), options.relu, s.width, y, statistics});
  });
  if (!options.pool) return;
  const std::int64_t out = (s.height / 2) * (s.width / 2), out_chunk = ceil_div(ceil_div(chunk, 4), 8) * 8;
  with_access<T>(s.layout, vectors(s.width), [&]<class Access>(Access) {
    const FeatureNormGrid g(s, out, out_chunk, Access::kLanes, by_pixel || Access::N == 1 ? 1 : Access::N / 2);
    launch(normalise_and_pool<T, Access>, g.launch(g.groups * Access::kLanes, 3, sizeof(A)), stream,
           {g, x, partials, weight, bias, A(options.eps), options.relu, s.width, y, statistics});
  });
}

}  // namespace
}  // namespace cuda

std::int64_t feature_norm_workspace_cuda(const PlaneShape& s) {
  const std::int64_t pixels = s.height * s.width;
  return s.batch * s.channels * cuda::kPartialsPerChunk *
         cuda::ceil_div(pixels, cuda::feature_norm_chunk(s.layout, pixels));
}

void feature_norm_forward_cuda(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
                               const void* weight, const void* bias, void* y, void* statistics, void* workspace,
                               void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    using A = cuda::Accumulator<T>;
    cuda::forward<T>(shape, options, static_cast<const T*>(x), static_cast<const A*>(weight),
                     static_cast<const A*>(bias), static_cast<T*>(y), static_cast<A*>(statistics),
                     static_cast<A*>(workspace), stream);
  });
}

}  // namespace mffpa
