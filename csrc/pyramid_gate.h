// Means along rows and columns, and the gate made of them that weights the branches of a pyramid: interface of the
// kernels. See mffpa_ext/ops/pyramid_gate.py for the mathematics.
//
// Branches are groups of channels: channel s * channels_per_branch + c is channel c of branch s. Tensors of one number
// per row or column of every channel follow the layout of x: [batch, channels, size] where x is contiguous,
// [batch, size, channels] where it is channels last. Workspaces are of the accumulator type.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "parallel.h"
#include "planes.h"

namespace mffpa {

constexpr std::int64_t kMaxBranches = 16;

struct GateOptions {
  std::int64_t branches;  // 1 to kMaxBranches, divides the channels
  bool softmax;           // over the branches, of the gate
};

// by_row: [batch, channels, height] and by_column: [batch, channels, width], of the type of x.
std::int64_t directional_means_workspace(const PlaneShape& shape);
void directional_means_cpu(DType dtype, const PlaneShape& shape, const void* x, void* by_row, void* by_column,
                           void* workspace, ParallelFor parallel);
// Device pointers; kernels are put into `stream`, a cudaStream_t, of the current device. Two launches. Throws
// std::runtime_error with CUDA's text where a launch fails.
void directional_means_cuda(DType dtype, const PlaneShape& shape, const void* x, void* by_row, void* by_column,
                            void* stream);

// row_logits: row_size numbers per channel, height or 1. column_logits: width numbers per channel, or null for factor
// 1. Both of the accumulator type.
std::int64_t pyramid_gate_workspace(const PlaneShape& shape, std::int64_t row_size);
void pyramid_gate_forward_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                              const void* row_logits, std::int64_t row_size, const void* column_logits, void* y,
                              void* workspace, ParallelFor parallel);
// One launch.
void pyramid_gate_forward_cuda(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                               const void* row_logits, std::int64_t row_size, const void* column_logits, void* y,
                               void* stream);

std::int64_t pyramid_gate_backward_workspace(const PlaneShape& shape, const GateOptions& options,
                                             std::int64_t row_size);
void pyramid_gate_backward_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* grad_y,
                               const void* x, const void* row_logits, std::int64_t row_size,
                               const void* column_logits, void* grad_x, void* grad_row_logits,
                               void* grad_column_logits, void* workspace, ParallelFor parallel);
// Two launches.
std::int64_t pyramid_gate_backward_workspace_cuda(DType dtype, const PlaneShape& shape, const GateOptions& options,
                                                  std::int64_t row_size);
void pyramid_gate_backward_cuda(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* grad_y,
                                const void* x, const void* row_logits, std::int64_t row_size,
                                const void* column_logits, void* grad_x, void* grad_row_logits,
                                void* grad_column_logits, void* workspace, void* stream);

// Matrices [out, in] and vectors of the accumulator type; C of the matrices is channels / branches.
struct CoordinateWeights {
  std::int64_t hidden;                  // M
  const void *conv1_weight, *conv1_bias;  // [M, C], [M]
  const void *bn_weight, *bn_bias, *bn_mean, *bn_var;  // [M]
  double bn_eps;
  const void *conv_h_weight, *conv_h_bias, *conv_w_weight, *conv_w_bias;  // [C, M], [C]
};

// Means, shared 1x1 convolution, BatchNorm by running statistics, hard-swish, 1x1 convolutions and gate in one call.
std::int64_t pyramid_coordinate_attention_workspace(const PlaneShape& shape, const GateOptions& options,
                                                    std::int64_t hidden);
void pyramid_coordinate_attention_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                                      const CoordinateWeights& weights, void* y, void* workspace,
                                      ParallelFor parallel);
// Two launches; at most kMaxCudaHidden hidden channels, whose activations a block keeps in shared memory.
constexpr std::int64_t kMaxCudaHidden = 2048;
std::int64_t pyramid_coordinate_attention_workspace_cuda(const PlaneShape& shape);
void pyramid_coordinate_attention_cuda(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                                       const CoordinateWeights& weights, void* y, void* workspace, void* stream);

}  // namespace mffpa
