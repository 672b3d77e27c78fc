// What every operator's bridge between torch tensors and the kernels of csrc/ needs. Stable ABI only: see setup.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "dtype.h"
#include "parallel.h"

namespace mffpa::bridge {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Raises ValueError in Python. The public functions of mffpa_ext.ops check with fuller texts first; these checks keep
// a direct call of torch.ops.mffpa_ext.* from reading outside its tensors.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

inline DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default: break;
  }
  throw std::invalid_argument(std::string(name) + ": expected float32, float64, float16 or bfloat16");
}

inline bool on_same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

// torch's thread pool as the kernels' ParallelFor.
inline void torch_parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain, RangeBody body,
                               void* context) {
  torch::stable::parallel_for(begin, end, grain,
                              [&](std::int64_t from, std::int64_t to) { body(from, to, context); });
}

}  // namespace mffpa::bridge
