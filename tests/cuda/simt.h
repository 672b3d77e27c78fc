// Runs CUDA kernels on the CPU: one OS thread per CUDA thread, one block after another. g++ compiles the .cu files with
// `-x c++ -include simt.h`; csrc/cuda/launch.h calls simt::launch where nvcc would launch on the device.
//
// AddressSanitizer on the result is a memcheck, ThreadSanitizer a racecheck: barriers are the only thing that orders
// two threads. Shared memory starts as NaN in every block. Not shown: speed, the rounding of the device's own
// functions, device limits, and races between blocks, which would need two of them at once.
#pragma once

#include <cuda_runtime_api.h>  // vector types; in plain C++ its attributes __global__ and __device__ mean nothing

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#undef __shared__
#define __shared__ static  // one copy for all threads of a block
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline

namespace simt {

constexpr int kLanes = 32;

struct FreeAligned {
  void operator()(unsigned char* bytes) const { ::operator delete[](bytes, std::align_val_t{16}); }
};

struct Block {
  std::barrier<> all;
  std::vector<std::unique_ptr<std::barrier<>>> warps;
  std::vector<std::uint64_t> exchanged;                   // by shuffles, a slot per thread
  std::unique_ptr<unsigned char[], FreeAligned> dynamic;  // exactly as long as asked for

  Block(int threads, std::size_t shared_bytes)
      : all(threads), exchanged(threads), dynamic(new (std::align_val_t{16}) unsigned char[shared_bytes]) {
    for (int first = 0; first < threads; first += kLanes)
      warps.push_back(std::make_unique<std::barrier<>>(threads - first < kLanes ? threads - first : kLanes));
    std::memset(dynamic.get(), 0xff, shared_bytes);  // NaN in every floating-point type
  }
};

struct Index {
  unsigned x = 0;  // csrc/cuda has one-dimensional grids only; a use of y or z does not compile
};

inline thread_local Block* block = nullptr;
inline thread_local int thread = 0;
inline std::barrier<>& warp_barrier() { return *block->warps[thread / kLanes]; }
inline unsigned char* dynamic_shared() { return block->dynamic.get(); }

inline void require_whole_warp(unsigned mask) {
  if (mask == ~0u) return;
  std::fprintf(stderr, "simt.h: only masks of whole warps are emulated, got %#x\n", mask);
  std::abort();
}

// Every lane of the warp calls this with its value, and gets that of lane `from`.
template <class T>
T shuffle(T value, int from) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t* slots = &block->exchanged[thread / kLanes * kLanes];
  std::memcpy(&slots[thread % kLanes], &value, sizeof(T));
  warp_barrier().arrive_and_wait();
  std::memcpy(&value, &slots[from], sizeof(T));
  warp_barrier().arrive_and_wait();
  return value;
}

}  // namespace simt

inline thread_local simt::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { simt::block->all.arrive_and_wait(); }

inline void __syncwarp(unsigned mask = ~0u) {
  simt::require_whole_warp(mask);
  simt::warp_barrier().arrive_and_wait();
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  simt::require_whole_warp(mask);
  return simt::shuffle(value, from % simt::kLanes);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return __shfl_sync(mask, value, (simt::thread % simt::kLanes) ^ lane_mask);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, int distance) {
  const int lane = simt::thread % simt::kLanes, from = lane + distance;
  return __shfl_sync(mask, value, from < simt::kLanes ? from : lane);
}

namespace simt {

template <class Kernel>
void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, const Kernel& kernel) {
  auto current = std::make_unique<Block>(threads, shared_bytes);
  std::int64_t index = 0;
  const auto advance = [&]() noexcept {
    current = std::make_unique<Block>(threads, shared_bytes);
    ++index;
  };
  std::barrier next(threads, advance);
  const auto run = [&](int t) {
    thread = t;
    threadIdx.x = unsigned(t), blockDim.x = unsigned(threads), gridDim.x = unsigned(blocks);
    while (index < blocks) {
      block = current.get();
      blockIdx.x = unsigned(index);
      kernel();
      warp_barrier().arrive_and_drop();  // nobody waits for a thread that has returned
      block->all.arrive_and_drop();
      next.arrive_and_wait();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) pool.emplace_back(run, t);
  for (std::thread& one : pool) one.join();
}

}  // namespace simt
