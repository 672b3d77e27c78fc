// Backward pass of feature normalisation on the CPU, compiled once per instruction set. Two reads of x and of grad_y.
//
// With d = x - mean, r = (std + eps)^-1/2, n pixels, and g = grad_y where the ReLU let y through, else 0:
//   grad_bias = sum g,   grad_weight = r * sum g d,
//   grad_x = weight r (g - sum g / n) - weight r^3 / 2 * sum g d / ((n - 1) std) * d,   the last term 0 where std = 0.
#include <cstring>

#include "cpu/feature_norm_common.h"
#include "cpu/feature_norm_kernels.h"

namespace mffpa {
namespace {

constexpr std::int64_t kBlock = 4096;  // elements of a contiguous plane whose sums are taken in the accumulator type

// grad_x = (g - mean) * scale - d * slope, and d * slope = (x - high) * slope - rest. The differences first: they are
// exactly 0 for a plane of one element.
template <class A>
struct Slopes {
  A mean, scale, slope, rest;

  template <class V>
  MFFPA_INLINE V operator()(V d, V g) const {
    return (g - mean) * scale - (d * slope - rest);
  }
};

// sum_gd is that of g * (x - high).
template <class T, class A = Accumulator<T>>
MFFPA_INLINE Slopes<A> finish_plane(const Problem<T>& p, std::int64_t plane, const A* statistics, double sum_g,
                                    double sum_gd, A* grad_weight, A* grad_bias) {
  const std::int64_t channel = plane % p.s.channels;
  const double low = double(statistics[1]), std = double(statistics[2]);
  const double root = 1 / std::sqrt(std + p.options.eps), n = double(p.pixels);
  const double scale = (p.weight ? double(p.weight[channel]) : 1.0) * root;
  sum_gd -= low * sum_g;
  grad_weight[plane] = A(root * sum_gd);
  grad_bias[plane] = A(sum_g);
  const double slope = std > 0 ? 0.5 * scale * root * root * sum_gd / ((n - 1) * std) : 0.0;
  return {A(sum_g / n), A(scale), A(slope), A(low * slope)};
}

// One pack: d = x - high, and the gradient g that the ReLU let through.
template <class V>
struct Pair {
  V d, g;
};

template <class V, class T, class F>
MFFPA_INLINE Pair<V> pair_at(const T* x, const T* grad_y, const Affine<F>& a, bool with_relu) {
  const V d = load_as<V>(x) - a.high, g = load_as<V>(grad_y);
  return {d, with_relu ? (d * a.factor + a.offset > V{} ? g : V{}) : g};
}

// A sum in double of short sums in the accumulator type, lane by lane.
template <class A>
struct LaneSum {
  static constexpr int kSize = 4 * kLanes<A>;
  double sums[kSize] = {};

  MFFPA_INLINE void add(const Vector<A> (&short_sums)[4]) {
    A values[kSize];
    std::memcpy(values, short_sums, sizeof(values));
    for (int i = 0; i < kSize; ++i) sums[i] += double(values[i]);
  }

  MFFPA_INLINE double total() {
    for (int half = kSize / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
  }
};

template <bool streamed, class T, class A = Accumulator<T>>
void backward_contiguous(const Problem<T>& p, const T* x, const T* grad_y, const A* statistics, T* grad_x,
                         A* grad_weight, A* grad_bias, ParallelFor parallel) {
  const bool with_relu = p.options.relu;
  const std::int64_t blocks = (p.pixels + kBlock - 1) / kBlock;
  for_each_plane(p, parallel, [&](std::int64_t plane) {
    const A* stats = statistics + plane * kStatisticsPerPlane;
    const Affine<A> a = affine_of(p, plane % p.s.channels, stats);
    const T *from = x + plane * p.pixels, *dy = grad_y + plane * p.pixels;
    LaneSum<A> g_sums, gd_sums;
    double g_rest = 0, gd_rest = 0;
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t first = block * kBlock, count = std::min(p.pixels - first, kBlock);
      Vector<A> g_sum[4] = {}, gd_sum[4] = {};
      for_each_pack<A>(count, [&]<class V, int N>(std::int64_t at) {
        for (int k = 0; k < N; ++k) {
          const std::int64_t i = first + at + k * kWidth<V, A>;
          const auto [d, g] = pair_at<V>(from + i, dy + i, a, with_relu);
          if constexpr (std::is_arithmetic_v<V>) g_rest += double(g), gd_rest += double(g * d);
          else g_sum[k] += g, gd_sum[k] += g * d;
        }
      });
      g_sums.add(g_sum), gd_sums.add(gd_sum);
    }
    const Slopes<A> slopes = finish_plane(p, plane, stats, g_sums.total() + g_rest, gd_sums.total() + gd_rest,
                                          grad_weight, grad_bias);
    T* to = grad_x + plane * p.pixels;
    for (std::int64_t block = blocks; block-- > 0;) {
      const std::int64_t first = block * kBlock, count = std::min(p.pixels - first, kBlock);
      for_each_pack<A>(count, [&]<class V, int N>(std::int64_t at) {
        for (int k = 0; k < N; ++k) {
          const std::int64_t i = first + at + k * kWidth<V, A>;
          const auto [d, g] = pair_at<V>(from + i, dy + i, a, with_relu);
          put<streamed>(to + i, slopes(d, g));
        }
      });
    }
  });
}

// Rows of a sample's channels, [rows, channels], for vectors to be loaded from.
enum Row { kHigh, kFactor, kOffset, kMean, kScale, kSlope, kRest, kRows };

template <class V, class A>
MFFPA_INLINE Affine<V> load_affine(const A* rows, std::int64_t channels) {
  return {load_as<V>(rows + kHigh * channels), load_as<V>(rows + kFactor * channels),
          load_as<V>(rows + kOffset * channels)};
}

// Sums of every chunk, [batch, chunks, 2, channels]: g, and g * (x - high).
template <class T, class A = Accumulator<T>>
void chunk_sums(const Problem<T>& p, const T* x, const T* grad_y, const A* rows, A* parts, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_chunk(p, parallel, false, [&](std::int64_t sample, std::int64_t chunk, std::int64_t start) {
    const std::int64_t count = p.chunk_size(chunk);
    A* part = parts + (sample * p.chunks + chunk) * 2 * channels;
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      Affine<V> a[N];
      V sum_g[N] = {}, sum_gd[N] = {};
      for (int k = 0; k < N; ++k)
        a[k] = load_affine<V>(rows + sample * kRows * channels + c + k * kWidth<V, A>, channels);
      for (std::int64_t i = 0; i < count; ++i)
        for (int k = 0; k < N; ++k) {
          const std::int64_t j = start + i * channels + c + k * kWidth<V, A>;
          const auto [d, g] = pair_at<V>(x + j, grad_y + j, a[k], p.options.relu);
          sum_g[k] += g;
          sum_gd[k] += g * d;
        }
      for (int k = 0; k < N; ++k) {
        store_as<V>(part + c + k * kWidth<V, A>, sum_g[k]);
        store_as<V>(part + channels + c + k * kWidth<V, A>, sum_gd[k]);
      }
    });
  });
}

template <class T, class A = Accumulator<T>>
void merge_chunks(const Problem<T>& p, const A* parts, const A* statistics, A* rows, A* grad_weight, A* grad_bias,
                  ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_sample(p, parallel, [&](std::int64_t sample) {
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      constexpr int lanes = N * kWidth<V, A>;
      double sum_g[lanes] = {}, sum_gd[lanes] = {};
      const A* part = parts + sample * p.chunks * 2 * channels + c;
      for (std::int64_t chunk = 0; chunk < p.chunks; ++chunk, part += 2 * channels)
        for (int i = 0; i < lanes; ++i) sum_g[i] += double(part[i]), sum_gd[i] += double(part[channels + i]);
      for (int i = 0; i < lanes; ++i) {
        const std::int64_t plane = sample * channels + c + i;
        const Slopes<A> slopes = finish_plane(p, plane, statistics + plane * kStatisticsPerPlane, sum_g[i], sum_gd[i],
                                              grad_weight, grad_bias);
        A* row = rows + sample * kRows * channels + c + i;
        row[kMean * channels] = slopes.mean, row[kScale * channels] = slopes.scale;
        row[kSlope * channels] = slopes.slope, row[kRest * channels] = slopes.rest;
      }
    });
  });
}

template <bool streamed, class T, class A = Accumulator<T>>
void grad_x_of_chunks(const Problem<T>& p, const T* x, const T* grad_y, const A* rows, T* grad_x,
                      ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_chunk(p, parallel, true, [&](std::int64_t sample, std::int64_t chunk, std::int64_t start) {
    const std::int64_t count = p.chunk_size(chunk);
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      Affine<V> a[N];
      Slopes<V> slopes[N];
      for (int k = 0; k < N; ++k) {
        const A* row = rows + sample * kRows * channels + c + k * kWidth<V, A>;
        a[k] = load_affine<V>(row, channels);
        slopes[k] = {load_as<V>(row + kMean * channels), load_as<V>(row + kScale * channels),
                     load_as<V>(row + kSlope * channels), load_as<V>(row + kRest * channels)};
      }
      for (std::int64_t i = 0; i < count; ++i)
        for (int k = 0; k < N; ++k) {
          const std::int64_t j = start + i * channels + c + k * kWidth<V, A>;
          const auto [d, g] = pair_at<V>(x + j, grad_y + j, a[k], p.options.relu);
          put<streamed>(grad_x + j, slopes[k](d, g));
        }
    });
  });
}

template <bool streamed, class T, class A = Accumulator<T>>
void backward_channels_last(const Problem<T>& p, const T* x, const T* grad_y, const A* statistics, T* grad_x,
                            A* grad_weight, A* grad_bias, A* workspace, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  A *rows = workspace, *parts = workspace + kRows * p.planes;
  for (std::int64_t plane = 0; plane < p.planes; ++plane) {
    const Affine<A> a = affine_of(p, plane % channels, statistics + plane * kStatisticsPerPlane);
    A* row = rows + plane / channels * kRows * channels + plane % channels;
    row[kHigh * channels] = a.high, row[kFactor * channels] = a.factor, row[kOffset * channels] = a.offset;
  }
  chunk_sums(p, x, grad_y, rows, parts, parallel);
  merge_chunks(p, parts, statistics, rows, grad_weight, grad_bias, parallel);
  grad_x_of_chunks<streamed>(p, x, grad_y, rows, grad_x, parallel);
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
  const bool planar = shape.layout == Layout::kContiguous;
  const auto go = [&]<bool streamed>() {
    if (planar) backward_contiguous<streamed>(p, from, dy, stats, dx, dw, db, parallel);
    else backward_channels_last<streamed>(p, from, dy, stats, dx, dw, db, static_cast<A*>(workspace), parallel);
  };
  if (worth_streaming(dx, p.planes * p.pixels, planar ? p.pixels : shape.channels)) go.template operator()<true>();
  else go.template operator()<false>();
}

void backward(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* grad_y,
              const void* x, const void* weight, const void* bias, const void* statistics, void* grad_x,
              void* grad_weight, void* grad_bias, void* workspace, ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() {
    run<T>(shape, options, grad_y, x, weight, bias, statistics, grad_x, grad_weight, grad_bias, workspace, parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&feature_norm_backward_cpu) feature_norm_backward = &backward;
}

}  // namespace mffpa
