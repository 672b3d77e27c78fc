// Registers torch.ops.mffpa_ext.directional_means, pyramid_gate, its backward, and pyramid_coordinate_attention.
// Fake kernels and autograd are registered in mffpa_ext/ops/pyramid_gate.py.
#include "pyramid_gate.h"

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
  bool last;  // channels last

  Tensor empty_image() const {  // like x, in its memory format
    const PlaneShape& s = shape;
    if (!last) return torch::stable::new_empty(x, {s.batch, s.channels, s.height, s.width});
    return by_channel(torch::stable::new_empty(x, {s.batch, s.height, s.width, s.channels}));
  }

  Tensor empty_lines(std::int64_t size, ScalarType type) const {  // [batch, channels, size], in the order of x
    if (!last) return torch::stable::new_empty(x, {shape.batch, shape.channels, size}, type);
    return torch::stable::transpose(torch::stable::new_empty(x, {shape.batch, size, shape.channels}, type), 1, 2);
  }

  Tensor lines(const Tensor& tensor) const {  // the memory that the kernels expect behind [batch, channels, size]
    return torch::stable::contiguous(last ? torch::stable::transpose(tensor, 1, 2) : tensor);
  }

  Tensor workspace(std::int64_t elements) const { return torch::stable::new_empty(x, {elements}, accumulator); }
};

Input check(const Tensor& x, const char* name) {
  require(x.dim() == 4, name, ": x must be 4-D, got ", x.dim(), "-D");
  require(x.size(2) >= 1 && x.size(3) >= 1, name, ": height and width must be at least 1");
  const DType dtype = dtype_of(x, name);
  const bool last = is_channels_last(x);
  return {{x.size(0), x.size(1), x.size(2), x.size(3), last ? Layout::kChannelsLast : Layout::kContiguous}, dtype,
          last ? x : torch::stable::contiguous(x),
          dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float, last};
}

GateOptions check_options(const Input& in, std::int64_t branches, bool softmax, const char* name) {
  require(branches >= 1 && branches <= kMaxBranches && in.shape.channels % branches == 0, name,
          ": branches must be 1 to ", kMaxBranches, " and divide the ", in.shape.channels, " channels, got ", branches);
  return {branches, softmax};
}

struct Logits {
  std::int64_t row_size;
  Tensor rows;
  std::optional<Tensor> columns;

  const void* column_data() const { return columns ? columns->const_data_ptr() : nullptr; }
};

// The kernels of a device, with the scratch memory that they need. Called with tensors that have elements.
struct OnCpu {
  explicit OnCpu(const Tensor&) {}
  void means(const Input& in, const Tensor& by_row, const Tensor& by_column) const {
    const Tensor workspace = in.workspace(directional_means_workspace(in.shape));
    directional_means_cpu(in.dtype, in.shape, in.x.const_data_ptr(), by_row.mutable_data_ptr(),
                          by_column.mutable_data_ptr(), workspace.mutable_data_ptr(), torch_parallel_for);
  }
  void forward(const Input& in, const GateOptions& options, const Logits& logits, const Tensor& y) const {
    const Tensor workspace = in.workspace(pyramid_gate_workspace(in.shape, logits.row_size));
    pyramid_gate_forward_cpu(in.dtype, in.shape, options, in.x.const_data_ptr(), logits.rows.const_data_ptr(),
                             logits.row_size, logits.column_data(), y.mutable_data_ptr(),
                             workspace.mutable_data_ptr(), torch_parallel_for);
  }
  void backward(const Input& in, const GateOptions& options, const Tensor& grad_y, const Logits& logits,
                const Tensor& grad_x, const Tensor& grad_rows, const Tensor& grad_columns) const {
    const Tensor workspace = in.workspace(pyramid_gate_backward_workspace(in.shape, options, logits.row_size));
    pyramid_gate_backward_cpu(in.dtype, in.shape, options, grad_y.const_data_ptr(), in.x.const_data_ptr(),
                              logits.rows.const_data_ptr(), logits.row_size, logits.column_data(),
                              grad_x.mutable_data_ptr(), grad_rows.mutable_data_ptr(),
                              grad_columns.mutable_data_ptr(), workspace.mutable_data_ptr(), torch_parallel_for);
  }
  void attention(const Input& in, const GateOptions& options, const CoordinateWeights& weights,
                 const Tensor& y) const {
    const Tensor workspace =
        in.workspace(pyramid_coordinate_attention_workspace(in.shape, options, weights.hidden));
    pyramid_coordinate_attention_cpu(in.dtype, in.shape, options, in.x.const_data_ptr(), weights,
                                     y.mutable_data_ptr(), workspace.mutable_data_ptr(), torch_parallel_for);
  }
};

#ifdef MFFPA_WITH_CUDA
struct OnCuda : CudaScope {
  using CudaScope::CudaScope;
  void means(const Input& in, const Tensor& by_row, const Tensor& by_column) const {
    directional_means_cuda(in.dtype, in.shape, in.x.const_data_ptr(), by_row.mutable_data_ptr(),
                           by_column.mutable_data_ptr(), stream());
  }
  void forward(const Input& in, const GateOptions& options, const Logits& logits, const Tensor& y) const {
    pyramid_gate_forward_cuda(in.dtype, in.shape, options, in.x.const_data_ptr(), logits.rows.const_data_ptr(),
                              logits.row_size, logits.column_data(), y.mutable_data_ptr(), stream());
  }
  void backward(const Input& in, const GateOptions& options, const Tensor& grad_y, const Logits& logits,
                const Tensor& grad_x, const Tensor& grad_rows, const Tensor& grad_columns) const {
    const Tensor workspace =
        in.workspace(pyramid_gate_backward_workspace_cuda(in.dtype, in.shape, options, logits.row_size));
    pyramid_gate_backward_cuda(in.dtype, in.shape, options, grad_y.const_data_ptr(), in.x.const_data_ptr(),
                               logits.rows.const_data_ptr(), logits.row_size, logits.column_data(),
                               grad_x.mutable_data_ptr(), grad_rows.mutable_data_ptr(),
                               grad_columns.mutable_data_ptr(), workspace.mutable_data_ptr(), stream());
  }
  void attention(const Input& in, const GateOptions& options, const CoordinateWeights& weights,
                 const Tensor& y) const {
    require(weights.hidden <= kMaxCudaHidden, "pyramid_coordinate_attention: on CUDA at most ", kMaxCudaHidden,
            " hidden channels, got ", weights.hidden);
    const Tensor workspace = in.workspace(pyramid_coordinate_attention_workspace_cuda(in.shape));
    pyramid_coordinate_attention_cuda(in.dtype, in.shape, options, in.x.const_data_ptr(), weights,
                                      y.mutable_data_ptr(), workspace.mutable_data_ptr(), stream());
  }
};
#endif

template <class Device>
std::tuple<Tensor, Tensor> means(const Tensor& x) {
  const Input in = check(x, "directional_means");
  const PlaneShape& s = in.shape;
  Tensor by_row = in.empty_lines(s.height, x.scalar_type()), by_column = in.empty_lines(s.width, x.scalar_type());
  if (x.numel() != 0) Device(in.x).means(in, by_row, by_column);
  return {by_row, by_column};
}

Logits check_logits(const Input& in, const Tensor& rows, const std::optional<Tensor>& columns, const char* name) {
  const PlaneShape& s = in.shape;
  const auto fits = [&](const Tensor& t) {
    return t.dim() == 3 && t.size(0) == s.batch && t.size(1) == s.channels && t.scalar_type() == in.accumulator &&
           on_same_device(t, in.x);
  };
  require(fits(rows) && (rows.size(2) == s.height || rows.size(2) == 1), name, ": row_logits must have shape [",
          s.batch, ", ", s.channels, ", ", s.height, " or 1], the accumulator's dtype and x's device");
  require(!columns || (fits(*columns) && columns->size(2) == s.width), name, ": column_logits must have shape [",
          s.batch, ", ", s.channels, ", ", s.width, "], the accumulator's dtype and x's device");
  return {rows.size(2), in.lines(rows), columns ? std::optional<Tensor>(in.lines(*columns)) : std::nullopt};
}

template <class Device>
Tensor forward(const Tensor& x, const Tensor& row_logits, const std::optional<Tensor>& column_logits,
               std::int64_t branches, bool softmax) {
  const Input in = check(x, "pyramid_gate");
  const GateOptions options = check_options(in, branches, softmax, "pyramid_gate");
  const Logits logits = check_logits(in, row_logits, column_logits, "pyramid_gate");
  Tensor y = in.empty_image();
  if (x.numel() != 0) Device(in.x).forward(in, options, logits, y);
  return y;
}

// Gradients follow x in their memory format; that of missing column_logits is empty.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const Tensor& row_logits,
                                            const std::optional<Tensor>& column_logits, std::int64_t branches,
                                            bool softmax) {
  const char* const name = "pyramid_gate_backward";
  const Input in = check(x, name);
  const GateOptions options = check_options(in, branches, softmax, name);
  const Logits logits = check_logits(in, row_logits, column_logits, name);
  bool same = grad_y.dim() == 4 && grad_y.scalar_type() == x.scalar_type() && on_same_device(grad_y, x);
  for (std::int64_t d = 0; same && d < 4; ++d) same = grad_y.size(d) == x.size(d);
  require(same, name, ": grad_y must have the shape, dtype and device of x");
  const Tensor dy = torch::stable::contiguous(in.last ? by_pixel(grad_y) : grad_y);
  Tensor grad_x = in.empty_image(), grad_rows = in.empty_lines(logits.row_size, in.accumulator);
  Tensor grad_columns = logits.columns ? in.empty_lines(in.shape.width, in.accumulator) : in.workspace(0);
  if (x.numel() != 0) Device(in.x).backward(in, options, dy, logits, grad_x, grad_rows, grad_columns);
  return {grad_x, grad_rows, grad_columns};
}

template <class Device>
Tensor attention(const Tensor& x, std::int64_t branches, const Tensor& conv1_weight, const Tensor& conv1_bias,
                 const Tensor& bn_weight, const Tensor& bn_bias, const Tensor& bn_mean, const Tensor& bn_var,
                 double bn_eps, const Tensor& conv_h_weight, const Tensor& conv_h_bias, const Tensor& conv_w_weight,
                 const Tensor& conv_w_bias, bool softmax) {
  const char* const name = "pyramid_coordinate_attention";
  const Input in = check(x, name);
  const GateOptions options = check_options(in, branches, softmax, name);
  const std::int64_t channels = in.shape.channels / branches;
  const std::int64_t hidden = conv1_weight.dim() == 2 ? conv1_weight.size(0) : 0;
  require(hidden >= 1, name, ": conv1_weight must have shape [hidden, ", channels, "]");
  const auto matrix = [&](const Tensor& t, std::int64_t rows, std::int64_t columns, const char* what) {
    require(t.dim() == 2 && t.size(0) == rows && t.size(1) == columns && t.scalar_type() == in.accumulator &&
                on_same_device(t, in.x),
            name, ": ", what, " must have shape [", rows, ", ", columns, "], the accumulator's dtype and x's device");
    return torch::stable::contiguous(t);
  };
  const auto vector = [&](const Tensor& t, std::int64_t size, const char* what) {
    require(t.dim() == 1 && t.size(0) == size && t.scalar_type() == in.accumulator && on_same_device(t, in.x), name,
            ": ", what, " must have shape [", size, "], the accumulator's dtype and x's device");
    return torch::stable::contiguous(t);
  };
  const Tensor tensors[] = {
      matrix(conv1_weight, hidden, channels, "conv1_weight"), vector(conv1_bias, hidden, "conv1_bias"),
      vector(bn_weight, hidden, "bn_weight"), vector(bn_bias, hidden, "bn_bias"),
      vector(bn_mean, hidden, "bn_mean"), vector(bn_var, hidden, "bn_var"),
      matrix(conv_h_weight, channels, hidden, "conv_h_weight"), vector(conv_h_bias, channels, "conv_h_bias"),
      matrix(conv_w_weight, channels, hidden, "conv_w_weight"), vector(conv_w_bias, channels, "conv_w_bias")};
  const auto data = [&](int i) { return tensors[i].const_data_ptr(); };
  Tensor y = in.empty_image();
  const CoordinateWeights weights{hidden,  data(0), data(1), data(2), data(3), data(4),
                                  data(5), bn_eps,  data(6), data(7), data(8), data(9)};
  if (x.numel() != 0) Device(in.x).attention(in, options, weights, y);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mffpa_ext, library) {
  library.def("directional_means(Tensor x) -> (Tensor, Tensor)");
  library.def("pyramid_gate(Tensor x, Tensor row_logits, Tensor? column_logits, int branches, bool softmax) -> Tensor");
  library.def(
      "pyramid_gate_backward(Tensor grad_y, Tensor x, Tensor row_logits, Tensor? column_logits, int branches, "
      "bool softmax) -> (Tensor, Tensor, Tensor)");
  library.def(
      "pyramid_coordinate_attention(Tensor x, int branches, Tensor conv1_weight, Tensor conv1_bias, Tensor bn_weight, "
      "Tensor bn_bias, Tensor bn_mean, Tensor bn_var, float bn_eps, Tensor conv_h_weight, Tensor conv_h_bias, "
      "Tensor conv_w_weight, Tensor conv_w_bias, bool softmax) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CPU, library) {
  library.impl("directional_means", TORCH_BOX(&means<OnCpu>));
  library.impl("pyramid_gate", TORCH_BOX(&forward<OnCpu>));
  library.impl("pyramid_gate_backward", TORCH_BOX(&backward<OnCpu>));
  library.impl("pyramid_coordinate_attention", TORCH_BOX(&attention<OnCpu>));
}

#ifdef MFFPA_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mffpa_ext, CUDA, library) {
  library.impl("directional_means", TORCH_BOX(&means<OnCuda>));
  library.impl("pyramid_gate", TORCH_BOX(&forward<OnCuda>));
  library.impl("pyramid_gate_backward", TORCH_BOX(&backward<OnCuda>));
  library.impl("pyramid_coordinate_attention", TORCH_BOX(&attention<OnCuda>));
}
#endif

}  // namespace mffpa::bridge
