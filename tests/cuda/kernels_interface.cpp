// The launch functions of csrc/cuda with a C interface, for harness.py: each returns null or the error's text.
#include <exception>
#include <string>

#include "feature_norm.h"
#include "outlook_attention.h"
#include "pyramid_gate.h"

namespace {

template <class Body>
const char* report(Body body) {
  static thread_local std::string text;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace

extern "C" {

using mffpa::CoordinateWeights;
using mffpa::DType;
using mffpa::FeatureNormOptions;
using mffpa::GateOptions;
using mffpa::OutlookShape;
using mffpa::PlaneShape;

const char* outlook_attention_forward(int dtype, const OutlookShape* shape, double scale, const void* value,
                                      const void* logits, const void* mask, void* output) {
  return report([&] {
    mffpa::outlook_attention_forward_cuda(DType(dtype), *shape, scale, value, logits, mask, output, nullptr);
  });
}

const char* outlook_attention_backward(int dtype, const OutlookShape* shape, double scale, const void* value,
                                       const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                       void* grad_logits, void* workspace) {
  return report([&] {
    mffpa::outlook_attention_backward_cuda(DType(dtype), *shape, scale, value, logits, mask, grad_output, grad_value,
                                           grad_logits, workspace, nullptr);
  });
}

const char* directional_means(int dtype, const PlaneShape* shape, const void* x, void* by_row, void* by_column) {
  return report([&] { mffpa::directional_means_cuda(DType(dtype), *shape, x, by_row, by_column, nullptr); });
}

const char* pyramid_gate_forward(int dtype, const PlaneShape* shape, const GateOptions* options, const void* x,
                                 const void* row_logits, const std::int64_t* row_size, const void* column_logits,
                                 void* y) {
  return report([&] {
    mffpa::pyramid_gate_forward_cuda(DType(dtype), *shape, *options, x, row_logits, *row_size, column_logits, y,
                                     nullptr);
  });
}

const char* pyramid_gate_backward_workspace(int dtype, const PlaneShape* shape, const GateOptions* options,
                                            const std::int64_t* row_size, std::int64_t* elements) {
  return report([&] {
    *elements = mffpa::pyramid_gate_backward_workspace_cuda(DType(dtype), *shape, *options, *row_size);
  });
}

const char* pyramid_gate_backward(int dtype, const PlaneShape* shape, const GateOptions* options, const void* grad_y,
                                  const void* x, const void* row_logits, const std::int64_t* row_size,
                                  const void* column_logits, void* grad_x, void* grad_row_logits,
                                  void* grad_column_logits, void* workspace) {
  return report([&] {
    mffpa::pyramid_gate_backward_cuda(DType(dtype), *shape, *options, grad_y, x, row_logits, *row_size, column_logits,
                                      grad_x, grad_row_logits, grad_column_logits, workspace, nullptr);
  });
}

const char* pyramid_coordinate_attention(int dtype, const PlaneShape* shape, const GateOptions* options, const void* x,
                                         const CoordinateWeights* weights, void* y, void* workspace) {
  return report([&] {
    mffpa::pyramid_coordinate_attention_cuda(DType(dtype), *shape, *options, x, *weights, y, workspace, nullptr);
  });
}

const char* feature_norm_workspace(int, const PlaneShape* shape, std::int64_t* elements) {
  return report([&] { *elements = mffpa::feature_norm_workspace_cuda(*shape); });
}

const char* feature_norm_forward(int dtype, const PlaneShape* shape, const FeatureNormOptions* options, const void* x,
                                 const void* weight, const void* bias, void* y, void* statistics, void* workspace) {
  return report([&] {
    mffpa::feature_norm_forward_cuda(DType(dtype), *shape, *options, x, weight, bias, y, statistics, workspace,
                                     nullptr);
  });
}

const char* feature_norm_backward(int dtype, const PlaneShape* shape, const FeatureNormOptions* options,
                                  const void* grad_y, const void* x, const void* weight, const void* bias,
                                  const void* statistics, void* grad_x, void* grad_weight, void* grad_bias,
                                  void* workspace) {
  return report([&] {
    mffpa::feature_norm_backward_cuda(DType(dtype), *shape, *options, grad_y, x, weight, bias, statistics, grad_x,
                                      grad_weight, grad_bias, workspace, nullptr);
  });
}

}  // extern "C"
