// Forward pass of feature normalisation on the CPU, compiled once per instruction set. Two reads of x and one write; in
// the second read what was read first is often still in the cache.
#include "cpu/feature_norm_common.h"
#include "cpu/feature_norm_kernels.h"
#include "cpu/moments.h"

namespace mffpa {
namespace {

constexpr std::int64_t kMaxPooledBlock = 512;

// A NaN or an infinity anywhere makes its whole plane NaN, so there is no mixed case to think of.
template <class V>
MFFPA_INLINE V largest(V a, V b) {
  return a > b ? a : b;
}

// ---- contiguous: one plane after the other ----------------------------------------------------------------------

template <class T, class A = Accumulator<T>>
void plane_statistics(const T* x, std::int64_t pixels, A* out) {
  constexpr int lanes = 4 * kLanes<A>;
  A first[lanes];
  std::fill_n(first, lanes, to_accumulator(*x));
  LaneMoments<lanes> moments(first);
  const auto add = [&]<class V, int N>(std::int64_t at, std::int64_t count) {  // runs of N packs, as many as fit
    constexpr int width = N * kWidth<V, A>;
    const std::int64_t steps = count / width;
    if (steps) moments.template add<width, A>(run_sums<V, N>(x + at, steps, width), steps);
    return at + steps * width;
  };
  for (std::int64_t begin = 0; begin < pixels; begin += kLongestRun * lanes) {
    const std::int64_t end = std::min(begin + kLongestRun * lanes, pixels);
    std::int64_t at = add.template operator()<Vector<A>, 4>(begin, end - begin);
    at = add.template operator()<Vector<A>, 1>(at, end - at);
    add.template operator()<A, 1>(at, end - at);
  }
  moments.join();
  moments.finish(0, pixels, out, out + 1, out + 2);
}

template <bool streamed, class T, class A = Accumulator<T>>
void normalise_plane(const T* x, const Affine<A>& affine, bool with_relu, std::int64_t pixels, T* y) {
  for_each_pack<A>(pixels, [&]<class V, int N>(std::int64_t at) {
    for (int k = 0; k < N; ++k) {
      const std::int64_t i = at + k * kWidth<V, A>;
      put<streamed>(y + i, relu_if(with_relu, affine(load_as<V>(x + i))));
    }
  });
}

template <class T, class A = Accumulator<T>>
void normalise_and_pool_plane(const Problem<T>& p, const T* x, const Affine<A>& affine, T* y) {
  const std::int64_t out_height = p.s.height / 2, out_width = p.s.width / 2;
  A row[2 * kMaxPooledBlock];  // the larger of two rows
  for (std::int64_t oy = 0; oy < out_height; ++oy)
    for (std::int64_t ox = 0; ox < out_width; ox += kMaxPooledBlock) {
      const std::int64_t count = std::min(out_width - ox, kMaxPooledBlock);
      const T* upper = x + 2 * oy * p.s.width + 2 * ox;
      const T* lower = upper + p.s.width;
      for_each_pack<A>(2 * count, [&]<class V, int N>(std::int64_t at) {
        for (int k = 0; k < N; ++k) {
          const std::int64_t i = at + k * kWidth<V, A>;
          store_as<V>(row + i, largest(affine(load_as<V>(upper + i)), affine(load_as<V>(lower + i))));
        }
      });
      T* out = y + oy * out_width + ox;
      for (std::int64_t i = 0; i < count; ++i)
        out[i] = from_accumulator<T>(relu_if(p.options.relu, largest(row[2 * i], row[2 * i + 1])));
    }
}

template <bool streamed, class T, class A = Accumulator<T>>
void forward_contiguous(const Problem<T>& p, const T* x, T* y, A* statistics, ParallelFor parallel) {
  const std::int64_t out_pixels = (p.s.height / 2) * (p.s.width / 2);
  for_each_plane(p, parallel, [&](std::int64_t plane) {
    const T* from = x + plane * p.pixels;
    A* stats = statistics + plane * kStatisticsPerPlane;
    plane_statistics(from, p.pixels, stats);
    const Affine<A> affine = affine_of(p, plane % p.s.channels, stats);
    if (p.options.pool) normalise_and_pool_plane(p, from, affine, y + plane * out_pixels);
    else normalise_plane<streamed>(from, affine, p.options.relu, p.pixels, y + plane * p.pixels);
  });
}

// ---- channels last: chunks of pixels, all channels side by side -------------------------------------------------

// Every chunk as a run, [batch, chunks, 3, channels]: shift, sum, squares.
template <class T, class A = Accumulator<T>>
void chunk_sums(const Problem<T>& p, const T* x, A* parts, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_chunk(p, parallel, false, [&](std::int64_t sample, std::int64_t chunk, std::int64_t start) {
    A* part = parts + (sample * p.chunks + chunk) * 3 * channels;
    const std::int64_t count = p.chunk_size(chunk);
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      constexpr int lanes = N * kWidth<V, A>;
      const T* from = x + start + c;
      A first[lanes];
      for (int k = 0; k < N; ++k) store_as<V>(first + k * kWidth<V, A>, load_as<V>(from + k * kWidth<V, A>));
      LaneMoments<lanes> moments(first);
      for (std::int64_t i = 0; i < count; i += kLongestRun) {
        const std::int64_t n = std::min(count - i, kLongestRun);
        moments.template add<lanes, A>(run_sums<V, N>(from + i * channels, n, channels), n);
      }
      moments.store_to(part + c, part + channels + c, part + 2 * channels + c);
    });
  });
}

// Statistics of every plane, and the affine maps as rows that vectors can be loaded from, [batch, 3, channels].
template <class T, class A = Accumulator<T>>
void merge_chunks(const Problem<T>& p, const A* parts, A* statistics, A* rows, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_sample(p, parallel, [&](std::int64_t sample) {
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      constexpr int lanes = N * kWidth<V, A>;
      const A* part = parts + sample * p.chunks * 3 * channels + c;
      LaneMoments<lanes> moments(part);
      for (std::int64_t chunk = 0; chunk < p.chunks; ++chunk, part += 3 * channels)
        moments.add(part, part + channels, part + 2 * channels, p.chunk_size(chunk));
      for (int i = 0; i < lanes; ++i) {
        A* stats = statistics + (sample * channels + c + i) * kStatisticsPerPlane;
        moments.finish(i, p.pixels, stats, stats + 1, stats + 2);
        const Affine<A> affine = affine_of(p, c + i, stats);
        A* row = rows + sample * 3 * channels + c + i;
        row[0] = affine.high, row[channels] = affine.factor, row[2 * channels] = affine.offset;
      }
    });
  });
}

template <class V, class A>
MFFPA_INLINE Affine<V> load_affine(const A* rows, std::int64_t channels) {
  return {load_as<V>(rows), load_as<V>(rows + channels), load_as<V>(rows + 2 * channels)};
}

template <bool streamed, class T, class A = Accumulator<T>>
void normalise_chunks(const Problem<T>& p, const T* x, const A* rows, T* y, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels;
  for_each_chunk(p, parallel, true, [&](std::int64_t sample, std::int64_t chunk, std::int64_t start) {
    const std::int64_t count = p.chunk_size(chunk);
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      Affine<V> affine[N];
      for (int k = 0; k < N; ++k)
        affine[k] = load_affine<V>(rows + sample * 3 * channels + c + k * kWidth<V, A>, channels);
      for (std::int64_t i = 0; i < count; ++i)
        for (int k = 0; k < N; ++k) {
          const std::int64_t at = start + i * channels + c + k * kWidth<V, A>;
          put<streamed>(y + at, relu_if(p.options.relu, affine[k](load_as<V>(x + at))));
        }
    });
  });
}

template <class T, class A = Accumulator<T>>
void normalise_and_pool_rows(const Problem<T>& p, const T* x, const A* rows, T* y, ParallelFor parallel) {
  const std::int64_t channels = p.s.channels, line = p.s.width * channels;
  const std::int64_t out_height = p.s.height / 2, out_width = p.s.width / 2;
  const auto pool_row = [&](std::int64_t task) {
    const std::int64_t sample = task / out_height, oy = task % out_height;
    const T* from = x + sample * p.pixels * channels + 2 * oy * line;
    T* to = y + task * out_width * channels;
    for_each_pack<A>(channels, [&]<class V, int N>(std::int64_t c) {
      Affine<V> affine[N];
      for (int k = 0; k < N; ++k)
        affine[k] = load_affine<V>(rows + sample * 3 * channels + c + k * kWidth<V, A>, channels);
      for (std::int64_t ox = 0; ox < out_width; ++ox)
        for (int k = 0; k < N; ++k) {
          const std::int64_t at = c + k * kWidth<V, A>;
          const T* corner = from + 2 * ox * channels + at;
          const auto value = [&](std::int64_t offset) { return affine[k](load_as<V>(corner + offset)); };
          const V upper = largest(value(0), value(channels)), lower = largest(value(line), value(line + channels));
          store_as<V>(to + ox * channels + at, relu_if(p.options.relu, largest(upper, lower)));
        }
    });
  };
  parallel_for(parallel, p.s.batch * out_height, kTaskElements / (2 * line),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t task = end; task-- > begin;) pool_row(task);
               });
}

template <bool streamed, class T, class A = Accumulator<T>>
void forward_channels_last(const Problem<T>& p, const T* x, T* y, A* statistics, A* workspace, ParallelFor parallel) {
  A *rows = workspace, *parts = workspace + 3 * p.planes;
  chunk_sums(p, x, parts, parallel);
  merge_chunks(p, parts, statistics, rows, parallel);
  if (p.options.pool) normalise_and_pool_rows(p, x, rows, y, parallel);
  else normalise_chunks<streamed>(p, x, rows, y, parallel);
}

template <class T>
void run(const PlaneShape& shape, const FeatureNormOptions& options, const void* x, const void* weight,
         const void* bias, void* y, void* statistics, void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const Problem<T> p(shape, options, weight, bias);
  const auto* from = static_cast<const T*>(x);
  auto *to = static_cast<T*>(y);
  auto *stats = static_cast<A*>(statistics);
  const bool planar = shape.layout == Layout::kContiguous;
  const auto go = [&]<bool streamed>() {
    if (planar) forward_contiguous<streamed>(p, from, to, stats, parallel);
    else forward_channels_last<streamed>(p, from, to, stats, static_cast<A*>(workspace), parallel);
  };
  if (!options.pool && worth_streaming(to, p.planes * p.pixels, planar ? p.pixels : shape.channels))
    go.template operator()<true>();
  else go.template operator()<false>();
}

void forward(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
             const void* weight, const void* bias, void* y, void* statistics, void* workspace, ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() {
    run<T>(shape, options, x, weight, bias, y, statistics, workspace, parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&feature_norm_forward_cpu) feature_norm_forward = &forward;
}

}  // namespace mffpa
