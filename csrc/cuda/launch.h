// One spelling for what nvcc and g++ write differently, so that the very same .cu file runs on a GPU and, in
// tests/cuda, on the CPU: there g++ compiles it as C++20 with `-include simt.h`, one thread per CUDA thread.
//
// To add an operator:
// 1. csrc/<operator>.h declares `<operator>_forward_cuda(DType, shape, ..., void* stream)` beside the CPU function:
//    device pointers, scratch passed in by the caller, no allocation, no synchronisation.
// 2. csrc/cuda/<operator>.cu (the build takes every .cu of this folder) defines kernels in an anonymous namespace,
//
//      template <class T>
//      __global__ void __launch_bounds__(kThreads) scale_rows(const Arguments<T> a) {   // one struct, by value
//        MFFPA_DYNAMIC_SHARED(float, shared);                                           // shared_bytes of the launch
//        ...
//      }
//      launch(scale_rows<T>, LaunchConfig{blocks, kThreads, shared_bytes}, stream, arguments);
//
//    and picks T by with_element_type (elements.h). Configurations are host functions in csrc/cuda/<operator>_config.h,
//    tested in tests/cpp/test_cuda_launch.cpp. Offsets into tensors are int64; coordinates within a plane may be int.
//    No atomics: every output element is written once, and sums have a fixed order (warp.h).
// 3. tests/cuda: an entry in kernels_interface.cpp (for Python), a test module with its cases, and a run in
//    memory_check.cu (for the sanitizers); its kernels are named in test_compilation.py. Of CUDA, simt.h knows
//    threadIdx.x, blockIdx.x, blockDim.x, gridDim.x, __syncthreads, __syncwarp, shuffles over whole warps, and shared
//    memory.
// 4. python/bindings/<operator>.cpp registers it under MFFPA_WITH_CUDA (see bindings/cuda.h), and
//    mffpa_ext/ops/<operator>.py names it: use_compiled(x, operator="<operator>").
// 5. tests/cuda/test_<operator>_gpu.py, for those who have a GPU, and a line in benchmarks/GPU_TODO.md until it ran.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/launch_config.h"

#define MFFPA_DEVICE __device__ __forceinline__

#if defined(__CUDACC__)

#include <cuda_runtime.h>

// Dynamic shared memory as an array of T. Kernels use no other: its size stands in the tested launch configuration.
#define MFFPA_DYNAMIC_SHARED(T, name)                                       \
  extern __shared__ __align__(16) unsigned char mffpa_shared_bytes[];       \
  T* const name = reinterpret_cast<T*>(mffpa_shared_bytes)

namespace mffpa::cuda {

// Throws std::runtime_error with CUDA's text, also for an error that an earlier kernel has left behind.
template <class Arguments>
void launch(void (*kernel)(Arguments), const LaunchConfig& config, void* stream,
            const std::type_identity_t<Arguments>& arguments) {
  check_launch(config);
  void* pointers[] = {const_cast<Arguments*>(&arguments)};
  const cudaError_t error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(config.blocks)),
                                             dim3(unsigned(config.threads)), pointers,
                                             std::size_t(config.shared_bytes), static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here; the next caller must not find it again
  throw std::runtime_error(std::string("mffpa_ext: launching a CUDA kernel failed: ") + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

}  // namespace mffpa::cuda

#else  // simt.h comes first

#define MFFPA_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(simt::dynamic_shared())

namespace mffpa::cuda {

template <class Arguments>
void launch(void (*kernel)(Arguments), const LaunchConfig& config, void*,
            const std::type_identity_t<Arguments>& arguments) {
  check_launch(config);
  simt::launch(config.blocks, config.threads, std::size_t(config.shared_bytes), [&] { kernel(arguments); });
}

}  // namespace mffpa::cuda

#endif
