// How many blocks and threads a kernel gets: pure host arithmetic without CUDA, so that tests/cpp can check sizes that
// no test could allocate. Every operator computes its configurations here or in a header beside its kernels.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace mffpa::cuda {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
constexpr std::int64_t kMaxBlocks = std::numeric_limits<std::int32_t>::max();  // of grid.x; grid.y ends at 65535
// What every architecture since sm_50 gives a block without being asked; kernels are laid out to do with it.
constexpr std::int64_t kMaxSharedBytes = 48 * 1024;

// All grids and blocks are one-dimensional: a kernel takes its tile from blockIdx.x, and no dimension has a limit that
// images of unusual shape could reach.
struct LaunchConfig {
  std::int64_t blocks;
  int threads;                    // per block
  std::int64_t shared_bytes = 0;  // per block, dynamic
};

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The smallest power of two, at most `most`, of which every one takes `each`, so that they take `count` if possible.
constexpr int power_of_two(std::int64_t count, std::int64_t each, int most) {
  int n = 1;
  while (n < most && n * each < count) n *= 2;
  return n;
}

// Before every launch, on the device and in the tests.
inline void check_launch(const LaunchConfig& config) {
  const auto fail = [](const char* what, std::int64_t got, std::int64_t limit, const char* advice) {
    throw std::invalid_argument("mffpa_ext: a CUDA kernel needs " + std::to_string(got) + " " + what +
                                ", expected 1 to " + std::to_string(limit) + "; " + advice);
  };
  if (config.blocks < 1 || config.blocks > kMaxBlocks)
    fail("blocks", config.blocks, kMaxBlocks, "call the operator on parts of the batch");
  if (config.threads < 1 || config.threads > kMaxThreads)
    fail("threads per block", config.threads, kMaxThreads, "this is a bug in its launch configuration");
  if (config.shared_bytes < 0 || config.shared_bytes > kMaxSharedBytes)
    fail("bytes of shared memory", config.shared_bytes, kMaxSharedBytes, "this is a bug in its launch configuration");
}

}  // namespace mffpa::cuda
