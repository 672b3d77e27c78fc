// How the pyramid's gate is cut into blocks, and its launch configurations.
//
// A block takes a tile of the image, and of the channels: one channel of every branch where tensors are contiguous,
// neighbours of every branch where they are channels last. A thread takes the same vector in all branches, at one
// column of the tile and at every few of its rows. What a block needs of the gate are the sigmoids of the tile's rows
// and columns, tables in shared memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch_config.h"
#include "pyramid_gate.h"

namespace mffpa::cuda {

constexpr int kGateThreads = 128;
constexpr int kFewBranches = 4;  // up to here a thread takes vectors of all branches, beyond single elements
constexpr std::int64_t kSmallPlane = 4096;  // pixels; larger planes fill a GPU with several pixels to a thread

// Elements that a thread takes at once.
inline int gate_vector(const PlaneShape& s, const GateOptions& options, bool aligned, int vector) {
  const std::int64_t along = s.layout == Layout::kChannelsLast ? s.channels / options.branches : s.width;
  return aligned && options.branches <= kFewBranches && along % vector == 0 ? vector : 1;
}

// By the size of a plane alone: an image's gradients do not depend on the batch that it is in.
struct GateGrid {
  std::int64_t batch, channels, height, width, row_size;  // channels of one branch
  int branches;
  int groups, slots, rows;        // a block's threads: vectors of channels, of columns, and rows; all powers of two
  int lanes;                      // channels of a tile, in the tables: 1 where tensors are contiguous
  int tile_rows, tile_columns;    // in pixels
  std::int64_t channel_tiles, row_tiles, column_tiles;

  GateGrid() = default;

  GateGrid(const PlaneShape& s, const GateOptions& options, std::int64_t row_logits, int vector)
      : batch(s.batch), channels(s.channels / options.branches), height(s.height), width(s.width),
        row_size(row_logits), branches(int(options.branches)), groups(1), slots(1), lanes(1) {
    const bool by_pixel = s.layout == Layout::kChannelsLast;
    const int run = by_pixel ? 1 : vector;  // pixels of a vector
    if (by_pixel) {
      const int most = branches > kFewBranches ? kWarpSize / 2 : kWarpSize;
      while (groups * vector < most && groups * vector < channels) groups *= 2;
      lanes = groups * vector;
    }
    // Narrow images leave lanes idle rather than have tiles of many rows, whose tables would take shared memory.
    const int least = branches > kFewBranches ? kWarpSize : kWarpSize / 2;
    while (groups * slots < kWarpSize && (std::int64_t(slots) * run < width || groups * slots < least)) slots *= 2;
    rows = kGateThreads / (groups * slots);
    const bool many = height * width > kSmallPlane && branches <= kFewBranches;
    tile_rows = rows * (many ? std::clamp(16 / rows, 1, 4) : 1);
    tile_columns = slots * run * int(many ? std::min<std::int64_t>(4, ceil_div(width, slots * run)) : 1);
    channel_tiles = ceil_div(channels, lanes);
    row_tiles = ceil_div(height, tile_rows);
    column_tiles = ceil_div(width, tile_columns);
  }

  std::int64_t blocks() const { return batch * channel_tiles * row_tiles * column_tiles; }
  std::int64_t table_elements() const { return std::int64_t(tile_rows + tile_columns) * branches * lanes; }
  // Sums of the tile's rows, and of its columns by every thread.
  std::int64_t sum_elements(int vector) const {
    return (std::int64_t(tile_rows) * lanes + std::int64_t(kGateThreads) * vector) * branches;
  }

  LaunchConfig forward_launch(int accumulator_bytes) const {
    return {blocks(), kGateThreads, table_elements() * accumulator_bytes};
  }
  LaunchConfig backward_launch(int vector, int accumulator_bytes) const {
    return {blocks(), kGateThreads, (table_elements() + sum_elements(vector)) * accumulator_bytes};
  }

  // Every tile leaves partial sums for the row logits and the column logits that it holds: so many per logit.
  std::int64_t row_parts() const { return row_size == 1 ? row_tiles * column_tiles : column_tiles; }
  std::int64_t column_parts() const { return row_tiles; }
};

inline LaunchConfig gate_merge_launch(std::int64_t logits) {  // a thread per logit
  return {ceil_div(logits, kGateThreads), kGateThreads};
}

// ---- The fused weight computation: logits from means ----------------------------------------------------------------

constexpr int kLogitThreads = 128;

// A block makes the logits of all channels of one branch, for a few neighbouring rows or columns of the image.
struct CoordinateGrid {
  int lines;            // of a block
  int groups, slots;    // threads: vectors of channels and pixels of a line, if channels last
  int chunk;            // channels whose means are taken at once
  std::int64_t row_tiles, column_tiles;

  CoordinateGrid() = default;

  // `vector`: elements of a thread. Contiguous tensors: lines share their memory transactions, so a block takes eight.
  CoordinateGrid(const PlaneShape& s, const GateOptions& options, std::int64_t hidden, int vector)
      : lines(1), groups(1), slots(8), chunk(kWarpSize) {
    if (s.layout == Layout::kChannelsLast) {
      const std::int64_t channels = s.channels / options.branches;
      while (groups < kWarpSize && std::int64_t(groups) * vector < channels) groups *= 2;
      slots = kLogitThreads / groups;
      chunk = groups * vector;
    } else {
      lines = int(std::clamp<std::int64_t>(kMaxCudaHidden / hidden, 1, 8));
    }
    row_tiles = ceil_div(s.height, lines);
    column_tiles = ceil_div(s.width, lines);
  }

  std::int64_t partials() const { return std::int64_t(chunk) * lines * slots; }

  LaunchConfig launch(const PlaneShape& s, const GateOptions& options, std::int64_t hidden,
                      int accumulator_bytes) const {
    return {s.batch * options.branches * (row_tiles + column_tiles), kLogitThreads,
            (partials() + lines * (chunk + hidden)) * accumulator_bytes};
  }
};

}  // namespace mffpa::cuda
