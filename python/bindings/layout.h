// How bridges hand over image tensors, [batch, channels, height, width], in their memory format. Stable ABI only.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace mffpa::bridge {

using torch::stable::Tensor;

// As torch's is_contiguous(memory_format=channels_last), which the fake kernels use: strides of size-1 dimensions do
// not count. What is contiguous as well is taken as contiguous.
inline bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  std::int64_t expected = 1;
  for (const std::int64_t dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

inline Tensor by_pixel(const Tensor& x) {  // [batch, channels, height, width] to [batch, height, width, channels]
  return torch::stable::transpose(torch::stable::transpose(x, 1, 2), 2, 3);
}

inline Tensor by_channel(const Tensor& x) {  // and back
  return torch::stable::transpose(torch::stable::transpose(x, 2, 3), 1, 2);
}

}  // namespace mffpa::bridge
