// Chooses the build of the feature normalisation kernels that this CPU runs fastest.
#include "feature_norm.h"

#include <algorithm>

#include "cpu/feature_norm_kernels.h"
#include "cpu/isa.h"

namespace mffpa {

std::int64_t feature_norm_workspace(const PlaneShape& s) {
  if (s.layout == Layout::kContiguous) return 0;
  const std::int64_t chunks = feature_norm_chunks(s);
  const std::int64_t forward = 3 * chunks + 3, backward = 2 * chunks + 7;  // partial sums beside the maps
  return s.batch * s.channels * std::max(forward, backward);
}

void feature_norm_forward_cpu(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options, const void* x,
                              const void* weight, const void* bias, void* y, void* statistics, void* workspace,
                              ParallelFor parallel) {
  MFFPA_SELECT(feature_norm_forward)(dtype, shape, options, x, weight, bias, y, statistics, workspace, parallel);
}

void feature_norm_backward_cpu(DType dtype, const PlaneShape& shape, const FeatureNormOptions& options,
                               const void* grad_y, const void* x, const void* weight, const void* bias,
                               const void* statistics, void* grad_x, void* grad_weight_parts, void* grad_bias_parts,
                               void* workspace, ParallelFor parallel) {
  MFFPA_SELECT(feature_norm_backward)
  (dtype, shape, options, grad_y, x, weight, bias, statistics, grad_x, grad_weight_parts, grad_bias_parts, workspace,
   parallel);
}

}  // namespace mffpa
