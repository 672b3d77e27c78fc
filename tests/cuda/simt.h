// Runs CUDA kernels on the CPU, one block after another. g++ compiles the .cu files with `-x c++ -include simt.h`;
// csrc/cuda/launch.h calls simt::launch where nvcc would launch on the device.
//
// The threads of a block are contexts that take turns at barriers; threads that would wait for ever are reported.
// AddressSanitizer on the result is a memcheck. Under ThreadSanitizer they are threads of the operating system, many
// times slower: a racecheck, since barriers are the only thing that orders two of them. Shared memory starts as NaN in
// every block. Not shown: speed, the rounding of the device's own functions, device limits, and races between blocks,
// which would need two of them at once.
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
#include <type_traits>
#include <vector>

#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#undef __shared__
#define __shared__ static  // one copy for all threads of a block
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline

namespace simt {

constexpr int kLanes = 32;

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreads = true;
#else
constexpr bool kThreads = false;
#endif

void yield();               // to the other contexts of the block
inline long progress = 0;   // counts what lets a context go on

// std::barrier for contexts.
class ContextBarrier {
 public:
  explicit ContextBarrier(std::ptrdiff_t expected) : expected_(expected) {}
  void arrive_and_wait() {
    const long phase = phase_;
    ++arrived_, complete();
    while (phase == phase_) yield();
  }
  void arrive_and_drop() { --expected_, complete(); }

 private:
  void complete() {
    if (arrived_ == expected_) arrived_ = 0, ++phase_, ++progress;
  }
  std::ptrdiff_t expected_, arrived_ = 0;
  long phase_ = 0;
};

using Barrier = std::conditional_t<kThreads, std::barrier<>, ContextBarrier>;

struct FreeAligned {
  void operator()(unsigned char* bytes) const { ::operator delete[](bytes, std::align_val_t{16}); }
};

struct Block {
  Barrier all;
  std::vector<std::unique_ptr<Barrier>> warps;
  std::vector<std::uint64_t> exchanged;                   // by shuffles, a slot per thread
  std::unique_ptr<unsigned char[], FreeAligned> dynamic;  // exactly as long as asked for

  Block(int threads, std::size_t shared_bytes)
      : all(threads), exchanged(threads), dynamic(new (std::align_val_t{16}) unsigned char[shared_bytes]) {
    for (int first = 0; first < threads; first += kLanes)
      warps.push_back(std::make_unique<Barrier>(threads - first < kLanes ? threads - first : kLanes));
    std::memset(dynamic.get(), 0xff, shared_bytes);  // NaN in every floating-point type
  }
};

struct Index {
  unsigned x = 0;  // csrc/cuda has one-dimensional grids only; a use of y or z does not compile
};

inline thread_local Block* block = nullptr;
inline thread_local int thread = 0;
inline Barrier& warp_barrier() { return *block->warps[thread / kLanes]; }
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

inline void take_place(Block& of, std::int64_t index, std::int64_t blocks, int t, int threads) {
  block = &of, thread = t;
  threadIdx.x = unsigned(t), blockDim.x = unsigned(threads);
  blockIdx.x = unsigned(index), gridDim.x = unsigned(blocks);
}

template <class Kernel>
void run_thread(const Kernel& kernel) {
  kernel();
  warp_barrier().arrive_and_drop();  // nobody waits for a thread that has returned
  block->all.arrive_and_drop();
}

template <class Kernel>
void launch_threads(std::int64_t blocks, int threads, std::size_t shared_bytes, const Kernel& kernel) {
  auto current = std::make_unique<Block>(threads, shared_bytes);
  std::int64_t index = 0;
  const auto advance = [&]() noexcept {
    current = std::make_unique<Block>(threads, shared_bytes);
    ++index;
  };
  std::barrier next(threads, advance);
  const auto run = [&](int t) {
    while (index < blocks) {
      take_place(*current, index, blocks, t, threads);
      run_thread(kernel);
      next.arrive_and_wait();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) pool.emplace_back(run, t);
  for (std::thread& one : pool) one.join();
}

constexpr std::size_t kStackBytes = 256 * 1024;

struct Context {
  ucontext_t state;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  bool running = false;
};

inline std::vector<std::unique_ptr<Context>> contexts;  // kept: their stacks cost more than a block
inline ucontext_t scheduler;
inline const void* current_kernel = nullptr;

// AddressSanitizer is told of every change of stacks, before and behind it.
inline const void* scheduler_stack = nullptr;
inline std::size_t scheduler_stack_bytes = 0;
#if defined(__SANITIZE_ADDRESS__)
inline void leaving(void** kept, const void* to, std::size_t bytes) { __sanitizer_start_switch_fiber(kept, to, bytes); }
inline void entered_context(void* kept) {
  __sanitizer_finish_switch_fiber(kept, &scheduler_stack, &scheduler_stack_bytes);
}
inline void entered_scheduler(void* kept) { __sanitizer_finish_switch_fiber(kept, nullptr, nullptr); }
#else
inline void leaving(void**, const void*, std::size_t) {}
inline void entered_context(void*) {}
inline void entered_scheduler(void*) {}
#endif

inline void yield() {
  void* kept = nullptr;
  leaving(&kept, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&contexts[thread]->state, &scheduler);
  entered_context(kept);
}

inline void prepare(Context& context, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = context.stack.get(), context.state.uc_stack.ss_size = kStackBytes;
  context.state.uc_link = nullptr;
  context.running = true;
  makecontext(&context.state, entry, 0);
}

inline void resume(Context& context) {
  void* kept = nullptr;
  leaving(&kept, context.stack.get(), kStackBytes);
  swapcontext(&scheduler, &context.state);
  entered_scheduler(kept);
}

template <class Kernel>
void enter_context() {
  entered_context(nullptr);
  run_thread(*static_cast<const Kernel*>(current_kernel));
  ++progress;
  contexts[thread]->running = false;
  yield();
}

template <class Kernel>
void launch_contexts(std::int64_t blocks, int threads, std::size_t shared_bytes, const Kernel& kernel) {
  while (int(contexts.size()) < threads) contexts.push_back(std::make_unique<Context>());
  current_kernel = &kernel;
  for (std::int64_t index = 0; index < blocks; ++index) {
    Block of(threads, shared_bytes);
    for (int t = 0; t < threads; ++t) prepare(*contexts[t], &enter_context<Kernel>);
    for (int left = threads; left > 0;) {
      const long before = progress;
      for (int t = 0; t < threads; ++t) {
        if (!contexts[t]->running) continue;
        take_place(of, index, blocks, t, threads);
        resume(*contexts[t]);
        if (!contexts[t]->running) --left;
      }
      if (progress != before) continue;
      std::fprintf(stderr, "simt.h: all threads of block %lld wait, at different barriers\n", (long long)index);
      std::abort();
    }
  }
  current_kernel = nullptr;
}

template <class Kernel>
void launch(std::int64_t blocks, int threads, std::size_t shared_bytes, const Kernel& kernel) {
  if constexpr (kThreads) launch_threads(blocks, threads, shared_bytes, kernel);
  else launch_contexts(blocks, threads, shared_bytes, kernel);
}

}  // namespace simt
