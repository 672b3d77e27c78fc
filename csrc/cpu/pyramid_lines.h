// The gate of a pyramid, line by line: what its forward, backward and fused kernels share.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
//
// A line is what neighbours in memory and vectors run along: a row of pixels of one channel (contiguous), or the
// channels of one branch at one pixel (channels last). It has one piece per branch. The sigmoids of rows and columns
// are tables, made once per call.
#pragma once

#include "cpu/line_tails.h"
#include "cpu/pyramid_gate_kernels.h"

namespace mffpa {
namespace {

// The weight of an element: its row's factor; row * column; the softmax of that over the branches.
enum class Weights { kRows, kProduct, kSoftmax };

// table[i] = sigmoid(logits[i]), and the padding behind.
template <class A>
void sigmoid_table(const A* logits, std::int64_t count, A* table, ParallelFor parallel) {
  parallel_for(parallel, table_size(count) / kPadding, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * kPadding; i < end * kPadding; i += kLanes<A>) {
      const std::int64_t from = i < count ? i : count;
      store(table + i, sigmoid<A>(load_some(logits + from, count - from, logits + count)));
    }
  });
}

template <class T, class A = Accumulator<T>>
struct Gate {
  PlaneShape s;
  std::int64_t branches, channels, row_size;  // channels of one branch
  const A *rows, *columns;                    // tables; columns may be null
  bool softmax;

  Gate(const PlaneShape& shape, const GateOptions& options, const A* row_table, std::int64_t size,
       const A* column_table)
      : s(shape), branches(options.branches), channels(shape.channels / options.branches), row_size(size),
        rows(row_table), columns(column_table), softmax(options.softmax) {}

  std::int64_t pixels() const { return s.height * s.width; }
  // Without columns, a softmax is taken of the table of rows instead of at every pixel.
  bool softmax_of_rows() const { return softmax && !columns; }
  // Rows of numbers of which the softmax is one over neighbours: [outer, branches, inner].
  std::int64_t outer() const { return s.layout == Layout::kContiguous ? s.batch : s.batch * row_size; }
  std::int64_t inner() const { return s.layout == Layout::kContiguous ? channels * row_size : channels; }
};

template <class A>
struct Line {
  std::int64_t count, branches;
  std::int64_t start, stride;  // of the first piece in x, and from branch to branch
  std::int64_t room;           // a store may run on for so many elements from the start of a piece
  std::int64_t row, row_stride, column, column_stride;  // the same in the tables
};

// Image row h of sample b; `at` is the channel of a contiguous tensor, the image column of a channels-last one.
template <bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_INLINE Line<A> line_at(const Gate<T>& g, std::int64_t b, std::int64_t h, std::int64_t at) {
  const std::int64_t height = g.s.height, width = g.s.width, all = g.s.channels, row = g.row_size == 1 ? 0 : h;
  if constexpr (kByPixel)
    return {g.channels, g.branches, ((b * height + h) * width + at) * all, g.channels, g.channels,
            (b * g.row_size + row) * all, g.channels, (b * width + at) * all, g.channels};
  // What a store leaves behind the end of a row is overwritten by the next row.
  const std::int64_t plane = b * all + at;
  return {width, g.branches, (plane * height + h) * width, g.channels * height * width, (height - h) * width,
          plane * g.row_size + row, g.channels * g.row_size, plane * width, g.channels * width};
}

template <bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_INLINE Vector<A> row_factor(const Gate<T>& g, const Line<A>& line, std::int64_t branch, std::int64_t i) {
  const A* const from = g.rows + line.row + branch * line.row_stride;
  if constexpr (kByPixel) return load(from + i);
  else return broadcast(*from);
}

// The weights of a line's elements i, i + 1, ... in every branch. The gate lies in 0..1: no maximum is needed.
template <Weights kWeights, bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_INLINE void weights_at(const Gate<T>& g, const Line<A>& line, std::int64_t i, Vector<A>* weights) {
  Vector<A> total{};
  for (std::int64_t branch = 0; branch < line.branches; ++branch) {
    Vector<A> v = row_factor<kByPixel>(g, line, branch, i);
    if constexpr (kWeights != Weights::kRows) v *= load(g.columns + line.column + branch * line.column_stride + i);
    if constexpr (kWeights == Weights::kSoftmax) {
      v = exp_nonpositive(Vector<A>(v - A(1)));
      total += v;
    }
    weights[branch] = v;
  }
  if constexpr (kWeights == Weights::kSoftmax) {
    const Vector<A> share = A(1) / total;
    for (std::int64_t branch = 0; branch < line.branches; ++branch) weights[branch] *= share;
  }
}

// The softmax over the branches of a table of rows, in place. Every vector is read before what lies behind it changes,
// and written in a fixed order, so that running over the end of a piece does no harm within one task.
template <class T, class A = Accumulator<T>>
void softmax_of_rows(const Gate<T>& g, A* rows, ParallelFor parallel) {
  const std::int64_t inner = g.inner(), piece = g.branches * inner;
  parallel_for(parallel, g.outer(), kTaskElements / piece, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t outer = begin; outer < end; ++outer)
      for (std::int64_t i = 0; i < inner; i += kLanes<A>) {
        Vector<A> weights[kMaxBranches], total{};
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          const A* const from = rows + outer * piece + branch * inner + i;
          weights[branch] = exp_nonpositive(Vector<A>(load_some(from, inner - i, from + inner - i) - A(1)));
          total += weights[branch];
        }
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          A* const to = rows + outer * piece + branch * inner + i;
          store_some(to, Vector<A>(weights[branch] / total), inner - i, to + inner - i);
        }
      }
  });
}

template <Weights kWeights, bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_INLINE void weigh_line(const Gate<T>& g, const Line<A>& line, const T* x, const T* x_end, T* y) {
  for (std::int64_t i = 0; i < line.count; i += kLanes<A>) {
    Vector<A> weights[kMaxBranches];
    weights_at<kWeights, kByPixel>(g, line, i, weights);
    for (std::int64_t branch = 0; branch < line.branches; ++branch) {
      const std::int64_t piece = line.start + branch * line.stride;
      const Vector<A> v = load_some(x + piece + i, line.count - i, x_end) * weights[branch];
      store_some(y + piece + i, v, line.count - i, y + piece + line.room);
    }
  }
}

template <Weights kWeights, class T>
void weigh(const Gate<T>& g, const T* x, T* y, ParallelFor parallel) {
  const PlaneShape& s = g.s;
  const T* const x_end = x + s.batch * s.channels * g.pixels();
  if (s.layout == Layout::kContiguous) {
    const std::int64_t elements = g.branches * g.pixels();
    parallel_for(parallel, s.batch * g.channels, kTaskElements / elements, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task)
        for (std::int64_t h = 0; h < s.height; ++h)
          weigh_line<kWeights, false>(g, line_at<false>(g, task / g.channels, h, task % g.channels), x, x_end, y);
    });
  } else {
    const std::int64_t elements = s.channels * s.width;
    parallel_for(parallel, s.batch * s.height, kTaskElements / elements, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task)
        for (std::int64_t w = 0; w < s.width; ++w)
          weigh_line<kWeights, true>(g, line_at<true>(g, task / s.height, task % s.height, w), x, x_end, y);
    });
  }
}

// y = x * weights, the one pass over the tensor.
template <class T>
void weigh_all(const Gate<T>& g, const T* x, T* y, ParallelFor parallel) {
  if (g.columns && g.softmax) return weigh<Weights::kSoftmax>(g, x, y, parallel);
  if (g.columns) return weigh<Weights::kProduct>(g, x, y, parallel);
  Gate<T> rows = g;  // weights that need no other branch, so lines may be longer
  if (g.s.layout == Layout::kChannelsLast) rows.branches = 1, rows.channels = g.s.channels;
  else if (g.row_size == 1) rows.s.width = g.pixels(), rows.s.height = 1;
  weigh<Weights::kRows>(rows, x, y, parallel);
}

}  // namespace
}  // namespace mffpa
