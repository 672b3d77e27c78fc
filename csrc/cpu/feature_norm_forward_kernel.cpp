// Forward pass of feature normalisation on the CPU, compiled once per instruction set. Two reads of x and one write; in
// the second read what was read first is often still in the cache.
#include <cstring>

#include "cpu/feature_norm_common.h"
#include "cpu/feature_norm_kernels.h"
#include "cpu/moments.h"

namespace mffpa {
namespace {

constexpr std::int64_t kMaxPooledBlock = 512;

template <class V>
MFFPA_INLINE V largest(V a, V b) {
  return a > b ? a : (a == a ? b : a);  // keeps NaN of a; a NaN b is taken by the comparison's failure
}

template <class A>
MFFPA_INLINE void write_statistics(const Moments& m, A* out) {
  out[0] = A(m.mean);
  out[1] = A(m.mean - double(out[0]));
  out[2] = A(std::sqrt(m.count > 1 ? m.deviations / (m.count - 1) : 0.0));
}

// ---- contiguous: one plane after the other ----------------------------------------------------------------------

template <class T, class A = Accumulator<T>>
Moments plane_moments(const T* x, std::int64_t pixels) {
  constexpr std::int64_t step = 4 * kLanes<A>;
  Moments moments;
  for (std::int64_t first = 0; first < pixels; first += kChunkElements) {
    const std::int64_t count = pixels - first < kChunkElements ? pixels - first : kChunkElements;
    const std::int64_t steps = count / step, rest = count - steps * step;
    if (steps) merge_run<A>(moments, run_moments<Vector<A>, 4>(x + first, steps, step), steps);
    if (rest) merge_run<A>(moments, run_moments<A, 1>(x + first + steps * step, rest, 1), rest);
  }
  return moments;
}

template <class T, class A = Accumulator<T>>
void normalise_plane(const T* x, const Affine<A>& affine, bool with_relu, std::int64_t pixels, T* y) {
  for_each_pack<A>(pixels, [&]<class V, int N>(std::int64_t at) {
    for (int k = 0; k < N; ++k) {
      const std::int64_t i = at + k * kWidth<V, A>;
      const V value = ((load_as<V>(x + i) - affine.high) - affine.low) * affine.factor + affine.bias;
      store_as<V>(y + i, with_relu ? relu(value) : value);
    }
  });
}

template <class T, class A = Accumulator<T>>
void normalise_and_pool_plane(const Problem<T>& p, const T* x, const Affine<A>& affine, T* y) {
  const std::int64_t out_height = p.s.height / 2, out_width = p.s.width / 2;
  A row[2 * kMaxPooledBlock];  // the larger of two rows
  for (std::int64_t oy = 0; oy < out_height; ++oy)
    for (std::int64_t ox = 0; ox < out_width; ox += kMaxPooledBlock) {
      const std::int64_t count = out_width - ox < kMaxPooledBlock ? out_width - ox : kMaxPooledBlock;
      const T* upper = x + 2 * oy * p.s.width + 2 * ox;
      const T* lower = upper + p.s.width;
      for_each_pack<A>(2 * count, [&]<class V, int N>(std::int64_t at) {
        for (int k = 0; k < N; ++k) {
          const std::int64_t i = at + k * kWidth<V, A>;
          const V a = ((load_as<V>(upper + i) - affine.high) - affine.low) * affine.factor + affine.bias;
          const V b = ((load_as<V>(lower + i) - affine.high) - affine.low) * affine.factor + affine.bias;
          store_as<V>(row + i, largest(a, b));
        }
      });
      T* out = y + oy * out_width + ox;
      for (std::int64_t i = 0; i < count; ++i) {
        const A value = largest(row[2 * i], row[2 * i + 1]);
        out[i] = from_accumulator<T>(p.options.relu ? relu(value) : value);
      }
    }
}

template <class T, class A = Accumulator<T>>
void forward_contiguous(const Problem<T>& p, const T* x, T* y, A* statistics, ParallelFor parallel) {
  const std::int64_t out_pixels = (p.s.height / 2) * (p.s.width / 2);
  parallel_for(parallel, p.planes, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const T* from = x + plane * p.pixels;
      A* stats = statistics + plane * kStatisticsPerPlane;
      write_statistics(plane_moments(from, p.pixels), stats);
      const Affine<A> affine = affine_of(p, plane % p.s.channels, stats);
      if (p.options.pool) normalise_and_pool_plane(p, from, affine, y + plane * out_pixels);
      else normalise_plane(from, affine, p.options.relu, p.pixels, y + plane * p.pixels);
    }
  });
}

// ---- channels last: chunks of pixels, all channels side by side -------------------------------------------------

// Partial moments of every chunk, [batch, chunks, 3, channels]: mean, its error, deviations.
template <class T, class A = Accumulator<T>>
void chunk_moments(const Problem<T>& p, const T* x, A* parts, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  parallel_for(parallel, p.s.batch * p.chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / p.chunks, chunk = task % p.chunks;
      const T* from = x + (b * p.pixels + chunk * p.per_chunk) * channels;
      A* part = parts + task * 3 * channels;
      for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
        const auto run = run_moments<V, N>(from + c, p.chunk_size(chunk), channels);
        std::memcpy(part + c, run.mean, sizeof(run.mean));
        std::memcpy(part + channels + c, run.error, sizeof(run.error));
        std::memcpy(part + 2 * channels + c, run.deviations, sizeof(run.deviations));
      });
    }
  });
}

template <class T, class A = Accumulator<T>>
void merge_chunks(const Problem<T>& p, const A* parts, A* statistics, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  parallel_for(parallel, p.planes, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      Moments moments;
      for (std::int64_t chunk = 0; chunk < p.chunks; ++chunk) {
        const A* part = parts + (plane / channels * p.chunks + chunk) * 3 * channels + plane % channels;
        moments.merge(double(p.chunk_size(chunk)), double(part[0]) + double(part[channels]),
                      double(part[2 * channels]));
      }
      write_statistics(moments, statistics + plane * kStatisticsPerPlane);
    }
  });
}

// The affine maps of one sample's channels, as four rows that vectors can be loaded from: [4, channels].
template <class T, class A = Accumulator<T>>
void affine_rows(const Problem<T>& p, const A* statistics, A* rows, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  parallel_for(parallel, p.planes, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const Affine<A> affine = affine_of(p, plane % channels, statistics + plane * kStatisticsPerPlane);
      A* row = rows + plane / channels * 4 * channels + plane % channels;
      row[0] = affine.high, row[channels] = affine.low;
      row[2 * channels] = affine.factor, row[3 * channels] = affine.bias;
    }
  });
}

template <class V, class T, class A>
MFFPA_INLINE V normalised(const T* x, const A* rows, std::int64_t channels) {
  return ((load_as<V>(x) - load_as<V>(rows)) - load_as<V>(rows + channels)) * load_as<V>(rows + 2 * channels) +
         load_as<V>(rows + 3 * channels);
}

template <class T, class A = Accumulator<T>>
void forward_channels_last(const Problem<T>& p, const T* x, T* y, A* statistics, A* workspace, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  chunk_moments(p, x, workspace, parallel);
  merge_chunks(p, workspace, statistics, parallel);
  affine_rows(p, statistics, workspace, parallel);  // the parts are no longer needed
  if (!p.options.pool) {
    parallel_for(parallel, p.s.batch * p.chunks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t b = task / p.chunks, chunk = task % p.chunks;
        const std::int64_t start = (b * p.pixels + chunk * p.per_chunk) * channels;
        const A* rows = workspace + b * 4 * channels;
        for (std::int64_t i = 0; i < p.chunk_size(chunk); ++i)
          for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
            for (int k = 0; k < N; ++k) {
              const std::int64_t at = c + k * kWidth<V, A>;
              const V value = normalised<V>(x + start + i * channels + at, rows + at, channels);
              store_as<V>(y + start + i * channels + at, p.options.relu ? relu(value) : value);
            }
          });
      }
    });
    return;
  }
  const std::int64_t out_height = p.s.height / 2, out_width = p.s.width / 2, line = p.s.width * channels;
  parallel_for(parallel, p.s.batch * out_height, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / out_height, oy = task % out_height;
      const A* rows = workspace + b * 4 * channels;
      for (std::int64_t ox = 0; ox < out_width; ++ox) {
        const T* from = x + (b * p.pixels + 2 * oy * p.s.width + 2 * ox) * channels;
        T* to = y + (task * out_width + ox) * channels;
        for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
          for (int k = 0; k < N; ++k) {
            const std::int64_t at = c + k * kWidth<V, A>;
            const V upper = largest(normalised<V>(from + at, rows + at, channels),
                                    normalised<V>(from + channels + at, rows + at, channels));
            const V lower = largest(normalised<V>(from + line + at, rows + at, channels),
                                    normalised<V>(from + line + channels + at, rows + at, channels));
            const V value = largest(upper, lower);
            store_as<V>(to + at, p.options.relu ? relu(value) : value);
          }
        });
      }
    }
  });
}

template <class T>
void run(const PlaneShape& shape, const FeatureNormOptions& options, const void* x, const void* weight,
         const void* bias, void* y, void* statistics, void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const Problem<T> p(shape, options, weight, bias);
  const auto* from = static_cast<const T*>(x);
  auto *to = static_cast<T*>(y);
  auto *stats = static_cast<A*>(statistics);
  if (shape.layout == Layout::kContiguous) forward_contiguous(p, from, to, stats, parallel);
  else forward_channels_last(p, from, to, stats, static_cast<A*>(workspace), parallel);
}

void forward(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
             const void* weight, const void* bias, void* y, void* statistics, void* workspace, ParallelFor parallel) {
  switch (dtype) {
    case DType::kFloat32: return run<float>(shape, options, x, weight, bias, y, statistics, workspace, parallel);
    case DType::kFloat64: return run<double>(shape, options, x, weight, bias, y, statistics, workspace, parallel);
    case DType::kFloat16: return run<Half>(shape, options, x, weight, bias, y, statistics, workspace, parallel);
    case DType::kBFloat16: return run<BFloat16>(shape, options, x, weight, bias, y, statistics, workspace, parallel);
  }
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&feature_norm_forward_cpu) feature_norm_forward = &forward;
}

}  // namespace mffpa
