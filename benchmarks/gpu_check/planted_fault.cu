// Two faults for compute-sanitizer to find: a sanitizer that does not report them does not work on this machine.
//   planted_fault memcheck    writes one element past the end of a buffer
//   planted_fault racecheck   reads from shared memory what another warp has written, without a barrier
#include <cstdio>
#include <cstring>

#include <cuda_runtime.h>

namespace mffpa {  // the kernels that the sanitizer is to look at are told by this name
namespace {

constexpr int kThreads = 128;

__global__ void write_past_the_end(float* x) { x[threadIdx.x + 1] = 1; }

__global__ void read_without_a_barrier(float* x) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

}  // namespace
}  // namespace mffpa

int main(int count, char** arguments) {
  float* x = nullptr;
  if (cudaMalloc(&x, mffpa::kThreads * sizeof(float)) != cudaSuccess) {
    std::puts("cudaMalloc failed");
    return 1;
  }
  if (count > 1 && std::strcmp(arguments[1], "memcheck") == 0) {
    mffpa::write_past_the_end<<<1, mffpa::kThreads>>>(x);
  } else {
    mffpa::read_without_a_barrier<<<1, mffpa::kThreads>>>(x);
  }
  const cudaError_t error = cudaDeviceSynchronize();
  std::puts(cudaGetErrorString(error));
  return 0;
}
