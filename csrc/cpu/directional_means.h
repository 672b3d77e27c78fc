// Means over the width and over the height in one pass, for directional_means_kernel.cpp and the fused attention.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include "cpu/line_tails.h"
#include "cpu/packs.h"
#include "cpu/pyramid_gate_kernels.h"

namespace mffpa {
namespace {

// Calls body.operator()<kRows>(first) for blocks of kRows rows, then for single ones.
template <int kRows, class Body>
MFFPA_INLINE void for_row_blocks(std::int64_t begin, std::int64_t end, Body body) {
  for (; begin + kRows <= end; begin += kRows) body.template operator()<kRows>(begin);
  for (; begin < end; ++begin) body.template operator()<1>(begin);
}

// Sums of a plane's columns go through blocks of rows, which also keeps the additions after each other few.
template <class T, class O, class A = Accumulator<T>>
void means_of_plane(const T* x, const T* end, std::int64_t height, std::int64_t width, O* by_row, O* by_column,
                    A* sums) {
  using V = Vector<A>;
  for (std::int64_t i = 0; i < width; i += kLanes<A>) store(sums + i, V{});
  for_row_blocks<8>(0, height, [&]<int kRows>(std::int64_t h) {
    V rows[kRows] = {};
    for (std::int64_t i = 0; i < width; i += kLanes<A>) {
      V column{};
      for (int r = 0; r < kRows; ++r) {
        const V v = load_some(x + (h + r) * width + i, width - i, end);
        rows[r] += keep_first<A>(v, width - i);
        column += v;
      }
      store(sums + i, V(load(sums + i) + column));
    }
    for (int r = 0; r < kRows; ++r) by_row[h + r] = from_accumulator<O>(horizontal_sum<A>(rows[r]) / A(width));
  });
  for (std::int64_t i = 0; i < width; i += kLanes<A>)
    store_some(by_column + i, V(load(sums + i) / A(height)), width - i, by_column + width);
}

// O is T, or A where the means are worked on. by_row and by_column as in pyramid_gate.h.
template <class T, class O, class A = Accumulator<T>>
void means_contiguous(const PlaneShape& s, const T* x, O* by_row, O* by_column, A* workspace, ParallelFor parallel) {
  const std::int64_t planes = s.batch * s.channels, pixels = s.height * s.width;
  parallel_for(parallel, planes, kTaskElements / pixels, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane)
      means_of_plane(x + plane * pixels, x + planes * pixels, s.height, s.width, by_row + plane * s.height,
                     by_column + plane * s.width, workspace + plane * padded(s.width));
  });
}

template <class T, class O, class A = Accumulator<T>>
void means_channels_last(const PlaneShape& s, const T* x, O* by_row, O* by_column, A* workspace,
                         ParallelFor parallel) {
  using V = Vector<A>;
  const std::int64_t channels = s.channels, stride = padded(channels), line = s.width * channels;
  const std::int64_t per_chunk = rows_per_chunk(s.height), chunks = row_chunks(s.height);
  const T* const x_end = x + s.batch * s.height * line;
  parallel_for(parallel, s.batch * chunks, kTaskElements / (per_chunk * line),
               [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / chunks, first = task % chunks * per_chunk;
      const std::int64_t last = first + per_chunk < s.height ? first + per_chunk : s.height;
      A* const sums = workspace + task * s.width * stride;
      for (std::int64_t i = 0; i < s.width * stride; i += kLanes<A>) store(sums + i, V{});
      for_row_blocks<2>(first, last, [&]<int kRows>(std::int64_t h) {
        const T* const from = x + (b * s.height + h) * line;
        O* const to = by_row + (b * s.height + h) * channels;
        const auto block = [&]<int N>(std::int64_t c) {
          V rows[kRows][N] = {};
          for (std::int64_t w = 0; w < s.width; ++w)
            for (int k = 0; k < N; ++k) {
              const std::int64_t at = c + k * kLanes<A>;
              V column = load(sums + w * stride + at);
              for (int r = 0; r < kRows; ++r) {
                const V v = load_some(from + r * line + w * channels + at, channels - at, x_end);
                rows[r][k] += v;
                column += v;
              }
              store(sums + w * stride + at, column);
            }
          for (int r = 0; r < kRows; ++r)
            for (int k = 0; k < N; ++k) {
              const std::int64_t at = c + k * kLanes<A>;
              store_some(to + r * channels + at, V(rows[r][k] / A(s.width)), channels - at, to + (r + 1) * channels);
            }
        };
        std::int64_t c = 0;
        for (; c + 4 * kLanes<A> <= channels; c += 4 * kLanes<A>) block.template operator()<4>(c);
        for (; c < channels; c += kLanes<A>) block.template operator()<1>(c);
      });
    }
  });
  parallel_for(parallel, s.batch * s.width, kTaskElements / (chunks * channels),
               [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const A* const sums = workspace + (task / s.width * chunks * s.width + task % s.width) * stride;
      O* const to = by_column + task * channels;
      for (std::int64_t c = 0; c < channels; c += kLanes<A>) {
        V total{};
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) total += load(sums + chunk * s.width * stride + c);
        store_some(to + c, V(total / A(s.height)), channels - c, to + channels);
      }
    }
  });
}

template <class T, class O, class A = Accumulator<T>>
void directional_means_of(const PlaneShape& s, const T* x, O* by_row, O* by_column, A* workspace,
                          ParallelFor parallel) {
  if (s.layout == Layout::kContiguous) means_contiguous(s, x, by_row, by_column, workspace, parallel);
  else means_channels_last(s, x, by_row, by_column, workspace, parallel);
}

}  // namespace
}  // namespace mffpa
