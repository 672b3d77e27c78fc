// Feature normalisation with an optional ReLU and 2 x 2 max-pool: interface of the kernels.
// See mffpa_ext/ops/feature_norm.py for the mathematics.
//
//   y = weight * (x - mean) / sqrt(std + eps) + bias     per sample and channel, std unbiased
//
// Statistics are kept per plane as three numbers of the accumulator type (float; double for kFloat64):
// mean = high + low (a single float cannot hold the mean of a plane far from 0 closely enough) and std.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dtype.h"
#include "parallel.h"
#include "planes.h"

namespace mffpa {

struct FeatureNormOptions {
  double eps;
  bool relu;
  bool pool;  // 2 x 2 max-pool of the result, stride 2; an odd last row or column is dropped
};

constexpr std::int64_t kStatisticsPerPlane = 3;

// Channels-last samples are worked on in chunks of so many pixels, in a number that depends on the shape alone: enough
// chunks for the threads, short enough for sums in the accumulator type, long enough that merging them costs little.
inline std::int64_t feature_norm_pixels_per_chunk(const PlaneShape& s) {
  return std::clamp(s.height * s.width / 16, std::int64_t{16}, std::int64_t{256});
}

inline std::int64_t feature_norm_chunks(const PlaneShape& s) {
  const std::int64_t per_chunk = feature_norm_pixels_per_chunk(s);
  return (s.height * s.width + per_chunk - 1) / per_chunk;
}

// Accumulator elements of scratch that forward and backward need.
std::int64_t feature_norm_workspace(const PlaneShape& shape);

// weight and bias: [channels] of the accumulator type, or null for 1 and 0. statistics: [batch, channels, 3], written.
void feature_norm_forward_cpu(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
                              const void* weight, const void* bias, void* y, void* statistics, void* workspace,
                              ParallelFor parallel);

// Without pool. grad_weight_parts, grad_bias_parts: [batch, channels] of the accumulator type, to be summed over the
// batch.
void feature_norm_backward_cpu(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options,
                               const void* grad_y, const void* x, const void* weight, const void* bias,
                               const void* statistics, void* grad_x, void* grad_weight_parts, void* grad_bias_parts,
                               void* workspace, ParallelFor parallel);

// Device pointers; kernels are put into `stream`, a cudaStream_t, of the current device. Two launches each. Throw
// std::runtime_error with CUDA's text where a launch fails.
std::int64_t feature_norm_workspace_cuda(const PlaneShape& shape);

void feature_norm_forward_cuda(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
                               const void* weight, const void* bias, void* y, void* statistics, void* workspace,
                               void* stream);

void feature_norm_backward_cuda(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options,
                                const void* grad_y, const void* x, const void* weight, const void* bias,
                                const void* statistics, void* grad_x, void* grad_weight_parts, void* grad_bias_parts,
                                void* workspace, void* stream);

}  // namespace mffpa
