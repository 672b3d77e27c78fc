// Registers torch.ops.mffpa_ext.feature_norm, its backward, and the form with a max-pool for inference.
// Fake kernels and autograd are registered in mffpa_ext/ops/feature_norm.py.
#include "feature_norm.h"

#include <cstddef>
#include <memory>
#include <tuple>

#include "common.h"
#include "layout.h"

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

// Scratch memory of the accumulator type.
std::unique_ptr<std::byte[]> make_workspace(const Input& in) {
  const std::size_t element = in.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  return std::make_unique_for_overwrite<std::byte[]>(feature_norm_workspace(in.shape) * element);
}

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
              tensor->is_cpu(),
          "feature_norm: ", name, " must have shape [", in.shape.channels, "] and the accumulator's dtype");
  return as_contiguous(*tensor);
}

const void* data(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

std::tuple<Tensor, Tensor> run_forward(const Tensor& x, const std::optional<Tensor>& weight,
                                       const std::optional<Tensor>& bias, FeatureNormOptions options) {
  const Input in = check(x);
  const auto w = parameter(weight, in, "weight"), b = parameter(bias, in, "bias");
  const PlaneShape& s = in.shape;
  const std::int64_t height = options.pool ? s.height / 2 : s.height, width = options.pool ? s.width / 2 : s.width;
  // Allocated pixel by pixel for channels last, and seen as [batch, channels, height, width].
  const bool last = s.layout == Layout::kChannelsLast;
  Tensor y = last ? torch::stable::new_empty(x, {s.batch, height, width, s.channels})
                  : torch::stable::new_empty(x, {s.batch, s.channels, height, width});
  Tensor statistics = torch::stable::new_empty(x, {s.batch, s.channels, kStatisticsPerPlane}, in.accumulator);
  if (x.numel() != 0) {
    const auto workspace = make_workspace(in);
    feature_norm_forward_cpu(in.dtype, s, options, in.x.const_data_ptr(), data(w), data(b), y.mutable_data_ptr(),
                             statistics.mutable_data_ptr(), workspace.get(), torch_parallel_for);
  } else {
    torch::stable::zero_(statistics);
  }
  return {last ? by_channel(y) : y, statistics};
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& x, const std::optional<Tensor>& weight,
                                       const std::optional<Tensor>& bias, double eps, bool relu) {
  return run_forward(x, weight, bias, {eps, relu, false});
}

Tensor pooled_cpu(const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps,
                  bool relu) {
  require(x.dim() == 4 && x.size(2) >= 2 && x.size(3) >= 2, "feature_norm_pool: height and width must be at least 2");
  return std::get<0>(run_forward(x, weight, bias, {eps, relu, true}));
}

// The gradient's layout follows x. Parameter gradients come per sample, [batch, channels], in the accumulator's dtype.
std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad_y, const Tensor& x,
                                                const std::optional<Tensor>& weight,
                                                const std::optional<Tensor>& bias, const Tensor& statistics,
                                                double eps, bool relu) {
  const Input in = check(x);
  const auto w = parameter(weight, in, "weight"), b = parameter(bias, in, "bias");
  const PlaneShape& s = in.shape;
  bool same = grad_y.dim() == 4 && grad_y.scalar_type() == x.scalar_type();
  for (std::int64_t d = 0; same && d < 4; ++d) same = grad_y.size(d) == x.size(d);
  require(same, "feature_norm_backward: grad_y must have the shape and dtype of x");
  require(statistics.dim() == 3 && statistics.size(0) == s.batch && statistics.size(1) == s.channels &&
              statistics.size(2) == kStatisticsPerPlane && statistics.scalar_type() == in.accumulator,
          "feature_norm_backward: statistics must be those of the forward pass");
  const bool last = s.layout == Layout::kChannelsLast;
  const Tensor dy = as_contiguous(last ? by_pixel(grad_y) : grad_y);
  const Tensor stats = as_contiguous(statistics);
  Tensor grad_x = last ? torch::stable::new_empty(x, {s.batch, s.height, s.width, s.channels})
                       : torch::stable::new_empty(x, {s.batch, s.channels, s.height, s.width});
  Tensor grad_weight = torch::stable::new_empty(x, {s.batch, s.channels}, in.accumulator);
  Tensor grad_bias = torch::stable::new_empty(x, {s.batch, s.channels}, in.accumulator);
  if (x.numel() != 0) {
    const auto workspace = make_workspace(in);
    feature_norm_backward_cpu(in.dtype, s, {eps, relu, false}, dy.const_data_ptr(), in.x.const_data_ptr(), data(w),
                              data(b), stats.const_data_ptr(), grad_x.mutable_data_ptr(),
                              grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(),
                              workspace.get(), torch_parallel_for);
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
  library.impl("feature_norm", TORCH_BOX(&forward_cpu));
  library.impl("feature_norm_backward", TORCH_BOX(&backward_cpu));
  library.impl("feature_norm_pool", TORCH_BOX(&pooled_cpu));
}

}  // namespace mffpa::bridge
