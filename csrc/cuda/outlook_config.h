// Which kernels an outlook attention runs on, and their launch configurations.
//
// Tiled: K = 3, stride 1 or 2, heads of whole 16-byte vectors. A block takes kTileHeight x kTileWidth pixels of one
// head, a pixel per thread. General: everything else, a pixel and head per warp.
#pragma once

#include <cstdint>

#include "cuda/launch_config.h"
#include "outlook_attention.h"
#include "outlook_window.h"

namespace mffpa::cuda {

// ---- Tiled ----------------------------------------------------------------------------------------------------------
constexpr int kTileHeight = 8, kTileWidth = 16;
constexpr int kTileThreads = kTileHeight * kTileWidth;
constexpr int kHalo = 2;  // K - 1: how far a pixel's kernel reaches
constexpr int kStagedWidth = kTileWidth + 2 * kHalo;
constexpr int kStagedPixels = (kTileHeight + 2 * kHalo) * kStagedWidth;
constexpr int kStagedVectors = 4;  // of every pixel at a time: 64 bytes, two sectors of device memory
// One more than the pixels: the vectors of one pixel then lie in different banks, and so do neighbouring pixels'.
constexpr int kStagedPitch = kStagedPixels + 1;
constexpr int kStagingSteps = int(ceil_div(kStagedPixels * kStagedVectors, kTileThreads));  // vectors per thread
constexpr int kStagedRow = 27;  // logits of a pixel that are staged together: 3 rows of 9

// `margin` pixels on every side belong to the grid of tiles as well: the backward pass also writes the gradients of
// rows outside the image.
struct OutlookTiles {
  std::int64_t rows, columns;
};

inline OutlookTiles outlook_tiles(const OutlookShape& s, std::int64_t margin) {
  return {ceil_div(s.height + 2 * margin, kTileHeight), ceil_div(s.width + 2 * margin, kTileWidth)};
}

inline bool outlook_is_tiled(const OutlookShape& s, int element_bytes, bool pointers_aligned) {
  constexpr std::int64_t int_coordinates = 1 << 30;
  return s.kernel_size == 3 && s.stride <= 2 && element_bytes <= 4 && pointers_aligned &&
         s.head_dim * element_bytes % 16 == 0 && s.height < int_coordinates && s.width < int_coordinates &&
         s.heads * s.head_dim < int_coordinates;
}

inline LaunchConfig outlook_tiled_launch(const OutlookShape& s, std::int64_t margin) {
  constexpr std::int64_t logits = kTileThreads * kStagedRow * sizeof(float);
  constexpr std::int64_t values = kStagedVectors * kStagedPitch * 16;
  const OutlookTiles tiles = outlook_tiles(s, margin);
  return {s.batch * tiles.rows * tiles.columns * s.heads, kTileThreads, logits > values ? logits : values};
}

// ---- General --------------------------------------------------------------------------------------------------------
// Shared accumulators per warp. Forward: the pixel's kernel, and maximum and factor of every row of logits.
MFFPA_HOST_DEVICE constexpr std::int64_t outlook_forward_scratch(std::int64_t kernel_size) {
  return (2 * kernel_size - 1) * (2 * kernel_size - 1) + 2 * kernel_size * kernel_size;
}
// Backward: the kernel's gradient, and per row also the mean of its gradient.
MFFPA_HOST_DEVICE constexpr std::int64_t outlook_backward_scratch(std::int64_t kernel_size) {
  return (2 * kernel_size - 1) * (2 * kernel_size - 1) + 3 * kernel_size * kernel_size;
}

// `pixels` x heads warps, four to a block where their scratch has room.
inline LaunchConfig outlook_general_launch(const OutlookShape& s, std::int64_t pixels, std::int64_t scratch_bytes) {
  int warps = 4;
  while (warps * scratch_bytes > kMaxSharedBytes) --warps;
  return {ceil_div(pixels * s.heads, warps), warps * kWarpSize, warps * scratch_bytes};
}

constexpr int kGatherThreads = 128;

inline LaunchConfig outlook_gather_launch(const OutlookShape& s) {  // a thread per element
  return {ceil_div(s.batch * s.height * s.width * s.heads * s.head_dim, kGatherThreads), kGatherThreads};
}

}  // namespace mffpa::cuda
