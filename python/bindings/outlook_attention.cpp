// Registers torch.ops.mffpa_ext.outlook_attention and its backward. Fake kernels and autograd are registered in
// mffpa_ext/ops/outlook_attention.py.
#include "outlook_attention.h"

#include <tuple>

#include "common.h"
#include "outlook_window.h"
#ifdef MFFPA_WITH_CUDA
#include "cuda.h"
#endif

namespace mffpa::bridge {
namespace {

struct Inputs {
  OutlookShape shape;
  DType dtype;
  Tensor value, logits;
  std::optional<Tensor> mask;
  const void* mask_data() const { return mask ? mask->const_data_ptr() : nullptr; }
};

void require_like(const Tensor& tensor, const Tensor& like, const char* name, const char* like_name) {
  bool same = tensor.dim() == like.dim();
  for (std::int64_t d = 0; same && d < like.dim(); ++d) same = tensor.size(d) == like.size(d);
  require(same && tensor.scalar_type() == like.scalar_type() && on_same_device(tensor, like),
          "outlook_attention: ", name, " must have the shape, dtype and device of ", like_name);
}

Inputs check(const Tensor& value, const Tensor& logits, const std::optional<Tensor>& mask, std::int64_t heads,
             std::int64_t kernel_size, std::int64_t stride, std::int64_t padding) {
  require(value.dim() == 4 && logits.dim() == 4, "outlook_attention: value and logits must be 4-D, got ", value.dim(),
          "-D and ", logits.dim(), "-D");
  require(kernel_size >= 1 && kernel_size <= kMaxOutlookKernel, "outlook_attention: kernel_size must be 1 to ",
          kMaxOutlookKernel,
          ", got ", kernel_size);
  require(stride >= 1 && padding >= 0 && padding < kernel_size && heads >= 1,
          "outlook_attention: needs stride >= 1, 0 <= padding < kernel_size, heads >= 1");
  const std::int64_t height = value.size(1), width = value.size(2);
  require(value.size(3) % heads == 0, "outlook_attention: ", value.size(3), " channels do not divide into ", heads,
          " heads");
  const bool empty = value.numel() == 0;
  require(empty || (height + 2 * padding >= kernel_size && width + 2 * padding >= kernel_size),
          "outlook_attention: the padded image is smaller than the kernel");
  const std::int64_t grid_height = grid_size(height, padding, stride, kernel_size);
  const std::int64_t grid_width = grid_size(width, padding, stride, kernel_size);
  const std::int64_t elements = kernel_size * kernel_size;
  require(empty || (logits.size(0) == value.size(0) && logits.size(1) == grid_height &&
                    logits.size(2) == grid_width && logits.size(3) == heads * elements * elements),
          "outlook_attention: logits must have shape [", value.size(0), ", ", grid_height, ", ", grid_width, ", ",
          heads * elements * elements, "]");
  require(value.scalar_type() == logits.scalar_type(), "outlook_attention: value and logits differ in dtype");
  require(on_same_device(logits, value), "outlook_attention: value and logits are on different devices");
  Inputs in{{value.size(0), height, width, heads, value.size(3) / heads, kernel_size, stride, padding, grid_height,
             grid_width},
            dtype_of(value, "outlook_attention"), torch::stable::contiguous(value), torch::stable::contiguous(logits),
            std::nullopt};
  if (mask) {
    require_like(*mask, logits, "dropout_mask", "logits");
    in.mask = torch::stable::contiguous(*mask);
  }
  return in;
}

// The kernels of a device, for the forward and the backward pass below.
struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void forward(const Inputs& in, double scale, const Tensor& output) const {
    outlook_attention_forward_cpu(in.dtype, in.shape, scale, in.value.const_data_ptr(), in.logits.const_data_ptr(),
                                  in.mask_data(), output.mutable_data_ptr(), torch_parallel_for);
  }
  void backward(const Inputs& in, double scale, const Tensor& grad_output, const Tensor& grad_value,
                const Tensor& grad_logits, const Tensor& workspace) const {
    outlook_attention_backward_cpu(in.dtype, in.shape, scale, in.value.const_data_ptr(), in.logits.const_data_ptr(),
                                   in.mask_data(), grad_output.const_data_ptr(), grad_value.mutable_data_ptr(),
                                   grad_logits.mutable_data_ptr(), workspace.mutable_data_ptr(), torch_parallel_for);
  }
};

#ifdef MFFPA_WITH_CUDA
struct OnCuda : CudaScope {
  using CudaScope::CudaScope;
  void forward(const Inputs& in, double scale, const Tensor& output) const {
    outlook_attention_forward_cuda(in.dtype, in.shape, scale, in.value.const_data_ptr(), in.logits.const_data_ptr(),
                                   in.mask_data(), output.mutable_data_ptr(), stream());
  }
  void backward(const Inputs& in, double scale, const Tensor& grad_output, const Tensor& grad_value,
                const Tensor& grad_logits, const Tensor& workspace) const {
    outlook_attention_backward_cuda(in.dtype, in.shape, scale, in.value.const_data_ptr(), in.logits.const_data_ptr(),
                                    in.mask_data(), grad_output.const_data_ptr(), grad_value.mutable_data_ptr(),
                                    grad_logits.mutable_data_ptr(), workspace.mutable_data_ptr(), stream());
  }
};
#endif

template <class Device>
Tensor forward(const Tensor& value, const Tensor& logits, const std::optional<Tensor>& dropout_mask,
               std::int64_t heads, std::int64_t kernel_size, std::int64_t stride, std::int64_t padding, double scale) {
  const Inputs in = check(value, logits, dropout_mask, heads, kernel_size, stride, padding);
  const Device device(in.value);
  Tensor output = torch::stable::empty_like(in.value);
  if (output.numel() != 0) device.forward(in, scale, output);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value, const Tensor& logits,
                                    const std::optional<Tensor>& dropout_mask, std::int64_t heads,
                                    std::int64_t kernel_size, std::int64_t stride, std::int64_t padding,
                                    double scale) {
  const Inputs in = check(value, logits, dropout_mask, heads, kernel_size, stride, padding);
  require_like(grad_output, value, "grad_output", "value");
  const Device device(in.value);
  Tensor grad_value = torch::stable::empty_like(in.value), grad_logits = torch::stable::empty_like(in.logits);
  if (grad_value.numel() == 0) return {grad_value, torch::stable::zero_(grad_logits)};
  const bool wide = in.dtype == DType::kFloat64;
  const Tensor workspace = torch::stable::new_empty(in.value, {outlook_attention_backward_workspace(in.shape)},
                                                    wide ? ScalarType::Double : ScalarType::Float);
  device.backward(in, scale, torch::stable::contiguous(grad_output), grad_value, grad_logits, workspace);
  return {grad_value, grad_logits};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mffpa_ext, library) {
  library.def(
      "outlook_attention(Tensor value, Tensor logits, Tensor? dropout_mask, int num_heads, int kernel_size, "
      "int stride, int padding, float scale) -> Tensor");
  library.def(
      "outlook_attention_backward(Tensor grad_output, Tensor value, Tensor logits, Tensor? dropout_mask, "
      "int num_heads, int kernel_size, int stride, int padding, float scale) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CPU, library) {
  library.impl("outlook_attention", TORCH_BOX(&forward<OnCpu>));
  library.impl("outlook_attention_backward", TORCH_BOX(&backward<OnCpu>));
}

#ifdef MFFPA_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CUDA, library) {
  library.impl("outlook_attention", TORCH_BOX(&forward<OnCuda>));
  library.impl("outlook_attention_backward", TORCH_BOX(&backward<OnCuda>));
}
#endif

}  // namespace mffpa::bridge
