// Outlook attention (Yuan et al., VOLO, 2021): interface of the kernels. The mathematics stands in
// mffpa_ext/ops/outlook_attention.py.
//
//   y[p] = sum over (q, i) with stride*q - padding + i = p of
//          sum_j softmax_j(scale * logits[q, i, :])_j * mask[q, i, j] * value[stride*q - padding + j]
//
// value  [batch, height, width, heads * head_dim]           contiguous, p runs over height x width
// logits [batch, grid_height, grid_width, heads * K^2 * K^2] contiguous, q runs over the grid,
//        i and j over the K x K window
// mask   like logits or null: multiplies the weights after the softmax (dropout)
// Padded positions take part in the softmax, with value 0.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "parallel.h"

namespace mffpa {

constexpr std::int64_t kMaxOutlookKernel = 15;  // bounds arrays of the kernels; the bridge refuses larger ones

struct OutlookShape {
  std::int64_t batch, height, width, heads, head_dim;
  std::int64_t kernel_size, stride, padding;
  std::int64_t grid_height, grid_width;  // floor((height + 2*padding - kernel_size) / stride) + 1
};

void outlook_attention_forward_cpu(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                   const void* logits, const void* mask, void* output, ParallelFor parallel);

// Scratch elements (float, or double for kFloat64) that the backward pass needs.
std::int64_t outlook_attention_backward_workspace(const OutlookShape& shape);

void outlook_attention_backward_cpu(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                    const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                    void* grad_logits, void* workspace, ParallelFor parallel);

// Device pointers; kernels are put into `stream`, a cudaStream_t, of the current device. The workspace is as large as
// on the CPU. Throw std::runtime_error with CUDA's text where a launch fails.
void outlook_attention_forward_cuda(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                    const void* logits, const void* mask, void* output, void* stream);

void outlook_attention_backward_cuda(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                     const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                     void* grad_logits, void* workspace, void* stream);

}  // namespace mffpa
