// Coordinate attention over the branches of a pyramid on the CPU, for inference; compiled once per instruction set.
//
// Two passes over x: means, and weighting. In between, the small matrices act on tables of one number per row or column
// of every channel, in place: means become sigmoids.
#include <cmath>

#include "cpu/directional_means.h"
#include "cpu/pyramid_lines.h"

namespace mffpa {
namespace {

constexpr int kPositions = 4;  // rows or columns worked on at once, which hides the latency of the additions

// The matrices with their output channels side by side, padded by zeros to whole vectors.
template <class A>
struct Packed {
  std::int64_t channels, hidden, padded_channels, padded_hidden;
  A *conv1, *scale, *shift;          // [channels, padded_hidden], then hard_swish(conv1 * x * scale + shift)
  A *matrix[2], *bias[2];            // of rows and columns: [hidden, padded_channels]
  A* end;

  Packed(std::int64_t c, const CoordinateWeights& w, A* at)
      : channels(c), hidden(w.hidden), padded_channels(padded(c)), padded_hidden(padded(w.hidden)) {
    const auto take = [&](std::int64_t count) { return at += count, at - count; };
    conv1 = take(channels * padded_hidden), scale = take(padded_hidden), shift = take(padded_hidden);
    for (int d = 0; d < 2; ++d) matrix[d] = take(hidden * padded_channels), bias[d] = take(padded_channels);
    end = at;
    transpose(w.conv1_weight, hidden, channels, conv1);
    transpose(w.conv_h_weight, channels, hidden, matrix[0]);
    transpose(w.conv_w_weight, channels, hidden, matrix[1]);
    transpose(w.conv_h_bias, channels, 1, bias[0]);
    transpose(w.conv_w_bias, channels, 1, bias[1]);
    const auto number = [](const void* from, std::int64_t i) { return static_cast<const A*>(from)[i]; };
    for (std::int64_t m = 0; m < padded_hidden; ++m) {
      const bool real = m < hidden;
      scale[m] = real ? number(w.bn_weight, m) / std::sqrt(number(w.bn_var, m) + A(w.bn_eps)) : A(0);
      shift[m] = real ? (number(w.conv1_bias, m) - number(w.bn_mean, m)) * scale[m] + number(w.bn_bias, m) : A(0);
    }
  }

  // [rows, columns] to [columns, padded(rows)].
  static void transpose(const void* from, std::int64_t rows, std::int64_t columns, A* to) {
    for (std::int64_t j = 0; j < columns; ++j)
      for (std::int64_t i = 0; i < padded(rows); ++i)
        to[j * padded(rows) + i] = i < rows ? static_cast<const A*>(from)[i * columns + j] : A(0);
  }
};

template <class V>
MFFPA_INLINE V hard_swish(V x) {
  const V gate = x + 3, six = V{} + 6;
  const V above = gate < V{} ? V{} : gate;  // keeps NaN
  return x * (above > six ? six : above) / six;
}

// Turns the means of up to kPositions neighbouring rows (or columns) of one branch into sigmoids.
template <class A>
void gate_positions(const Packed<A>& p, int direction, A* table, std::int64_t count, std::int64_t position_stride,
                    std::int64_t channel_stride, A* hidden) {
  using V = Vector<A>;
  const A* means[kPositions];  // the last position again where there are fewer
  for (std::int64_t k = 0; k < kPositions; ++k) means[k] = table + (k < count ? k : count - 1) * position_stride;
  for (std::int64_t m = 0; m < p.padded_hidden; m += kLanes<A>) {
    V sums[kPositions] = {};
    for (std::int64_t c = 0; c < p.channels; ++c) {
      const V weights = load(p.conv1 + c * p.padded_hidden + m);
      for (int k = 0; k < kPositions; ++k) sums[k] += means[k][c * channel_stride] * weights;
    }
    for (int k = 0; k < kPositions; ++k)
      store(hidden + k * p.padded_hidden + m, hard_swish(V(sums[k] * load(p.scale + m) + load(p.shift + m))));
  }
  for (std::int64_t c = 0; c < p.channels; c += kLanes<A>)
    for (std::int64_t k = 0; k < count; ++k) {
      V logits = load(p.bias[direction] + c);
      for (std::int64_t m = 0; m < p.hidden; ++m)
        logits += hidden[k * p.padded_hidden + m] * load(p.matrix[direction] + m * p.padded_channels + c);
      const V gates = sigmoid<A>(logits);
      A* const to = table + k * position_stride + c * channel_stride;
      const std::int64_t left = p.channels - c;
      if (channel_stride == 1) store_some(to, gates, left, to + left);
      else
        for (std::int64_t lane = 0; lane < kLanes<A> && lane < left; ++lane) to[lane * channel_stride] = gates[lane];
    }
}

template <class A>
void gate_tables(const PlaneShape& s, const GateOptions& options, const Packed<A>& p, A* rows, A* columns,
                 ParallelFor parallel) {
  const bool by_pixel = s.layout == Layout::kChannelsLast;
  const std::int64_t row_blocks = (s.height + kPositions - 1) / kPositions;
  const std::int64_t blocks = row_blocks + (s.width + kPositions - 1) / kPositions;
  parallel_for(parallel, s.batch * options.branches * blocks, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t piece = task / blocks, block = task % blocks, b = piece / options.branches;
      const int direction = block < row_blocks ? 0 : 1;
      const std::int64_t size = direction == 0 ? s.height : s.width;
      const std::int64_t first = (direction == 0 ? block : block - row_blocks) * kPositions;
      const std::int64_t channel = piece % options.branches * p.channels;
      const std::int64_t at = by_pixel ? (b * size + first) * s.channels + channel
                                       : (b * s.channels + channel) * size + first;
      gate_positions(p, direction, (direction == 0 ? rows : columns) + at,
                     size - first < kPositions ? size - first : kPositions, by_pixel ? s.channels : 1,
                     by_pixel ? 1 : size, p.end + task * kPositions * p.padded_hidden);
    }
  });
}

template <class T>
void run(const PlaneShape& s, const GateOptions& options, const void* x, const CoordinateWeights& weights, void* y,
         void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const std::int64_t of_rows = s.batch * s.channels * s.height, of_columns = s.batch * s.channels * s.width;
  A *const rows = static_cast<A*>(workspace), *const columns = rows + table_size(of_rows);
  const Packed<A> packed(s.channels / options.branches, weights, columns + table_size(of_columns));
  for (std::int64_t i = of_rows; i < table_size(of_rows); ++i) rows[i] = A(0);
  for (std::int64_t i = of_columns; i < table_size(of_columns); ++i) columns[i] = A(0);
  const auto* from = static_cast<const T*>(x);
  // The sums behind the means and, later, the hidden activations share the rest of the workspace.
  directional_means_of(s, from, rows, columns, packed.end, parallel);
  gate_tables(s, options, packed, rows, columns, parallel);
  weigh_all(Gate<T>(s, options, rows, s.height, columns), from, static_cast<T*>(y), parallel);
}

void attention(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
               const CoordinateWeights& weights, void* y, void* workspace, ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() { run<T>(shape, options, x, weights, y, workspace, parallel); });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&pyramid_coordinate_attention_cpu) pyramid_coordinate_attention = &attention;
}

}  // namespace mffpa
