// Chooses the build of the pyramid gate's kernels that this CPU runs fastest.
#include "pyramid_gate.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/pyramid_gate_kernels.h"

namespace mffpa {

std::int64_t directional_means_workspace(const PlaneShape& s) {
  if (s.layout == Layout::kContiguous) return s.batch * s.channels * padded(s.width);
  return s.batch * row_chunks(s.height) * s.width * padded(s.channels);
}

std::int64_t pyramid_gate_workspace(const PlaneShape& s, std::int64_t row_size) {
  const std::int64_t planes = s.batch * s.channels;
  return table_size(planes * row_size) + table_size(planes * s.width);
}

std::int64_t pyramid_gate_backward_workspace(const PlaneShape& s, const GateOptions& options, std::int64_t row_size) {
  const std::int64_t channels = s.channels / options.branches;
  // Sums of columns and of one row, per channel or per chunk.
  const std::int64_t sums = s.layout == Layout::kContiguous
                                ? s.batch * s.channels * (padded(s.width) + kPadding)
                                : s.batch * row_chunks(s.height) * options.branches * (s.width + 1) * padded(channels);
  return pyramid_gate_workspace(s, row_size) + sums;
}

std::int64_t pyramid_coordinate_attention_workspace(const PlaneShape& s, const GateOptions& options,
                                                    std::int64_t hidden) {
  const std::int64_t channels = s.channels / options.branches;
  const std::int64_t weights = (channels + 2) * padded(hidden) + 2 * (hidden + 1) * padded(channels);
  // Hidden activations; they take the place of the sums behind the means.
  const std::int64_t positions = s.batch * options.branches * (padded(s.height) + padded(s.width));
  return pyramid_gate_workspace(s, s.height) + weights +
         std::max(directional_means_workspace(s), positions * padded(hidden));
}

void directional_means_cpu(DType dtype, const PlaneShape& shape, const void* x, void* by_row, void* by_column,
                           void* workspace, ParallelFor parallel) {
  MFFPA_SELECT(directional_means)(dtype, shape, x, by_row, by_column, workspace, parallel);
}

void pyramid_gate_forward_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                              const void* row_logits, std::int64_t row_size, const void* column_logits, void* y,
                              void* workspace, ParallelFor parallel) {
  MFFPA_SELECT(pyramid_gate_forward)
  (dtype, shape, options, x, row_logits, row_size, column_logits, y, workspace, parallel);
}

void pyramid_gate_backward_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* grad_y,
                               const void* x, const void* row_logits, std::int64_t row_size,
                               const void* column_logits, void* grad_x, void* grad_row_logits,
                               void* grad_column_logits, void* workspace, ParallelFor parallel) {
  MFFPA_SELECT(pyramid_gate_backward)
  (dtype, shape, options, grad_y, x, row_logits, row_size, column_logits, grad_x, grad_row_logits, grad_column_logits,
   workspace, parallel);
}

void pyramid_coordinate_attention_cpu(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x,
                                      const CoordinateWeights& weights, void* y, void* workspace,
                                      ParallelFor parallel) {
  MFFPA_SELECT(pyramid_coordinate_attention)(dtype, shape, options, x, weights, y, workspace, parallel);
}

}  // namespace mffpa
