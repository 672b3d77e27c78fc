// What the tiled kernels of outlook attention share (K = 3, stride S = 1 or 2): tiles, staging through shared memory,
// and the weighted sum over the 5 x 5 pixels around each pixel. See outlook_config.h for the layout.
#pragma once

#include "cuda/elements.h"
#include "cuda/outlook_config.h"

namespace mffpa::cuda {

constexpr int kReach = 5;  // 2K - 1 offsets along an axis; tap t reads at distance t - kHalo
constexpr int kTaps = kReach * kReach;

struct TiledShape {
  int height, width, heads, head_vectors, padding, grid_height, grid_width;
  int margin;  // tiles start at -margin
  unsigned tile_rows, tile_columns;

  TiledShape(const OutlookShape& s, int vector_size, std::int64_t outer_margin)
      : height(int(s.height)), width(int(s.width)), heads(int(s.heads)), head_vectors(int(s.head_dim) / vector_size),
        padding(int(s.padding)), grid_height(int(s.grid_height)), grid_width(int(s.grid_width)),
        margin(int(outer_margin)), tile_rows(unsigned(outlook_tiles(s, outer_margin).rows)),
        tile_columns(unsigned(outlook_tiles(s, outer_margin).columns)) {}
};

struct Tile {
  std::int64_t batch;
  int head, y0, x0;
};

// Heads fastest: blocks that run together share the cache lines in which one head's data ends and the next begins.
MFFPA_DEVICE Tile tile_of_block(const TiledShape& s) {
  unsigned block = blockIdx.x;
  const unsigned head = block % unsigned(s.heads);
  block /= unsigned(s.heads);
  const unsigned column = block % s.tile_columns;
  block /= s.tile_columns;
  return {std::int64_t(block / s.tile_rows), int(head), int(block % s.tile_rows) * kTileHeight - s.margin,
          int(column) * kTileWidth - s.margin};
}

// With stride 2 the pixels of a warp agree in the parity of both coordinates, hence in the windows that cover them:
// no divergence, and no work for windows that cover only other pixels.
template <int S>
MFFPA_DEVICE int thread_of(int row, int column) {
  if constexpr (S == 1) return row * kTileWidth + column;
  return (row % 2 * 2 + column % 2) * kWarpSize + row / 2 * (kTileWidth / 2) + column / 2;
}

struct Pixel {
  int row, column;  // in the tile
  int y, x;         // in the image
  bool inside;
};

template <int S>
MFFPA_DEVICE Pixel pixel_of_thread(const TiledShape& s, const Tile& tile) {
  const int t = int(threadIdx.x), lane = t % kWarpSize, warp = t / kWarpSize;
  Pixel p;
  p.row = S == 1 ? t / kTileWidth : lane / (kTileWidth / 2) * 2 + warp / 2;
  p.column = S == 1 ? t % kTileWidth : lane % (kTileWidth / 2) * 2 + warp % 2;
  p.y = tile.y0 + p.row, p.x = tile.x0 + p.column;
  p.inside = p.y >= 0 && p.y < s.height && p.x >= 0 && p.x < s.width;
  return p;
}

MFFPA_DEVICE std::int64_t pixel_index(const TiledShape& s, std::int64_t batch, int y, int x) {
  return (batch * s.height + y) * s.width + x;
}

// Whether pixel p is element i of a window of the grid, along one axis.
template <int S>
MFFPA_DEVICE bool is_element(int p, int i, int padding, int grid) {
  const int start = p + padding - i;
  return start >= 0 && start % S == 0 && start / S < grid;
}

// Calls body(slot, offset, pixel_inside) for the logits (q, (iy, ix), j) of the tile's pixels with this iy, each once
// in the block: a warp per window, whose 27 logits follow each other in memory. `slot` is where the logit lies in the
// staging buffer: [thread of the pixel][ix][j].
template <int S, class Body>
MFFPA_DEVICE void for_each_logit(const TiledShape& s, const Tile& tile, int iy, Body body) {
  constexpr int rows = kTileHeight / S, windows = (kTileWidth + 2) / S;  // with a pixel in the tile
  const int lane = int(threadIdx.x) % kWarpSize, ix = lane / 9;
  const int first_row = S == 1 ? 0 : (tile.y0 + s.padding + iy) & 1;
  const int first_qx = S == 1 ? tile.x0 + s.padding - 2 : (tile.x0 + s.padding - 1) >> 1;  // its last element: x0
  const std::int64_t per_window = std::int64_t(s.heads) * 81;
#pragma unroll 4
  for (int item = int(threadIdx.x) / kWarpSize; item < rows * windows; item += kTileThreads / kWarpSize) {
    const int row = first_row + item / windows * S, qx = first_qx + item % windows;
    const int y = tile.y0 + row, x = qx * S - s.padding + ix, column = x - tile.x0;
    const int start = y + s.padding - iy, qy = start / S;
    if (lane >= kStagedRow || start < 0 || qy >= s.grid_height || qx < 0 || qx >= s.grid_width || column < 0 ||
        column >= kTileWidth)
      continue;
    const std::int64_t window = (tile.batch * s.grid_height + qy) * s.grid_width + qx;
    body(thread_of<S>(row, column) * kStagedRow + lane,
         window * per_window + tile.head * 81 + iy * kStagedRow + lane,
         y >= 0 && y < s.height && x >= 0 && x < s.width);
  }
}

// The thread's row (iy, ix) from the staging buffer, with the softmax applied.
template <class A>
MFFPA_DEVICE void softmax_row(const A* row, A scale, A (&weight)[9]) {
#pragma unroll
  for (int j = 0; j < 9; ++j) weight[j] = row[j] * scale;
  A largest = weight[0], sum = 0;
#pragma unroll
  for (int j = 1; j < 9; ++j) largest = larger(largest, weight[j]);
#pragma unroll
  for (int j = 0; j < 9; ++j) sum += weight[j] = exponential(weight[j] - largest);
  const A inverse = A(1) / sum;
#pragma unroll
  for (int j = 0; j < 9; ++j) weight[j] *= inverse;
}

// Where the thread's row lies in its window's mask, relative to the mask's start.
template <int S>
MFFPA_DEVICE std::int64_t row_offset(const TiledShape& s, const Tile& tile, const Pixel& p, int iy, int ix) {
  const int qy = (p.y + s.padding - iy) / S, qx = (p.x + s.padding - ix) / S;
  const std::int64_t window = (tile.batch * s.grid_height + qy) * s.grid_width + qx;
  return (window * s.heads + tile.head) * 81 + (iy * 3 + ix) * 9;
}

// Brings vectors [first, first + count) of the head for all pixels around the tile into shared memory, 0 outside the
// image. Lanes read along the channels; in shared memory the pixels of one vector follow each other.
template <class T>
MFFPA_DEVICE void stage_vectors(const TiledShape& s, const Tile& tile, const T* from, int first, int count,
                                Vector<T>* staged) {
#pragma unroll 4
  for (int step = 0; step < kStagingSteps; ++step) {
    const int item = step * kTileThreads + int(threadIdx.x);
    const int v = item % kStagedVectors, pixel = item / kStagedVectors;
    const int y = tile.y0 - kHalo + pixel / kStagedWidth, x = tile.x0 - kHalo + pixel % kStagedWidth;
    if (pixel >= kStagedPixels || v >= count) continue;
    Vector<T> vector{};
    if (y >= 0 && y < s.height && x >= 0 && x < s.width)
      vector = load_vector(from + ((pixel_index(s, tile.batch, y, x) * s.heads + tile.head) * s.head_vectors + first +
                                   v) * kVectorSize<T>);
    staged[v * kStagedPitch + pixel] = vector;
  }
}

// The taps that some row reaches, along one axis. What lies at the others must not even be multiplied by 0: it may be
// infinite. With stride 1, all taps inside the image are reached.
struct TapRange {
  int first = kReach, last = -1;
  MFFPA_DEVICE void add_element(int i) {  // the windows of which the pixel is element i reach offsets -i to 2 - i
    if (kHalo - i < first) first = kHalo - i;
    if (kHalo - i + 2 > last) last = kHalo - i + 2;
  }
  MFFPA_DEVICE bool has(int tap) const { return tap >= first && tap <= last; }
};

// to[p] = sum over the taps of weight[tap] * from[p + tap - kHalo], for the head's channels. All threads of the block
// must call it.
template <int S, class T, class A = Accumulator<T>>
MFFPA_DEVICE void weighted_sum(const TiledShape& s, const Tile& tile, const Pixel& p, const A (&weight)[kTaps],
                               const TapRange& rows, const TapRange& columns, const T* from, T* to,
                               Vector<T>* staged) {
  T* const out = to + (pixel_index(s, tile.batch, p.y, p.x) * s.heads + tile.head) * s.head_vectors * kVectorSize<T>;
  for (int first = 0; first < s.head_vectors; first += kStagedVectors) {
    const int count = s.head_vectors - first < kStagedVectors ? s.head_vectors - first : kStagedVectors;
    stage_vectors(s, tile, from, first, count, staged);
    __syncthreads();
    if (p.inside) {
      for (int v = 0; v < count; ++v) {
        const Vector<T>* corner = staged + v * kStagedPitch + p.row * kStagedWidth + p.column;
        A sum[kVectorSize<T>] = {};
#pragma unroll
        for (int ty = 0; ty < kReach; ++ty) {
          if (S != 1 && !rows.has(ty)) continue;
#pragma unroll
          for (int tx = 0; tx < kReach; ++tx) {
            if (S != 1 && !columns.has(tx)) continue;
            const Vector<T> vector = corner[ty * kStagedWidth + tx];
#pragma unroll
            for (int k = 0; k < kVectorSize<T>; ++k)
              sum[k] += weight[ty * kReach + tx] * to_accumulator(vector.at[k]);
          }
        }
        Vector<T> result;
#pragma unroll
        for (int k = 0; k < kVectorSize<T>; ++k) result.at[k] = from_accumulator<T>(sum[k]);
        store_vector(out + (first + v) * kVectorSize<T>, result);
      }
    }
    __syncthreads();
  }
}

}  // namespace mffpa::cuda
