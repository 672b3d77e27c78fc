// Registers torch.ops.mffpa_ext.feature_norm, its backward, and the form with a max-pool for inference.
// Fake kernels and autograd are registered in mffpa_ext/ops/feature_norm.py.
#include "feature_norm.h"

#include <cstddef>
#include <memory>
#include <tuple>

#include "common.h"
#include "layout.h"
#ifdef MFFPA_WITH_CUDA
#include "cuda.h"
#endif

namespace mffpa::bridge {
namespace {

struct Input {
  PlaneShape shape;
  DType dtype;
  Tensor x;
  ScalarType accumulator;
};

// A call through the dispatcher costs as much as the kernel on a small tensor: none without need.
Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

Input check(const Tensor& x) {
  require(x.dim() == 4, "feature_norm: x must be 4-D, got ", x.dim(), "-D");
  const bool channels_last = is_channels_last(x);
  const DType dtype = dtype_of(x, "feature_norm");
  return {{x.size(0), x.size(1), x.size(2), x.size(3), channels_last ? Layout::kChannelsLast : Layout::kContiguous},
          dtype, channels_last ? x : as_contiguous(x),
          dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float};
}

std::optional<Tensor> parameter(const std::optional<Tensor>& tensor, const Input& in, const char* name) {
  if (!tensor) return std::nullopt;
  require(tensor->dim() == 1 && tensor->size(0) == in.shape.channels && tensor->scalar_type() == in.accumulator &&
              on_same_device(*tensor, in.x),
          "feature_norm: ", name, " must have shape [", in.shape.channels, "], the accumulator's dtype and x's device");
  return as_contiguous(*tensor);
}

const void* data(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// The kernels of a device, and scratch memory for them.
struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void forward(const Input& in, const FeatureNormOptions& options, const void* weight, const void* bias,
               const Tensor& y, const Tensor& statistics) const {
    feature_norm_forward_cpu(in.dtype, in.shape, options, in.x.const_data_ptr(), weight, bias, y.mutable_data_ptr(),
                             statistics.mutable_data_ptr(), workspace(in).get(), torch_parallel_for);
  }
  void backward(const Input& in, const FeatureNormOptions& options, const Tensor& grad_y, const void* weight,
                const void* bias, const Tensor& statistics, const Tensor& grad_x, const Tensor& grad_weight,
                const Tensor& grad_bias) const {
    feature_norm_backward_cpu(in.dtype, in.shape, options, grad_y.const_data_ptr(), in.x.const_data_ptr(), weight,
                              bias, statistics.const_data_ptr(), grad_x.mutable_data_ptr(),
                              grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(), workspace(in).get(),
                              torch_parallel_for);
  }

 private:
  // Without torch: a call through the dispatcher, as above.
  static std::unique_ptr<std::byte[]> workspace(const Input& in) {
    const std::size_t element = in.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
    return std::make_unique_for_overwrite<std::byte[]>(feature_norm_workspace(in.shape) * element);
  }
};

#ifdef MFFPA_WITH_CUDA
struct OnCuda : CudaScope {
  using CudaScope::CudaScope;
  void forward(const Input& in, const FeatureNormOptions& options, const void* weight, const void* bias,
               const Tensor& y, const Tensor& statistics) const {
    const Tensor scratch = workspace(in);
    feature_norm_forward_cuda(in.dtype, in.shape, options, in.x.const_data_ptr(), weight, bias, y.mutable_data_ptr(),
                              statistics.mutable_data_ptr(), scratch.mutable_data_ptr(), stream());
  }
  void backward(const Input& in, const FeatureNormOptions& options, const Tensor& grad_y, const void* weight,
                const void* bias, const Tensor& statistics, const Tensor& grad_x, const Tensor& grad_weight,
                const Tensor& grad_bias) const {
    const Tensor scratch = workspace(in);
    feature_norm_backward_cuda(in.dtype, in.shape, options, grad_y.const_data_ptr(), in.x.const_data_ptr(), weight,
                               bias, statistics.const_data_ptr(), grad_x.mutable_data_ptr(),
                               grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(),
                               scratch.mutable_data_ptr(), stream());
  }

 private:
  static Tensor workspace(const Input& in) {
    return torch::stable::new_empty(in.x, {feature_norm_workspace_cuda(in.shape)}, in.accumulator);
  }
};
#endif

template <class Device>
std::tuple<Tensor, Tensor> run_forward(const Tensor& x, const std::optional<Tensor>& weight,
                                       const std::optional<Tensor>& bias, FeatureNormOptions options) {
  const Input in = check(x);
  const auto w = parameter(weight, in, "weight"), b = parameter(bias, in, "bias");
  const Device device(in.x);
  const PlaneShape& s = in.shape;
  const std::int64_t height = options.pool ? s.height / 2 : s.height, width = options.pool ? s.width / 2 : s.width;
  // Allocated pixel by pixel for channels last, and seen as [batch, channels, height, width].
  const bool last = s.layout == Layout::kChannelsLast;
  Tensor y = last ? torch::stable::new_empty(x, {s.batch, height, width, s.channels})
                  : torch::stable::new_empty(x, {s.batch, s.channels, height, width});
  Tensor statistics = torch::stable::new_empty(x, {s.batch, s.channels, kStatisticsPerPlane}, in.accumulator);
  if (x.numel() != 0) {
    device.forward(in, options, data(w), data(b), y, statistics);
  } else {
    torch::stable::zero_(statistics);
  }
  return {last ? by_channel(y) : y, statistics};
}

template <class Device>
std::tuple<Tensor, Tensor> forward(const Tensor& x, const std::optional<Tensor>& weight,
                                   const std::optional<Tensor>& bias, double eps, bool relu) {
  return run_forward<Device>(x, weight, bias, {eps, relu, false});
}

template <class Device>
Tensor pooled(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
              bool relu) {
  require(x.dim() == 4 && x.size(2) >= 2 && x.size(3) >= 2, "feature_norm_pool: height and width must be at least 2");
  return std::get<0>(run_forward<Device>(x, weight, bias, {eps, relu, true}));
}

// The gradient's layout follows x. Parameter gradients come per sample, [batch, channels], in the accumulator's dtype.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const std::optional<Tensor>& weight,
                                            const std::optional<Tensor>& bias, const Tensor& statistics, double eps,
                                            bool relu) {
  const Input in = check(x);
  const auto w = parameter(weight, in, "weight"), b = parameter(bias, in, "bias");
  const PlaneShape& s = in.shape;
  bool same = grad_y.dim() == 4 && grad_y.scalar_type() == x.scalar_type() && on_same_device(grad_y, x);
  for (std::int64_t d = 0; same && d < 4; ++d) same = grad_y.size(d) == x.size(d);
  require(same, "feature_norm_backward: grad_y must have the shape, dtype and device of x");
  require(statistics.dim() == 3 && statistics.size(0) == s.batch && statistics.size(1) == s.channels &&
              statistics.size(2) == kStatisticsPerPlane && statistics.scalar_type() == in.accumulator &&
              on_same_device(statistics, x),
          "feature_norm_backward: statistics must be those of the forward pass");
  const Device device(in.x);
  const bool last = s.layout == Layout::kChannelsLast;
  const Tensor dy = as_contiguous(last ? by_pixel(grad_y) : grad_y);
  const Tensor stats = as_contiguous(statistics);
  Tensor grad_x = last ? torch::stable::new_empty(x, {s.batch, s.height, s.width, s.channels})
                       : torch::stable::new_empty(x, {s.batch, s.channels, s.height, s.width});
  Tensor grad_weight = torch::stable::new_empty(x, {s.batch, s.channels}, in.accumulator);
  Tensor grad_bias = torch::stable::new_empty(x, {s.batch, s.channels}, in.accumulator);
  if (x.numel() != 0) {
    device.backward(in, {eps, relu, false}, dy, data(w), data(b), stats, grad_x, grad_weight, grad_bias);
  } else {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
  }
  return {last ? by_channel(grad_x) : grad_x, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mffpa_ext, library) {
  library.def("feature_norm(Tensor x, Tensor? weight, Tensor? bias, float eps, bool relu) -> (Tensor, Tensor)");
  library.def(
      "feature_norm_backward(Tensor grad_y, Tensor x, Tensor? weight, Tensor? bias, Tensor statistics, float eps, "
      "bool relu) -> (Tensor, Tensor, Tensor)");
  library.def("feature_norm_pool(Tensor x, Tensor? weight, Tensor? bias, float eps, bool relu) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CPU, library) {
  library.impl("feature_norm", TORCH_BOX(&forward<OnCpu>));
  library.impl("feature_norm_backward", TORCH_BOX(&backward<OnCpu>));
  library.impl("feature_norm_pool", TORCH_BOX(&pooled<OnCpu>));
}

#ifdef MFFPA_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CUDA, library) {
  library.impl("feature_norm", TORCH_BOX(&forward<OnCuda>));
  library.impl("feature_norm_backward", TORCH_BOX(&backward<OnCuda>));
  library.impl("feature_norm_pool", TORCH_BOX(&pooled<OnCuda>));
}
#endif

}  // namespace mffpa::bridge
