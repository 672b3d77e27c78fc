// Every operator's launch functions on small shapes, to be compiled with a sanitizer: arrays are exactly as long as the
// operator may use, and every element of every output must have been written. Values are compared in Python.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/elements.h"
#include "feature_norm.h"
#include "outlook_attention.h"
#include "outlook_window.h"
#include "pyramid_gate.h"

namespace mffpa {
namespace {

int failures = 0;

#if defined(__SANITIZE_THREAD__)
constexpr bool kRaces = true;  // slow, and no dtype has barriers of its own: vectors of four and of eight are enough
#else
constexpr bool kRaces = false;
#endif

// Calls body(DType, T()) for the element types to be checked.
template <class Body>
void for_dtypes(Body body) {
  body(DType::kFloat32, float()), body(DType::kBFloat16, __nv_bfloat16());
  if (!kRaces) body(DType::kFloat64, double()), body(DType::kFloat16, __half());
}

// `count` numbers, or NaN. The memory is a block of its own, aligned as torch's.
template <class T>
class Array {
 public:
  explicit Array(std::int64_t count) : count_(count), data_(new (std::align_val_t{64}) T[count]) {
    std::memset(static_cast<void*>(data_), 0xff, sizeof(T) * count);
  }
  ~Array() { ::operator delete[](data_, std::align_val_t{64}); }
  Array(const Array&) = delete;
  void operator=(const Array&) = delete;

  Array& fill() {
    for (std::int64_t i = 0; i < count_; ++i)
      data_[i] = cuda::from_accumulator<T>(cuda::Accumulator<T>(i * 37 % 64 - 32) / 16);
    return *this;
  }
  bool is_written() const {
    for (std::int64_t i = 0; i < count_; ++i)
      if (std::isnan(double(cuda::to_accumulator(data_[i])))) return false;
    return true;
  }
  T* data() const { return data_; }

 private:
  std::int64_t count_;
  T* data_;
};

void expect_written(bool written, const char* what) {
  if (!written) std::printf("FAILED: %s has elements that nobody wrote\n", what), ++failures;
}

template <class T>
void outlook_attention(DType dtype, OutlookShape s, bool mask) {
  s.grid_height = grid_size(s.height, s.padding, s.stride, s.kernel_size);
  s.grid_width = grid_size(s.width, s.padding, s.stride, s.kernel_size);
  const std::int64_t elements = s.kernel_size * s.kernel_size, side = 2 * s.kernel_size - 1;
  const std::int64_t values = s.batch * s.height * s.width * s.heads * s.head_dim;
  const std::int64_t logits = s.batch * s.grid_height * s.grid_width * s.heads * elements * elements;
  Array<T> value(values), logit(logits), keep(logits), grad_output(values), output(values), grad_value(values);
  Array<T> grad_logits(logits);
  Array<cuda::Accumulator<T>> workspace(s.batch * s.height * s.width * s.heads * side * side);
  value.fill(), logit.fill(), keep.fill(), grad_output.fill();
  const void* factors = mask ? keep.data() : nullptr;
  outlook_attention_forward_cuda(dtype, s, 0.5, value.data(), logit.data(), factors, output.data(), nullptr);
  outlook_attention_backward_cuda(dtype, s, 0.5, value.data(), logit.data(), factors, grad_output.data(),
                                  grad_value.data(), grad_logits.data(), workspace.data(), nullptr);
  expect_written(output.is_written(), "outlook_attention: output");
  expect_written(grad_value.is_written(), "outlook_attention: grad_value");
  expect_written(grad_logits.is_written(), "outlook_attention: grad_logits");
}

void outlook_attention() {
  const auto all_dtypes = [](const OutlookShape& s, bool mask) {
    for_dtypes([&]<class T>(DType dtype, T) { outlook_attention<T>(dtype, s, (sizeof(T) != 2) == mask); });
  };
  // batch, height, width, heads, head_dim, kernel_size, stride, padding
  for (const std::int64_t padding : {0, 1, 2}) {
    all_dtypes({1, 9, 17, 1, 8, 3, 1, padding, 0, 0}, padding == 1);
    all_dtypes({2, 4, 5, 1, 40, 3, 2, padding, 0, 0}, padding == 1);
  }
  all_dtypes({1, 3, 4, 2, 5, 3, 1, 1, 0, 0}, true);
  all_dtypes({1, 3, 5, 1, 3, 4, 3, 3, 0, 0}, false);
  all_dtypes({1, 2, 2, 1, 2, 7, 2, 3, 0, 0}, true);
}

template <class T>
void feature_norm(DType dtype, const PlaneShape& s, bool parameters) {
  using A = cuda::Accumulator<T>;
  const std::int64_t planes = s.batch * s.channels, count = planes * s.height * s.width;
  Array<T> x(count), grad_y(count), y(count), grad_x(count), pooled(planes * (s.height / 2) * (s.width / 2));
  Array<A> weight(s.channels), bias(s.channels), statistics(planes * kStatisticsPerPlane), grad_weight(planes);
  Array<A> grad_bias(planes);
  x.fill(), grad_y.fill(), weight.fill(), bias.fill();
  const void *w = parameters ? weight.data() : nullptr, *b = parameters ? bias.data() : nullptr;
  const auto with_workspace = [&](auto body) {
    body(Array<A>(feature_norm_workspace_cuda(s)).data());
  };
  const auto forward = [&](bool pool, T* to) {
    with_workspace([&](A* workspace) {
      feature_norm_forward_cuda(dtype, s, {1e-3, true, pool}, x.data(), w, b, to, statistics.data(), workspace,
                                nullptr);
    });
  };
  if (s.height > 1 && s.width > 1) forward(true, pooled.data());
  forward(false, y.data());
  with_workspace([&](A* workspace) {
    feature_norm_backward_cuda(dtype, s, {1e-3, true, false}, grad_y.data(), x.data(), w, b, statistics.data(),
                               grad_x.data(), grad_weight.data(), grad_bias.data(), workspace, nullptr);
  });
  expect_written(y.is_written() && statistics.is_written(), "feature_norm: y");
  expect_written(pooled.is_written() || s.height < 2 || s.width < 2, "feature_norm: pooled");
  expect_written(grad_x.is_written(), "feature_norm: grad_x");
  expect_written(grad_weight.is_written() && grad_bias.is_written(), "feature_norm: parameters' gradients");
}

void feature_norm() {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast})
    // batch, channels, height, width: whole vectors, cut tiles of channels, several chunks, one element
    for (const PlaneShape& s : {PlaneShape{1, 8, 6, 8, layout}, PlaneShape{1, 72, 2, 3, layout},
                                PlaneShape{2, 3, 5, 7, layout}, PlaneShape{1, 1, 41, 30, layout},
                                PlaneShape{1, 2, 1, 1, layout}}) {
      for_dtypes([&]<class T>(DType dtype, T) { feature_norm<T>(dtype, s, sizeof(T) != 2); });
    }
}

template <class T>
void directional_means(DType dtype, const PlaneShape& s) {
  const std::int64_t planes = s.batch * s.channels;
  Array<T> x(planes * s.height * s.width), by_row(planes * s.height), by_column(planes * s.width);
  directional_means_cuda(dtype, s, x.fill().data(), by_row.data(), by_column.data(), nullptr);
  expect_written(by_row.is_written() && by_column.is_written(), "directional_means");
}

void directional_means() {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast})
    for (const PlaneShape& s : {PlaneShape{1, 8, 3, 16, layout}, PlaneShape{2, 3, 5, 35, layout}}) {
      for_dtypes([&]<class T>(DType dtype, T) { directional_means<T>(dtype, s); });
    }
}

template <class T>
void pyramid_gate(DType dtype, const PlaneShape& s, const GateOptions& options, std::int64_t row_size, bool columns) {
  using A = cuda::Accumulator<T>;
  const std::int64_t planes = s.batch * s.channels, count = planes * s.height * s.width;
  Array<T> x(count), grad_y(count), y(count), grad_x(count);
  Array<A> row_logits(planes * row_size), column_logits(columns ? planes * s.width : 0);
  Array<A> grad_rows(planes * row_size), grad_columns(columns ? planes * s.width : 0);
  Array<A> workspace(pyramid_gate_backward_workspace_cuda(dtype, s, options, row_size));
  x.fill(), grad_y.fill(), row_logits.fill(), column_logits.fill();
  const void* column_data = columns ? column_logits.data() : nullptr;
  pyramid_gate_forward_cuda(dtype, s, options, x.data(), row_logits.data(), row_size, column_data, y.data(), nullptr);
  pyramid_gate_backward_cuda(dtype, s, options, grad_y.data(), x.data(), row_logits.data(), row_size, column_data,
                             grad_x.data(), grad_rows.data(), grad_columns.data(), workspace.data(), nullptr);
  expect_written(y.is_written() && grad_x.is_written(), "pyramid_gate: y and grad_x");
  expect_written(grad_rows.is_written() && grad_columns.is_written(), "pyramid_gate: gradients of the logits");
}

template <class T>
void pyramid_coordinate_attention(DType dtype, const PlaneShape& s, const GateOptions& options, std::int64_t hidden) {
  using A = cuda::Accumulator<T>;
  const std::int64_t planes = s.batch * s.channels, count = planes * s.height * s.width;
  const std::int64_t channels = s.channels / options.branches;
  Array<T> x(count), y(count);
  Array<A> matrix(hidden * channels), of_hidden(hidden), of_channels(channels), variance(hidden);
  Array<A> workspace(pyramid_coordinate_attention_workspace_cuda(s));
  x.fill(), matrix.fill(), of_hidden.fill(), of_channels.fill();
  for (std::int64_t i = 0; i < hidden; ++i) variance.data()[i] = A(1 + i);
  const CoordinateWeights weights{hidden,           matrix.data(),      of_hidden.data(),   of_hidden.data(),
                                  of_hidden.data(), of_hidden.data(),   variance.data(),    1e-5,
                                  matrix.data(),    of_channels.data(), matrix.data(),      of_channels.data()};
  pyramid_coordinate_attention_cuda(dtype, s, options, x.data(), weights, y.data(), workspace.data(), nullptr);
  expect_written(y.is_written(), "pyramid_coordinate_attention: y");
}

void pyramid_gate() {
  const auto all_dtypes = [](const PlaneShape& s, const GateOptions& options, bool whole, bool columns) {
    for_dtypes([&]<class T>(DType dtype, T) {
      pyramid_gate<T>(dtype, s, options, whole ? 1 : s.height, columns);
      if (s.width < 100) pyramid_coordinate_attention<T>(dtype, s, options, whole && !columns ? 300 : 5);
    });
  };
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    all_dtypes({1, 32, 3, 8, layout}, {4, true}, false, true);    // whole vectors
    all_dtypes({2, 9, 5, 7, layout}, {3, true}, false, true);     // single elements
    all_dtypes({1, 18, 9, 5, layout}, {6, false}, true, true);    // many branches
    all_dtypes({1, 40, 2, 3, layout}, {1, true}, true, false);    // cut tiles of channels
    all_dtypes({1, 2, 3, 1400, layout}, {2, true}, false, true);  // a plane that is not small
  }
  // As much shared memory as a block may have: another table or wider sums would not fit.
  if (!kRaces) pyramid_gate<double>(DType::kFloat64, {1, 128, 17, 257, Layout::kChannelsLast}, {4, true}, 17, true);
}

}  // namespace
}  // namespace mffpa

int main() {
  mffpa::pyramid_gate();
  mffpa::directional_means();
  mffpa::feature_norm();
  mffpa::outlook_attention();
  std::printf("finished\n");
  return mffpa::failures == 0 ? 0 : 1;
}
