// Feature normalisation backward on CUDA, two launches: sums of every chunk; then every block merges those of its
// channels and takes the gradient of its own chunk. Two reads of x and of grad_y, one write.
//
// With d = x - mean, r = (std + eps)^-1/2, n pixels, and g = grad_y where the ReLU let y through, else 0:
//   grad_bias = sum g,   grad_weight = r * sum g d,
//   grad_x = weight r (g - sum g / n) - weight r^3 / 2 * sum g d / ((n - 1) std) * d,   the last term 0 where std = 0.
#include "cuda/feature_norm.cuh"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct Gradient {
  using A = Accumulator<T>;
  FeatureNormGrid g;
  const T *x, *grad_y;
  const A *weight, *bias, *statistics;
  double eps;
  bool relu;
  Partials<A> partials;  // g, and g * (x - high)
  T* grad_x;
  A *grad_weight, *grad_bias;
};

template <class T, class A = Accumulator<T>>
MFFPA_DEVICE Affine<A> affine_of_plane(const Gradient<T>& a, std::int64_t batch, std::int64_t channel) {
  const A* const statistics = a.statistics + (batch * a.g.channels + channel) * kStatisticsPerPlane;
  return affine_of(statistics[0], statistics[1], statistics[2], A(a.eps), a.weight, a.bias, channel);
}

// The gradient that the ReLU lets through, by the value that the forward pass has computed.
template <class A>
MFFPA_DEVICE A passed(const Affine<A>& affine, bool relu, A x, A grad_y) {
  return relu && !(affine(x) > A(0)) ? A(0) : grad_y;
}

template <class T, class Access>
__global__ void __launch_bounds__(kFeatureNormThreads, kFeatureNormBlocks) gradient_sums(const Gradient<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N, lanes = Access::kLanes;
  MFFPA_DYNAMIC_SHARED(double, shared);
  const Place p = place_of_thread<Access, Access::kByPixel ? 1 : N>(a.g, false);
  Affine<A> affine[lanes] = {};
  if (p.channel < a.g.channels) {
#pragma unroll
    for (int k = 0; k < lanes; ++k) affine[k] = affine_of_plane(a, p.batch, p.channel + k);
  }
  const std::int64_t start = start_of<Access>(a.g, a.g.pixels, p.batch, p.channel), stride = stride_of<Access>(a.g);
  Pair sums[lanes] = {};
  for (std::int64_t run = p.first; run < p.end; run += kLongestRun * p.step) {
    const std::int64_t end = run + kLongestRun * p.step < p.end ? run + kLongestRun * p.step : p.end;
    A sum_g[N] = {}, sum_gd[N] = {};
#pragma unroll 4
    for (std::int64_t i = run; i < end; i += p.step) {
      const Vector<T, N> x = load_vector<T, N>(a.x + start + i * stride);
      const Vector<T, N> grad_y = load_vector<T, N>(a.grad_y + start + i * stride);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const Affine<A>& map = affine[Access::kByPixel ? k : 0];
        const A value = to_accumulator(x.at[k]), g = passed(map, a.relu, value, to_accumulator(grad_y.at[k]));
        sum_g[k] += g;
        sum_gd[k] += g * (value - map.high);
      }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      sums[Access::kByPixel ? k : 0].first += double(sum_g[k]);
      sums[Access::kByPixel ? k : 0].second += double(sum_gd[k]);
    }
  }
  const Pair total = sum_columns(sums, a.g.groups, shared);
  const std::int64_t channel = p.tile_channel + threadIdx.x;
  if (int(threadIdx.x) >= a.g.groups * lanes || channel >= a.g.channels) return;
  a.partials.template of<Access>(a.g, p.batch, channel, p.chunk, 0) = A(total.first);
  a.partials.template of<Access>(a.g, p.batch, channel, p.chunk, 1) = A(total.second);
}

constexpr int kGradientMaps = 7;  // the affine map, and Slopes

// grad_x = (g - mean) * scale - d * slope, and d * slope = (x - high) * slope - rest. The differences first: they are
// exactly 0 for a plane of one element.
template <class A>
struct Slopes {
  A mean, scale, slope, rest;
  MFFPA_DEVICE A operator()(A d, A g) const { return (g - mean) * scale - (d * slope - rest); }
};

// The maps of the thread's channels, and the parameters' gradients, by one block per tile.
template <class Access, class T, class A = Accumulator<T>>
MFFPA_DEVICE void finish_sums(const Gradient<T>& a, const Place& p, double* shared,
                              Affine<A> (&affine)[Access::kLanes], Slopes<A> (&slopes)[Access::kLanes]) {
  const Pair total = merge_chunks<Access>(a.g, p, a.partials.chunks, shared, [&](std::int64_t chunk, std::int64_t c) {
    return Pair{double(a.partials.template of<Access>(a.g, p.batch, c, chunk, 0)),
                double(a.partials.template of<Access>(a.g, p.batch, c, chunk, 1))};
  });
  const int t = int(threadIdx.x), columns = a.g.groups * Access::kLanes;
  A* const maps = shared_maps<A>(shared, columns);
  const std::int64_t channel = p.tile_channel + t;
  if (t < columns && channel < a.g.channels) {
    const std::int64_t plane = p.batch * a.g.channels + channel;
    const A* const statistics = a.statistics + plane * kStatisticsPerPlane;
    const double low = double(statistics[1]), std = double(statistics[2]), n = double(a.partials.pixels);
    const double inverse_root = 1 / sqrt(std + a.eps);
    const double scale = (a.weight ? double(a.weight[channel]) : 1.0) * inverse_root;
    const double sum_gd = total.second - low * total.first;
    const double slope = std > 0 ? 0.5 * scale * inverse_root * inverse_root * sum_gd / ((n - 1) * std) : 0.0;
    const Affine<A> map = affine_of_plane(a, p.batch, channel);
    const A values[kGradientMaps] = {map.high, map.factor, map.offset, A(total.first / n), A(scale), A(slope),
                                     A(low * slope)};
#pragma unroll
    for (int i = 0; i < kGradientMaps; ++i) maps[i * columns + t] = values[i];
    if (p.chunk == 0) a.grad_weight[plane] = A(inverse_root * sum_gd), a.grad_bias[plane] = A(total.first);
  }
  __syncthreads();
  const int column = t % a.g.groups * Access::kLanes;
  load_affine(maps, columns, column, affine);
#pragma unroll
  for (int k = 0; k < Access::kLanes; ++k)
    slopes[k] = {maps[3 * columns + column + k], maps[4 * columns + column + k], maps[5 * columns + column + k],
                 maps[6 * columns + column + k]};
}

template <class T, class Access>
__global__ void __launch_bounds__(kFeatureNormThreads, kFeatureNormBlocks) gradient_of_x(const Gradient<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N;
  MFFPA_DYNAMIC_SHARED(double, shared);
  const Place p = place_of_thread<Access, Access::kByPixel ? 1 : N>(a.g, true);
  Affine<A> affine[Access::kLanes];
  Slopes<A> slopes[Access::kLanes];
  finish_sums<Access>(a, p, shared, affine, slopes);
  const std::int64_t start = start_of<Access>(a.g, a.g.pixels, p.batch, p.channel), stride = stride_of<Access>(a.g);
#pragma unroll 2
  for (std::int64_t i = p.first; i < p.end; i += p.step) {
    const Vector<T, N> x = load_vector<T, N>(a.x + start + i * stride);
    const Vector<T, N> grad_y = load_vector<T, N>(a.grad_y + start + i * stride);
    Vector<T, N> grad_x;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int lane = Access::kByPixel ? k : 0;
      const A value = to_accumulator(x.at[k]);
      const A g = passed(affine[lane], a.relu, value, to_accumulator(grad_y.at[k]));
      grad_x.at[k] = from_accumulator<T>(slopes[lane](value - affine[lane].high, g));
    }
    store_vector(a.grad_x + start + i * stride, grad_x);
  }
}

template <class T>
void backward(const PlaneShape& s, Gradient<T> a, void* stream) {
  const bool by_pixel = s.layout == Layout::kChannelsLast;
  const bool aligned = is_aligned(a.x) && is_aligned(a.grad_y) && is_aligned(a.grad_x);
  const std::int64_t along = by_pixel ? s.channels : a.partials.pixels;
  with_access<T>(s.layout, aligned && along % kVectorSize<T> == 0, [&]<class Access>(Access) {
    a.g = FeatureNormGrid(s, a.partials.pixels, a.partials.per_chunk, Access::kLanes, by_pixel ? 1 : Access::N);
    const int columns = a.g.groups * Access::kLanes;
    launch(gradient_sums<T, Access>, a.g.launch(columns, 0, 0), stream, a);
    launch(gradient_of_x<T, Access>, a.g.launch(columns, kGradientMaps, sizeof(Accumulator<T>)), stream, a);
  });
}

}  // namespace
}  // namespace cuda

void feature_norm_backward_cuda(DType dtype, const PlaneShape& s, const FeatureNormOptions& options,
                                const void* grad_y, const void* x, const void* weight, const void* bias,
                                const void* statistics, void* grad_x, void* grad_weight_parts, void* grad_bias_parts,
                                void* workspace, void* stream) {
  const std::int64_t pixels = s.height * s.width, chunk = cuda::feature_norm_chunk(s.layout, pixels);
  cuda::with_element_type(dtype, [&]<class T>(T) {
    using A = cuda::Accumulator<T>;
    cuda::Gradient<T> a{};
    a.x = static_cast<const T*>(x), a.grad_y = static_cast<const T*>(grad_y);
    a.weight = static_cast<const A*>(weight), a.bias = static_cast<const A*>(bias);
    a.statistics = static_cast<const A*>(statistics), a.eps = options.eps, a.relu = options.relu;
    a.partials = {static_cast<A*>(workspace), pixels, chunk, cuda::ceil_div(pixels, chunk)};
    a.grad_x = static_cast<T*>(grad_x);
    a.grad_weight = static_cast<A*>(grad_weight_parts), a.grad_bias = static_cast<A*>(grad_bias_parts);
    cuda::backward<T>(s, a, stream);
  });
}

}  // namespace mffpa
