// Backward pass of feature normalisation on the CPU, compiled once per instruction set. Two reads of x and of grad_y.
//
// With d = x - mean, r = (std + eps)^-1/2, n pixels, and g = grad_y where the ReLU let y through, else 0:
//   grad_bias = sum g,   grad_weight = r * sum g d,
//   grad_x = weight r (g - sum g / n) - weight r^3 / 2 * sum g d / ((n - 1) std) * d,   the last term 0 where std = 0.
#include "cpu/feature_norm_common.h"
#include "cpu/feature_norm_kernels.h"

namespace mffpa {
namespace {

// grad_x = (g - mean) * scale - d * slope. The difference first: it is exactly 0 for a plane of one element.
template <class A>
struct Slopes {
  A mean, scale, slope;
};

template <class T, class A = Accumulator<T>>
MFFPA_INLINE Slopes<A> finish_plane(const Problem<T>& p, std::int64_t plane, const A* statistics, double sum_g,
                                    double sum_gd, A* grad_weight, A* grad_bias) {
  const std::int64_t channel = plane % p.s.channels;
  const double std = double(statistics[2]), root = 1 / std::sqrt(std + p.options.eps), n = double(p.pixels);
  const double scale = (p.weight ? double(p.weight[channel]) : 1.0) * root;
  grad_weight[plane] = A(root * sum_gd);
  grad_bias[plane] = A(sum_g);
  const double slope = std > 0 ? 0.5 * scale * root * root * sum_gd / ((n - 1) * std) : 0.0;
  return {A(sum_g / n), A(scale), A(slope)};
}

// One pack: the deviation d, and the gradient g that the ReLU let through.
template <class V>
struct Pair {
  V d, g;
};

template <class V, class T, class F>
MFFPA_INLINE Pair<V> pair_at(const T* x, const T* grad_y, F high, F low, F factor, F bias, bool with_relu) {
  const V d = (load_as<V>(x) - high) - low;
  const V g = load_as<V>(grad_y);
  return {d, with_relu ? (d * factor + bias > V{} ? g : V{}) : g};
}

template <class A, class V>
MFFPA_INLINE double total(const V& v) {
  if constexpr (std::is_arithmetic_v<V>) return double(v);
  else return double(horizontal_sum<A>(v));
}

template <class T, class A = Accumulator<T>>
void backward_contiguous(const Problem<T>& p, const T* x, const T* grad_y, const A* statistics, T* grad_x,
                         A* grad_weight, A* grad_bias, ParallelFor parallel) {
  const bool with_relu = p.options.relu;
  parallel_for(parallel, p.planes, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const A* stats = statistics + plane * kStatisticsPerPlane;
      const Affine<A> a = affine_of(p, plane % p.s.channels, stats);
      const T *from = x + plane * p.pixels, *dy = grad_y + plane * p.pixels;
      double sum_g = 0, sum_gd = 0;
      for (std::int64_t first = 0; first < p.pixels; first += kChunkElements) {  // float sums stay short
        const std::int64_t count = p.pixels - first < kChunkElements ? p.pixels - first : kChunkElements;
        Vector<A> g_sum[4] = {}, gd_sum[4] = {};
        for_each_pack<A>(count, [&]<class V, int N>(std::int64_t at) {
          for (int k = 0; k < N; ++k) {
            const std::int64_t i = first + at + k * kWidth<V, A>;
            const auto [d, g] = pair_at<V>(from + i, dy + i, a.high, a.low, a.factor, a.bias, with_relu);
            if constexpr (std::is_arithmetic_v<V>) sum_g += double(g), sum_gd += double(g * d);
            else g_sum[k] += g, gd_sum[k] += g * d;
          }
        });
        for (int k = 0; k < 4; ++k) sum_g += total<A>(g_sum[k]), sum_gd += total<A>(gd_sum[k]);
      }
      const Slopes<A> slopes = finish_plane(p, plane, stats, sum_g, sum_gd, grad_weight, grad_bias);
      T* to = grad_x + plane * p.pixels;
      for_each_pack<A>(p.pixels, [&]<class V, int N>(std::int64_t at) {
        for (int k = 0; k < N; ++k) {
          const std::int64_t i = at + k * kWidth<V, A>;
          const auto [d, g] = pair_at<V>(from + i, dy + i, a.high, a.low, a.factor, a.bias, with_relu);
          store_as<V>(to + i, V((g - slopes.mean) * slopes.scale - d * slopes.slope));
        }
      });
    }
  });
}

// Rows of a sample's channels, [rows, channels], for vectors to be loaded from.
enum Row { kHigh, kLow, kFactor, kBias, kMean, kScale, kSlope, kRows };

template <class T, class A = Accumulator<T>>
void backward_channels_last(const Problem<T>& p, const T* x, const T* grad_y, const A* statistics, T* grad_x,
                            A* grad_weight, A* grad_bias, A* workspace, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels, tasks = p.s.batch * p.chunks;
  const bool with_relu = p.options.relu;
  A* parts = workspace + p.s.batch * kRows * channels;  // [batch, chunks, 2, channels]
  parallel_for(parallel, p.planes, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const Affine<A> a = affine_of(p, plane % channels, statistics + plane * kStatisticsPerPlane);
      A* row = workspace + plane / channels * kRows * channels + plane % channels;
      row[kHigh * channels] = a.high, row[kLow * channels] = a.low;
      row[kFactor * channels] = a.factor, row[kBias * channels] = a.bias;
    }
  });
  parallel_for(parallel, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / p.chunks, chunk = task % p.chunks;
      const std::int64_t start = (b * p.pixels + chunk * p.per_chunk) * channels;
      const A* rows = workspace + b * kRows * channels;
      for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
        V sum_g[N] = {}, sum_gd[N] = {};
        for (std::int64_t i = 0; i < p.chunk_size(chunk); ++i)
          for (int k = 0; k < N; ++k) {
            const std::int64_t at = c + k * kWidth<V, A>, j = start + i * channels + at;
            const auto [d, g] = pair_at<V>(
                x + j, grad_y + j, load_as<V>(rows + kHigh * channels + at), load_as<V>(rows + kLow * channels + at),
                load_as<V>(rows + kFactor * channels + at), load_as<V>(rows + kBias * channels + at), with_relu);
            sum_g[k] += g;
            sum_gd[k] += g * d;
          }
        for (int k = 0; k < N; ++k) {
          store_as<V>(parts + task * 2 * channels + c + k * kWidth<V, A>, sum_g[k]);
          store_as<V>(parts + (task * 2 + 1) * channels + c + k * kWidth<V, A>, sum_gd[k]);
        }
      });
    }
  });
  parallel_for(parallel, p.planes, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      double sum_g = 0, sum_gd = 0;
      for (std::int64_t chunk = 0; chunk < p.chunks; ++chunk) {
        const A* part = parts + (plane / channels * p.chunks + chunk) * 2 * channels + plane % channels;
        sum_g += double(part[0]), sum_gd += double(part[channels]);
      }
      const Slopes<A> slopes = finish_plane(p, plane, statistics + plane * kStatisticsPerPlane, sum_g, sum_gd,
                                            grad_weight, grad_bias);
      A* row = workspace + plane / channels * kRows * channels + plane % channels;
      row[kMean * channels] = slopes.mean, row[kScale * channels] = slopes.scale;
      row[kSlope * channels] = slopes.slope;
    }
  });
  parallel_for(parallel, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / p.chunks, chunk = task % p.chunks;
      const std::int64_t start = (b * p.pixels + chunk * p.per_chunk) * channels;
      const A* rows = workspace + b * kRows * channels;
      for (std::int64_t i = 0; i < p.chunk_size(chunk); ++i)
        for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
          for (int k = 0; k < N; ++k) {
            const std::int64_t at = c + k * kWidth<V, A>, j = start + i * channels + at;
            const auto row = [&](Row which) { return load_as<V>(rows + which * channels + at); };
            const auto [d, g] =
                pair_at<V>(x + j, grad_y + j, row(kHigh), row(kLow), row(kFactor), row(kBias), with_relu);
            store_as<V>(grad_x + j, V((g - row(kMean)) * row(kScale) - d * row(kSlope)));
          }
        });
    }
  });
}

template <class T>
void run(const PlaneShape& shape, const FeatureNormOptions& options, const void* grad_y, const void* x,
         const void* weight, const void* bias, const void* statistics, void* grad_x, void* grad_weight,
         void* grad_bias, void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const Problem<T> p(shape, options, weight, bias);
  const auto *from = static_cast<const T*>(x), *dy = static_cast<const T*>(grad_y);
  const auto* stats = static_cast<const A*>(statistics);
  auto* dx = static_cast<T*>(grad_x);
  auto *dw = static_cast<A*>(grad_weight), *db = static_cast<A*>(grad_bias);
  if (shape.layout == Layout::kContiguous) backward_contiguous(p, from, dy, stats, dx, dw, db, parallel);
  else backward_channels_last(p, from, dy, stats, dx, dw, db, static_cast<A*>(workspace), parallel);
}

void backward(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* grad_y,
              const void* x, const void* weight, const void* bias, const void* statistics, void* grad_x,
              void* grad_weight, void* grad_bias, void* workspace, ParallelFor parallel) {
  const auto call = [&]<class T>() {
    run<T>(shape, options, grad_y, x, weight, bias, statistics, grad_x, grad_weight, grad_bias, workspace, parallel);
  };
  switch (dtype) {
    case DType::kFloat32: return call.template operator()<float>();
    case DType::kFloat64: return call.template operator()<double>();
    case DType::kFloat16: return call.template operator()<Half>();
    case DType::kBFloat16: return call.template operator()<BFloat16>();
  }
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&feature_norm_backward_cpu) feature_norm_backward = &backward;
}

}  // namespace mffpa
