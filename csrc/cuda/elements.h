// Element types of the CUDA kernels: what they accumulate in, and 16-byte accesses.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/launch.h"
#include "dtype.h"

namespace mffpa::cuda {

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

MFFPA_DEVICE float to_accumulator(float x) { return x; }
MFFPA_DEVICE double to_accumulator(double x) { return x; }
MFFPA_DEVICE float to_accumulator(__half x) { return __half2float(x); }
MFFPA_DEVICE float to_accumulator(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds once, to nearest even.
template <class T>
MFFPA_DEVICE T from_accumulator(Accumulator<T> x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x);
  else return x;
}

MFFPA_DEVICE float exponential(float x) { return expf(x); }
MFFPA_DEVICE double exponential(double x) { return exp(x); }
MFFPA_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
MFFPA_DEVICE double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
MFFPA_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
MFFPA_DEVICE double larger(double a, double b) { return fmax(a, b); }
MFFPA_DEVICE float root(float x) { return sqrtf(x); }
MFFPA_DEVICE double root(double x) { return sqrt(x); }
// a * b + c rounded once: written out where two kernels must agree to the bit.
MFFPA_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
MFFPA_DEVICE double multiply_add(double a, double b, double c) { return fma(a, b, c); }

constexpr int kVectorBytes = 16;  // the widest access of a thread

template <class T>
constexpr int kVectorSize = kVectorBytes / int(sizeof(T));

// One access of N elements, 16 bytes unless said otherwise. The address must be a multiple of its size: ask is_aligned
// about every pointer at the launch.
template <class T, int N = kVectorSize<T>>
struct alignas(N * sizeof(T)) Vector {
  T at[N];
};

template <class T, int N = kVectorSize<T>>
MFFPA_DEVICE Vector<T, N> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <class T, int N>
MFFPA_DEVICE void store_vector(T* to, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(to) = vector;
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0; }

// Calls body(T()) with the element type.
template <class Body>
void with_element_type(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32: return body(float());
    case DType::kFloat64: return body(double());
    case DType::kFloat16: return body(__half());
    case DType::kBFloat16: return body(__nv_bfloat16());
  }
}

}  // namespace mffpa::cuda
