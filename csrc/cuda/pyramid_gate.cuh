// What the pyramid's gate shares between forward and backward: a thread's place, the tables of sigmoids, and the
// weights of the branches at an element. See pyramid_gate_config.h for tiles.
#pragma once

#include "cuda/elements.h"
#include "cuda/pyramid_gate_config.h"

namespace mffpa::cuda {

// kByPixel: N neighbouring channels at one pixel (channels last), else N neighbouring pixels of one channel. kMost: the
// largest number of branches, whose vectors stay in registers.
template <int kElements, int kMostBranches, bool kChannelsLast>
struct GateAccess {
  static constexpr int N = kElements;
  static constexpr int kMost = kMostBranches;
  static constexpr bool kByPixel = kChannelsLast;
  static constexpr int kRun = kByPixel ? 1 : N;  // pixels
  static constexpr int kChannels = kByPixel ? N : 1;
};

// Of half types half a vector: eight weights in each of four branches would take more registers than there are.
template <class T>
constexpr int kGateVector = kVectorSize<T> < 4 ? kVectorSize<T> : 4;

// Blocks on a multiprocessor at least: 128 registers a thread, or 255.
template <class Access>
constexpr int kGateBlocks = Access::kMost == kFewBranches ? 4 : 2;

// Calls body(GateAccess) for tensors at addresses that are `aligned` or not.
template <class T, class Body>
void with_gate_access(const PlaneShape& s, const GateOptions& options, bool aligned, Body body) {
  const int vector = gate_vector(s, options, aligned, kGateVector<T>);
  const auto choose = [&]<bool kByPixel>() {
    if (options.branches > kFewBranches) return body(GateAccess<1, int(kMaxBranches), kByPixel>());
    if (vector == 1) return body(GateAccess<1, kFewBranches, kByPixel>());
    body(GateAccess<kGateVector<T>, kFewBranches, kByPixel>());
  };
  s.layout == Layout::kChannelsLast ? choose.template operator()<true>() : choose.template operator()<false>();
}

template <class A>
struct GateLogits {
  const A *rows, *columns;  // columns may be null: factor 1
  bool softmax;
};

struct GatePlace {
  std::int64_t batch, channel, row, column;  // the tile's first
  unsigned row_tile, column_tile;
  int own_channel, slot, line;  // the thread's first channel, vector of columns, and row in the tile
};

template <class Access>
MFFPA_DEVICE GatePlace gate_place(const GateGrid& g) {
  unsigned block = blockIdx.x;
  const auto take = [&](unsigned count) {
    const unsigned index = block % count;
    block /= count;
    return index;
  };
  GatePlace p;
  unsigned tile = 0;
  if constexpr (Access::kByPixel) tile = take(g.channel_tiles);  // fastest: they share memory pages
  p.column_tile = take(g.column_tiles);
  p.row_tile = take(g.row_tiles);
  if constexpr (!Access::kByPixel) tile = take(g.channel_tiles);
  p.batch = block;
  p.channel = std::int64_t(tile) * g.tile_channels;
  p.row = std::int64_t(p.row_tile) * g.tile_rows;
  p.column = std::int64_t(p.column_tile) * g.tile_columns;
  const int t = int(threadIdx.x);
  p.own_channel = t % g.groups * Access::kChannels;
  p.slot = t / g.groups % g.slots;
  p.line = t / (g.groups * g.slots);
  return p;
}

// Where an element of the first branch lies in the tensor, and the distance of the branches.
template <class Access>
MFFPA_DEVICE std::int64_t element_at(const GateGrid& g, const GatePlace& p, std::int64_t row, std::int64_t column) {
  const std::int64_t all = g.channels * g.branches, channel = p.channel + p.own_channel;
  return Access::kByPixel ? ((p.batch * g.height + row) * g.width + column) * all + channel
                          : ((p.batch * all + channel) * g.height + row) * g.width + column;
}
template <class Access>
MFFPA_DEVICE std::int64_t branch_stride(const GateGrid& g) {
  return Access::kByPixel ? g.channels : g.channels * g.height * g.width;
}

// Of a number per line: in memory, [batch, channels, size] or [batch, size, channels], ...
template <class Access>
MFFPA_DEVICE std::int64_t line_at(const GateGrid& g, std::int64_t batch, std::int64_t channel, std::int64_t size,
                                  std::int64_t line) {
  const std::int64_t all = g.channels * g.branches;
  return Access::kByPixel ? (batch * size + line) * all + channel : (batch * all + channel) * size + line;
}
// ... and in a table of `count` lines: [branch, line], or [line, branch, channel]. N neighbours are neighbours there
// too.
template <class Access>
MFFPA_DEVICE int table_at(const GateGrid& g, int count, int line, int branch, int channel) {
  return Access::kByPixel ? (line * g.branches + branch) * g.tile_channels + channel : branch * count + line;
}

// Calls body(index in a table, branch, channel, line) for everything in it; the threads of the block share the work.
template <class Access, class Body>
MFFPA_DEVICE void for_table(const GateGrid& g, int count, Body body) {
  for (int branch = 0; branch < g.branches; ++branch)
    for (int i = int(threadIdx.x); i < count << g.tile_channel_bits; i += kGateThreads) {
      const int channel = i & (g.tile_channels - 1), line = i >> g.tile_channel_bits;
      body(table_at<Access>(g, count, line, branch, channel), branch, channel, line);
    }
}

// Tables of the sigmoids of the tile's rows and, behind them, columns. The caller synchronises.
template <class Access, class A>
MFFPA_DEVICE void fill_tables(const GateGrid& g, const GatePlace& p, const GateLogits<A>& logits, A* rows, A* columns) {
  for_table<Access>(g, g.tile_rows, [&](int at, int branch, int own, int line) {
    const std::int64_t row = p.row + line, channel = p.channel + own;
    if (row >= g.height || channel >= g.channels) return;
    rows[at] = sigmoid(logits.rows[line_at<Access>(g, p.batch, branch * g.channels + channel, g.row_size,
                                                   g.row_size == 1 ? 0 : row)]);
  });
  for_table<Access>(g, g.tile_columns, [&](int at, int branch, int own, int line) {
    const std::int64_t column = p.column + line, channel = p.channel + own;
    if (column >= g.width || channel >= g.channels) return;
    columns[at] = logits.columns ? sigmoid(logits.columns[line_at<Access>(g, p.batch, branch * g.channels + channel,
                                                                          g.width, column)])
                                 : A(1);
  });
}

// N neighbours of a table.
template <int N, class A>
MFFPA_DEVICE void load_factors(const A* from, A (&to)[N]) {
  constexpr int width = N * int(sizeof(A)) > kVectorBytes ? kVectorBytes / int(sizeof(A)) : N;
#pragma unroll
  for (int k = 0; k < N; k += width) {
    const Vector<A, width> vector = load_vector<A, width>(from + k);
#pragma unroll
    for (int i = 0; i < width; ++i) to[k + i] = vector.at[i];
  }
}

// The factors of a thread's column in every branch.
template <class Access, class A>
MFFPA_DEVICE void load_columns(const GateGrid& g, const A* columns, int line, int channel,
                               A (&factors)[Access::kMost][Access::N]) {
#pragma unroll
  for (int s = 0; s < Access::kMost; ++s)
    if (s < g.branches) load_factors(columns + table_at<Access>(g, g.tile_columns, line, s, channel), factors[s]);
}

// The row's factor of N elements in one branch.
template <class Access, class A>
MFFPA_DEVICE void load_row(const GateGrid& g, const A* rows, int line, int branch, int channel,
                           A (&factors)[Access::N]) {
  const A* const from = rows + table_at<Access>(g, g.tile_rows, line, branch, channel);
  if constexpr (Access::kByPixel) {
    load_factors(from, factors);
  } else {
#pragma unroll
    for (int k = 0; k < Access::N; ++k) factors[k] = *from;
  }
}

// The weights of N elements in every branch. The gate lies in 0..1: the softmax needs no maximum.
template <class Access, class A>
MFFPA_DEVICE void weights_at(const GateGrid& g, const A* rows, int line, int channel, bool softmax,
                             const A (&columns)[Access::kMost][Access::N], A (&weights)[Access::kMost][Access::N]) {
  constexpr int N = Access::N;
  A total[N] = {};
#pragma unroll
  for (int s = 0; s < Access::kMost; ++s) {
    if (s >= g.branches) continue;
    A row[N];
    load_row<Access>(g, rows, line, s, channel, row);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      weights[s][k] = row[k] * columns[s][k];
      if (!softmax) continue;
      weights[s][k] = exponential(weights[s][k] - A(1));
      total[k] += weights[s][k];
    }
  }
  if (!softmax) return;
#pragma unroll
  for (int k = 0; k < N; ++k) total[k] = A(1) / total[k];
#pragma unroll
  for (int s = 0; s < Access::kMost; ++s)
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (s < g.branches) weights[s][k] *= total[k];
}

}  // namespace mffpa::cuda
