// What the bridge needs to run a CUDA kernel where torch wants it. Included under MFFPA_WITH_CUDA only.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "common.h"

// Weak, because it lives in libtorch_cuda: a library with CUDA kernels also loads where torch is a CPU build.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace mffpa::bridge {

// Makes a tensor's device the current one as long as it lives, and knows the stream that torch uses there.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    if (!aoti_torch_get_current_cuda_stream) throw std::runtime_error("mffpa_ext: this torch is a build without CUDA");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace mffpa::bridge
