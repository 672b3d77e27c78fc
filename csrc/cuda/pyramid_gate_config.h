// How the pyramid's gate is cut into blocks, and its launch configurations.
//
// A block takes a tile of the image, and of the channels: one channel of every branch where tensors are contiguous,
// neighbours of every branch where they are channels last. A thread takes the same vector in all branches, at a few of
// the tile's columns and rows. What a block needs of the gate are the sigmoids of the tile's rows and columns, tables
// in shared memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch_config.h"
#include "pyramid_gate.h"

namespace mffpa::cuda {

constexpr int kGateThreads = 128;
constexpr int kFewBranches = 4;  // up to here a thread takes vectors of all branches, beyond single elements
constexpr std::int64_t kManyBlocks = 1024;    // more would not fill a GPU better
constexpr std::int64_t kSmallPlane = 4096;    // pixels

// Elements that a thread takes at once.
inline int gate_vector(const PlaneShape& s, const GateOptions& options, bool aligned, int vector) {
  const std::int64_t along = s.layout == Layout::kChannelsLast ? s.channels / options.branches : s.width;
  return aligned && options.branches <= kFewBranches && along % vector == 0 ? vector : 1;
}

struct GateGrid {
  std::int64_t channels, height, width, row_size;  // channels of one branch
  std::int64_t batch;
  int branches;
  int groups, slots, rows;      // a block's threads: vectors of channels, of columns, and rows; all powers of two
  int tile_channels;            // 1 where tensors are contiguous; a power of two
  int tile_channel_bits;        // its logarithm
  int tile_rows, tile_columns;  // in pixels
  unsigned channel_tiles, row_tiles, column_tiles;

  GateGrid() = default;

  // No sums are formed: tiles grow where there are many of them.
  static GateGrid forward(const PlaneShape& s, const GateOptions& options, std::int64_t row_logits, int vector) {
    const GateGrid small(s, options, row_logits, vector, 1, 1);
    return small.blocks() > kManyBlocks ? GateGrid(s, options, row_logits, vector, 4, 4) : small;
  }

  // By the size of a plane alone: an image's gradients do not depend on the batch that it is in. Larger tiles leave
  // fewer partial sums, of which 8 x 8 pixels have a quarter as many as pixels, and 16 x 16 an eighth.
  static GateGrid backward(const PlaneShape& s, const GateOptions& options, std::int64_t row_logits, int vector) {
    const int each = s.height * s.width > kSmallPlane ? 4 : 2;
    return GateGrid(s, options, row_logits, vector, each, each);
  }

  std::int64_t blocks() const { return batch * channel_tiles * row_tiles * column_tiles; }
  std::int64_t table_elements() const { return std::int64_t(tile_rows + tile_columns) * branches * tile_channels; }
  // Sums of the tile's rows, and of its columns by every thread.
  std::int64_t sum_elements(int vector) const {
    return (std::int64_t(tile_rows) * tile_channels + std::int64_t(kGateThreads) * vector) * branches;
  }

  LaunchConfig forward_launch(int accumulator_bytes) const {
    return {blocks(), kGateThreads, table_elements() * accumulator_bytes};
  }
  LaunchConfig backward_launch(int vector, int accumulator_bytes) const {
    return {blocks(), kGateThreads, (table_elements() + sum_elements(vector)) * accumulator_bytes};
  }

  // Every tile leaves partial sums for the row logits and the column logits that it holds: so many per logit.
  std::int64_t row_parts() const { return std::int64_t(column_tiles) * (row_size == 1 ? row_tiles : 1); }
  std::int64_t column_parts() const { return row_tiles; }

 private:
  // A thread takes `most_lines` rows and `most_passes` columns where its registers and the tile's tables allow it.
  GateGrid(const PlaneShape& s, const GateOptions& options, std::int64_t row_logits, int vector, int most_lines,
           int most_passes)
      : channels(s.channels / options.branches), height(s.height), width(s.width), row_size(row_logits),
        batch(s.batch), branches(int(options.branches)), groups(1), tile_channels(1), tile_channel_bits(0) {
    const bool by_pixel = s.layout == Layout::kChannelsLast, few = branches <= kFewBranches;
    const int run = by_pixel ? 1 : vector;  // pixels of a vector
    if (by_pixel) {
      groups = power_of_two(channels, vector, (few ? kWarpSize : kWarpSize / 2) / vector);
      tile_channels = groups * vector;
      while (1 << tile_channel_bits < tile_channels) ++tile_channel_bits;
    }
    // A row of a tile belongs to one warp. Narrow images leave lanes idle rather than have tiles of many rows, whose
    // tables would take too much shared memory.
    slots = power_of_two(width, run, kWarpSize / groups);
    const int least = !few ? kWarpSize : by_pixel ? kWarpSize / 2 : 1;
    while (groups * slots < least) slots *= 2;
    rows = kGateThreads / (groups * slots);
    const int lines = few ? std::clamp(16 / rows, 1, most_lines) : 1;
    const int passes = few ? int(std::min<std::int64_t>(most_passes, ceil_div(width, slots * run))) : 1;
    // Both are multiples of 4 or single elements: so tables that follow each other start at whole vectors.
    tile_rows = rows * lines;
    tile_columns = slots * run * passes;
    channel_tiles = unsigned(ceil_div(channels, tile_channels));
    row_tiles = unsigned(ceil_div(height, tile_rows));
    column_tiles = unsigned(ceil_div(width, tile_columns));
  }
};

inline LaunchConfig gate_merge_launch(std::int64_t logits) {  // a thread per logit
  return {ceil_div(logits, kGateThreads), kGateThreads};
}

// ---- The fused weight computation: logits from means ----------------------------------------------------------------

constexpr int kLogitThreads = 128;

// A block makes the logits of all channels of one branch, for a few neighbouring rows or columns of the image.
struct CoordinateGrid {
  int lines;               // of a block; a power of two
  int groups, pixels;      // threads: vectors of channels if channels last, and pixels of a line
  int chunk;               // channels whose means are taken at once
  int pitch;               // their distance in shared memory from pixel to pixel
  unsigned row_tiles, column_tiles;

  CoordinateGrid() = default;

  // `vector`: elements of a thread. Contiguous tensors: lines share their memory transactions, so a block takes eight.
  CoordinateGrid(const PlaneShape& s, const GateOptions& options, std::int64_t hidden, int vector)
      : lines(1), groups(1), pixels(8), chunk(kWarpSize), pitch(kWarpSize + 1) {
    if (s.layout == Layout::kChannelsLast) {
      groups = power_of_two(s.channels / options.branches, vector, kWarpSize);
      pixels = kLogitThreads / groups;
      chunk = pitch = groups * vector;
    } else {
      while (lines < 8 && 2 * lines * hidden <= kMaxCudaHidden) lines *= 2;
    }
    row_tiles = unsigned(ceil_div(s.height, lines));
    column_tiles = unsigned(ceil_div(s.width, lines));
  }

  std::int64_t partials() const { return std::int64_t(pitch) * lines * pixels; }

  LaunchConfig launch(const PlaneShape& s, const GateOptions& options, std::int64_t hidden,
                      int accumulator_bytes) const {
    return {s.batch * options.branches * (std::int64_t(row_tiles) + column_tiles), kLogitThreads,
            (partials() + lines * (chunk + hidden)) * accumulator_bytes};
  }
};

}  // namespace mffpa::cuda
