// Launch configurations of the CUDA kernels, for sizes that no test could allocate. Plain C++: needs no CUDA.
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "cuda/directional_means_config.h"
#include "cuda/feature_norm_config.h"
#include "cuda/launch_config.h"
#include "cuda/outlook_config.h"
#include "cuda/pyramid_gate_config.h"

namespace {

using namespace mffpa;
using namespace mffpa::cuda;

int failures = 0;

void expect(bool holds, const char* what) {
  if (!holds) std::printf("FAILED: %s\n", what), ++failures;
}

std::string refusal(const LaunchConfig& config) {
  try {
    check_launch(config);
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

OutlookShape shape(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t heads,
                   std::int64_t head_dim, std::int64_t kernel_size = 3, std::int64_t stride = 1) {
  const std::int64_t padding = kernel_size / 2;
  return {batch, height, width, heads, head_dim, kernel_size, stride, padding,
          grid_size(height, padding, stride, kernel_size), grid_size(width, padding, stride, kernel_size)};
}

void limits() {
  expect(refusal({kMaxBlocks, kMaxThreads, kMaxSharedBytes}).empty(), "the limits themselves are allowed");
  expect(refusal({kMaxBlocks + 1, 32}).find("2147483648 blocks") != std::string::npos, "too many blocks");
  expect(refusal({0, 32}).find("0 blocks, expected 1 to") != std::string::npos, "no blocks");
  expect(refusal({1, 1025}).find("1025 threads per block") != std::string::npos, "too many threads");
  expect(refusal({1, 32, 48 * 1024 + 1}).find("49153 bytes") != std::string::npos, "too much shared memory");
  expect(ceil_div(0, 8) == 0 && ceil_div(1, 8) == 1 && ceil_div(8, 8) == 1 && ceil_div(9, 8) == 2, "ceil_div");
  expect(ceil_div((std::int64_t(1) << 40) + 1, 128) == (std::int64_t(1) << 33) + 1, "ceil_div beyond 2^31");
}

// What a multiprocessor of each architecture has for all blocks on it; every block costs 1 KiB beyond its own.
void occupancy() {
  constexpr struct {
    const char* name;
    std::int64_t shared_bytes;
    int warps;
    std::int64_t least;  // blocks: where registers leave room for four or five, shared memory must do so too
  } architectures[] = {{"sm_75", 64 << 10, 32, 3},  {"sm_80", 164 << 10, 64, 5},  {"sm_86", 100 << 10, 48, 5},
                       {"sm_90", 228 << 10, 64, 5}, {"sm_100", 228 << 10, 64, 5}, {"sm_120", 100 << 10, 48, 5}};
  const LaunchConfig tiled = outlook_tiled_launch(shape(1, 29, 80, 4, 64), 0);
  for (const auto& sm : architectures) {
    const std::int64_t blocks = std::min(sm.shared_bytes / (tiled.shared_bytes + 1024),
                                         std::int64_t(sm.warps / (tiled.threads / kWarpSize)));
    if (blocks < sm.least) std::printf("FAILED: %s: %d blocks\n", sm.name, int(blocks)), ++failures;
  }
}

void tiles() {
  const LaunchConfig exact = outlook_tiled_launch(shape(2, 8, 32, 3, 8), 0);
  expect(exact.blocks == 2 * 1 * 2 * 3 && exact.threads == 128, "whole tiles");
  expect(outlook_tiled_launch(shape(1, 9, 33, 1, 8), 0).blocks == 2 * 3, "cut tiles");
  expect(outlook_tiled_launch(shape(1, 8, 16, 1, 8), 1).blocks == 2 * 2, "a margin for rows outside the image");
  expect(refusal(exact).empty(), "a tile fits");

  const OutlookShape s = shape(1, 7, 7, 2, 8);
  expect(outlook_is_tiled(s, 4, true) && outlook_is_tiled(s, 2, true), "float32 and the half types");
  expect(!outlook_is_tiled(s, 8, true), "float64 is general");
  expect(!outlook_is_tiled(s, 4, false), "unaligned pointers");
  expect(outlook_is_tiled(shape(1, 7, 7, 2, 4), 4, true) && !outlook_is_tiled(shape(1, 7, 7, 2, 4), 2, true),
         "whole 16-byte vectors");
  expect(!outlook_is_tiled(shape(1, 7, 7, 1, 8, 5), 4, true), "K = 5 is general");
  expect(outlook_is_tiled(shape(1, 7, 7, 1, 8, 3, 2), 4, true), "stride 2");
  expect(!outlook_is_tiled(shape(1, 7, 7, 1, 8, 3, 3), 4, true), "stride 3 is general");
  expect(!outlook_is_tiled(shape(1, std::int64_t(1) << 31, 1, 1, 8), 4, true), "coordinates beyond int");
}

void general() {
  for (std::int64_t k = 1; k <= kMaxOutlookKernel; ++k)
    for (const std::int64_t bytes : {4, 8}) {
      const OutlookShape s = shape(1, 20, 20, 3, 5, k);
      const std::int64_t offsets = (2 * k - 1) * (2 * k - 1);
      expect(outlook_forward_scratch(k) == offsets + 2 * k * k && outlook_backward_scratch(k) == offsets + 3 * k * k,
             "scratch of a warp");
      for (const std::int64_t scratch : {outlook_forward_scratch(k) * bytes, outlook_backward_scratch(k) * bytes}) {
        const LaunchConfig config = outlook_general_launch(s, 400, scratch);
        const std::int64_t warps = config.threads / kWarpSize;
        expect(refusal(config).empty() && warps >= 3 && config.threads % kWarpSize == 0, "every K fits");
        expect(config.shared_bytes == warps * scratch && config.blocks * warps >= 1200 &&
                   (config.blocks - 1) * warps < 1200,
               "as many warps as pixels and heads");
      }
    }
  expect(outlook_gather_launch(shape(2, 3, 5, 2, 7)).blocks == 4, "420 elements");
}

void beyond_32_bits() {
  const OutlookShape tiled = shape(32, 4096, 4096, 4, 64), small = shape(4, 40000, 40000, 1, 1, 1);
  const std::int64_t elements = tiled.batch * tiled.height * tiled.width * tiled.heads * tiled.head_dim;
  expect(elements > (std::int64_t(1) << 32), "more elements than 32 bits count");
  expect(outlook_tiled_launch(tiled, 0).blocks == 32ll * 512 * 256 * 4, "tiles of a large batch");
  expect(outlook_general_launch(small, 6400000000, 32).blocks == 1600000000, "6.4e9 warps");
  expect(refusal(outlook_general_launch(small, 6400000000, 32)).empty(), "are allowed");
  expect(outlook_gather_launch(tiled).blocks == elements / 128, "2^37 elements");
  expect(refusal(outlook_gather_launch(tiled)).empty(), "in less than 2^31 blocks");
  expect(!refusal(outlook_gather_launch(shape(512, 4096, 4096, 4, 127))).empty(), "more than 2^31 blocks are refused");
}

// A chunk's and a tile's bounds, for every layout and access: all of the tensor is covered, in blocks that fit.
void feature_norm() {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast})
    for (const std::int64_t channels : {1, 3, 8, 64, 65, 72, 1000})
      for (const std::int64_t pixels : {std::int64_t(1), std::int64_t(35), std::int64_t(2320), std::int64_t(148480),
                                        std::int64_t(1) << 33})
        for (const int vector : {1, 2, 4, 8}) {
          const PlaneShape s{2, channels, 1, pixels, layout};
          const bool by_pixel = layout == Layout::kChannelsLast;
          const std::int64_t chunk = feature_norm_chunk(layout, pixels);
          const FeatureNormGrid g(s, pixels, chunk, by_pixel ? vector : 1, by_pixel ? 1 : vector);
          const int columns = g.groups * (by_pixel ? vector : 1);
          const LaunchConfig config = g.launch(columns, 7, 8);
          expect(refusal(config).empty() && config.threads % kWarpSize == 0 &&
                     config.threads <= kFeatureNormThreads,
                 "feature norm: every shape fits");
          expect(chunk % 8 == 0 && g.chunks * chunk >= pixels && (g.chunks - 1) * chunk < pixels,
                 "feature norm: chunks cover a plane, in whole vectors");
          expect(g.tiles * columns >= channels && (g.tiles - 1) * columns < channels,
                 "feature norm: tiles cover the channels");
          expect(columns <= config.threads && config.threads % g.groups == 0, "feature norm: a thread per column");
          expect(g.chunks * g.chunks <= pixels, "feature norm: partial sums stay a fraction of the tensor");
          expect(config.shared_bytes <= 10 * 1024, "feature norm: shared memory leaves room for many blocks");
        }
  const FeatureNormGrid large({1, 64, 232, 640, Layout::kContiguous}, 232 * 640,
                              feature_norm_chunk(Layout::kContiguous, 232 * 640), 1, 4);
  expect(large.launch(1, 3, 4).blocks >= 1000, "feature norm: one image of 64 large planes fills a GPU");
}

void directional_means() {
  expect(mean_along_launch(1).blocks == 1 && mean_along_launch(9).blocks == 3, "means: four lines to a block");
  expect(mean_across_tiles(128, 4) == 1 && mean_across_tiles(129, 1) == 5, "means: tiles of 32 vectors");
  const LaunchConfig widest = mean_across_launch(3, 4096, 8, 4);
  expect(widest.blocks == 3 * 16 && refusal(widest).empty() && widest.shared_bytes == 4096, "means: a block fits");
  expect(mean_across_launch(1, std::int64_t(1) << 40, 8, 4).blocks == std::int64_t(1) << 32, "means beyond 2^31");
  expect(!refusal(mean_along_launch(std::int64_t(1) << 34)).empty(), "more than 2^31 blocks are refused");
}

// Every shape and number of branches: all of the tensor is covered, and a block fits.
void pyramid_gate() {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast})
    for (const std::int64_t branches : {1, 3, 4, 5, 16})
      for (const std::int64_t channels : {1, 3, 8, 64, 65, 1000})
        for (const std::int64_t height : {std::int64_t(1), std::int64_t(40), std::int64_t(640), std::int64_t(1) << 31})
          for (const std::int64_t width : {std::int64_t(1), std::int64_t(14), std::int64_t(232)})
            for (const int bytes : {4, 8})
              for (const bool aligned : {false, true}) {
                const PlaneShape s{2, channels * branches, height, width, layout};
                const GateOptions options{branches, true};
                const int vector = gate_vector(s, options, aligned, 16 / bytes);
                expect(vector == 1 || (aligned && branches <= kFewBranches), "gate: whole vectors of few branches");
                for (const bool gradient : {false, true}) {
                  const GateGrid g = gradient ? GateGrid::backward(s, options, height, vector)
                                              : GateGrid::forward(s, options, height, vector);
                  expect(g.groups * g.slots * g.rows == kGateThreads && g.groups * g.slots <= kWarpSize,
                         "gate: a row of the tile belongs to one warp");
                  expect(g.row_tiles * std::int64_t(g.tile_rows) >= height &&
                             g.column_tiles * std::int64_t(g.tile_columns) >= width &&
                             g.channel_tiles * std::int64_t(g.tile_channels) >= channels &&
                             g.tile_channels == 1 << g.tile_channel_bits,
                         "gate: tiles cover the tensor");
                  expect(g.tile_rows % g.rows == 0, "gate: as many rows for every thread");
                  expect(g.tile_rows * branches * g.tile_channels % vector == 0 &&
                             g.tile_columns * branches * g.tile_channels % vector == 0,
                         "gate: tables start at whole vectors");
                  const LaunchConfig config = gradient ? g.backward_launch(vector, bytes) : g.forward_launch(bytes);
                  expect(refusal({1, config.threads, config.shared_bytes}).empty(), "gate: shared memory fits");
                  if (branches == 4 && bytes == 4)
                    expect(config.shared_bytes <= (gradient ? 40 : 20) * 1024, "gate: room for several blocks");
                }
                for (const std::int64_t hidden : {1, 8, 300, int(kMaxCudaHidden)}) {
                  const CoordinateGrid c(s, options, hidden, layout == Layout::kChannelsLast ? vector : 1);
                  const LaunchConfig config = c.launch(s, options, hidden, bytes);
                  expect(layout == Layout::kChannelsLast || kLogitThreads % (c.pixels * c.lines) == 0,
                         "coordinate logits: no two threads with one share");
                  expect(refusal({1, config.threads, config.shared_bytes}).empty(), "coordinate logits: a block fits");
                  expect(c.row_tiles * c.lines >= height && c.column_tiles * c.lines >= width,
                         "coordinate logits: every line");
                }
              }
  const PlaneShape network{1, 256, 40, 14, Layout::kChannelsLast};
  expect(GateGrid::forward(network, {4, true}, 40, 4).blocks() == 80, "gate: the network's pyramid spreads over a GPU");
  const PlaneShape batch{64, 256, 40, 14, Layout::kChannelsLast};
  expect(GateGrid::forward(batch, {4, true}, 40, 4).tile_rows == 16, "gate: larger tiles of a batch");
  const GateGrid of_batch = GateGrid::backward(batch, {4, true}, 40, 4);
  const GateGrid of_image = GateGrid::backward(network, {4, true}, 40, 4);
  expect(of_batch.tile_rows == of_image.tile_rows && of_batch.tile_columns == of_image.tile_columns,
         "gate: the batch does not change the order of sums");
  expect(CoordinateGrid(network, {4, true}, 8, 4).launch(network, {4, true}, 8, 4).blocks == 216, "a block to a line");
  const PlaneShape huge{1, 4, std::int64_t(1) << 30, std::int64_t(1) << 20, Layout::kContiguous};
  const LaunchConfig refused = GateGrid::forward(huge, {4, true}, 1, 1).forward_launch(4);
  expect(!refusal(refused).empty(), "more than 2^31 blocks are refused");
}

}  // namespace

int main() {
  pyramid_gate();
  limits();
  occupancy();
  tiles();
  general();
  beyond_32_bits();
  feature_norm();
  directional_means();
  if (failures == 0) std::printf("all launch configurations hold\n");
  return failures == 0 ? 0 : 1;
}
