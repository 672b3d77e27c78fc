// How feature normalisation is cut into blocks, and its launch configurations.
//
// A tile is the channels that a block works on together: one where tensors are contiguous, 128 bytes of neighbours
// where they are channels last. The pixels of every tile are cut into chunks, a block each. The first launch leaves
// partial sums of every chunk in the workspace; in the second, every block merges those of its own tile.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/launch_config.h"
#include "feature_norm.h"
#include "host_device.h"

namespace mffpa::cuda {

constexpr int kFeatureNormThreads = 128;
constexpr int kFeatureNormBlocks = 4;  // on a multiprocessor at least: 128 registers a thread
constexpr std::int64_t kPartialsPerChunk = 3;  // of each channel

// Pixels per chunk, by the size of a plane alone: an image's result does not depend on the batch that it is in. At
// least 2 sqrt(pixels), so that what all blocks together read of the partial sums stays a fraction of the tensor.
// A multiple of 8, the most elements of a vector.
inline std::int64_t feature_norm_chunk(Layout layout, std::int64_t pixels) {
  const std::int64_t root = std::int64_t(2 * std::sqrt(double(pixels)));
  const std::int64_t least = layout == Layout::kChannelsLast
                                 ? std::int64_t{16}
                                 : std::clamp(pixels / 16, std::int64_t{1024}, std::int64_t{8192});
  return ceil_div(std::max(root, least), 8) * 8;
}

// Shared doubles for two sums of each column over the block.
MFFPA_HOST_DEVICE constexpr int feature_norm_sums(int threads, int columns) {
  return 2 * (threads / kWarpSize) * (columns > kWarpSize ? columns : kWarpSize);
}

// What one launch goes over.
struct FeatureNormGrid {
  std::int64_t batch, channels, pixels;  // pixels of a plane: of the result, with a max-pool
  std::int64_t per_chunk, chunks, tiles;
  int threads, groups;  // threads side by side in a tile; the others take further pixels

  FeatureNormGrid() = default;

  // `elements`: of a tile's channels per thread, or 1; `run`: neighbouring pixels per thread.
  FeatureNormGrid(const PlaneShape& s, std::int64_t plane, std::int64_t chunk, int elements, int run)
      : batch(s.batch), channels(s.channels), pixels(plane), per_chunk(chunk), chunks(ceil_div(plane, chunk)) {
    groups = 1;
    std::int64_t per_tile = 1;
    if (s.layout == Layout::kChannelsLast) {
      const int most = elements == 1 ? kWarpSize : 8;
      groups = power_of_two(channels, elements, most);
      per_tile = std::int64_t(groups) * elements;
    }
    tiles = ceil_div(channels, per_tile);
    const std::int64_t wanted = ceil_div(std::min(per_chunk, pixels), run) * groups;
    // The merge takes a thread per channel of the tile.
    const std::int64_t least = std::max(per_tile, std::int64_t{kWarpSize});
    threads = int(std::clamp(ceil_div(wanted, kWarpSize) * kWarpSize, least, std::int64_t{kFeatureNormThreads}));
  }

  // `columns`: channels of a tile; `maps`: accumulators per channel that the block shares after the merge.
  LaunchConfig launch(int columns, int maps, int accumulator_bytes) const {
    const std::int64_t sums = feature_norm_sums(threads, columns) * std::int64_t(sizeof(double));
    return {batch * tiles * chunks, threads, sums + std::int64_t(maps) * columns * accumulator_bytes};
  }
};

}  // namespace mffpa::cuda
