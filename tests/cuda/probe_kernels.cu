// Shows that the emulation in simt.h is one, and that the sanitizers see faults in it. One argument: the fault to
// commit, or "none" for the kernels as they should be, whose results are then checked.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "cuda/warp.h"

namespace mffpa::cuda {
namespace {

enum class Fault { kNone, kGlobalRead, kGlobalWrite, kSharedRead, kSharedWrite, kNoSyncThreads, kNoSyncWarp };

struct Neighbours {
  const float* x;
  float* y;
  int count;
  Fault fault;
};

constexpr int kThreads = 96;

// y[i] = x[i] + 2 * its successor in the block + 4 * its neighbour in the warp (lane ^ 1).
__global__ void __launch_bounds__(kThreads) neighbours(const Neighbours a) {
  MFFPA_DYNAMIC_SHARED(float, shared);
  const int thread = int(threadIdx.x), i = int(blockIdx.x * blockDim.x) + thread;
  const int reads = a.fault == Fault::kGlobalRead ? a.count + 1 : a.count;
  const int writes = a.fault == Fault::kGlobalWrite ? a.count + 1 : a.count;
  const int beyond = a.fault == Fault::kSharedWrite ? 1 : 0, first = a.fault == Fault::kSharedRead ? 1 : 0;
  shared[thread + beyond] = i < reads ? a.x[i] : 0;
  if (a.fault != Fault::kNoSyncThreads) __syncthreads();
  const float successor = shared[(thread + 1) % kThreads + first];
  __syncthreads();
  shared[thread] = i < a.count ? a.x[i] : 0;
  if (a.fault != Fault::kNoSyncWarp) __syncwarp();
  const float neighbour = shared[thread ^ 1];
  if (i < writes) a.y[i] = shared[thread] + 2 * successor + 4 * neighbour;
}

struct Sums {
  const float* x;
  float *sums, *largest, *blocks;
  int count;
};

// A sum and a maximum per warp by shuffles, and a sum per block through static shared memory; warps without work leave.
__global__ void __launch_bounds__(kThreads) sums(const Sums a) {
  __shared__ float partial[kThreads / kWarpSize];
  const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i - lane >= a.count) return;
  const float x = i < a.count ? a.x[i] : 0;
  const float sum = warp_sum(x);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  if (lane == 0) a.sums[i / kWarpSize] = sum, a.largest[i / kWarpSize] = warp_max(x);
  else warp_max(x);
  if (threadIdx.x != 0) return;
  float total = 0;
  for (int w = 0; w < kThreads / kWarpSize && int(blockIdx.x) * kThreads + w * kWarpSize < a.count; ++w)
    total += partial[w];
  a.blocks[blockIdx.x] = total;
}

template <class T>
struct Convert {
  const T* from;
  T* to;
  int vectors;
};

template <class T>
__global__ void __launch_bounds__(kWarpSize) twice(const Convert<T> a) {
  for (int v = int(threadIdx.x); v < a.vectors; v += kWarpSize) {
    Vector<T> vector = load_vector(a.from + v * kVectorSize<T>);
    for (T& x : vector.at) x = from_accumulator<T>(to_accumulator(x) * 2);
    store_vector(a.to + v * kVectorSize<T>, vector);
  }
}

int failures = 0;
void expect(bool holds, const char* what) {
  if (!holds) std::printf("FAILED: %s\n", what), ++failures;
}

void check_neighbours(Fault fault) {
  const int count = 2 * kThreads - 20;
  const std::vector<float> x(count, 3);
  std::vector<float> y(count, -1);
  std::int64_t floats = kThreads;
  launch(neighbours, {2, kThreads, floats * 4}, nullptr, {x.data(), y.data(), count, fault});
  if (fault != Fault::kNone) return;
  for (int i = 0; i < count; ++i)
    expect(y[i] == (i == count - 1 ? 15 : 21), "each thread sees its neighbours' numbers");
}

void check_sums() {
  const int count = kThreads + kWarpSize + 5;
  std::vector<float> x(count), sums_(5), largest(5), blocks(2);
  for (int i = 0; i < count; ++i) x[i] = float(i);
  launch(sums, {2, kThreads}, nullptr, {x.data(), sums_.data(), largest.data(), blocks.data(), count});
  expect(sums_ == std::vector<float>({496, 1520, 2544, 3568, 650}), "sums of warps");
  expect(largest == std::vector<float>({31, 63, 95, 127, 132}), "maxima of warps");
  expect(blocks == std::vector<float>({4560, 4218}), "sums of blocks");
}

template <class T>
void check_vectors() {
  constexpr int size = kVectorSize<T>;
  struct alignas(16) Block {
    T at[2 * size];
  } from, to;
  for (int i = 0; i < 2 * size; ++i) from.at[i] = from_accumulator<T>(float(i) - 3);
  launch(twice<T>, {1, kWarpSize}, nullptr, {from.at, to.at, 2});
  for (int i = 0; i < 2 * size; ++i) expect(to_accumulator(to.at[i]) == 2 * i - 6, "vectors of every element type");
}

}  // namespace
}  // namespace mffpa::cuda

int main(int, char** arguments) {
  using namespace mffpa::cuda;
  const std::map<std::string, Fault> faults = {
      {"none", Fault::kNone},
      {"global read", Fault::kGlobalRead},
      {"global write", Fault::kGlobalWrite},
      {"shared read", Fault::kSharedRead},
      {"shared write", Fault::kSharedWrite},
      {"no __syncthreads", Fault::kNoSyncThreads},
      {"no __syncwarp", Fault::kNoSyncWarp},
  };
  const Fault fault = faults.at(arguments[1]);
  check_neighbours(fault);
  if (fault == Fault::kNone) {
    check_sums();
    check_vectors<float>();
    check_vectors<double>();
    check_vectors<__half>();
    check_vectors<__nv_bfloat16>();
  }
  std::printf("finished\n");
  return failures == 0 ? 0 : 1;
}
