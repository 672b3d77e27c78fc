// Chooses the build of the outlook kernels that this CPU runs fastest.
#include "outlook_attention.h"

#include "cpu/isa.h"
#include "cpu/outlook_attention_kernel.h"

namespace mffpa {
void outlook_attention_forward_cpu(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                   const void* logits, const void* mask, void* output, ParallelFor parallel) {
  MFFPA_SELECT(outlook_kernels).forward(dtype, shape, scale, value, logits, mask, output, parallel);
}

std::int64_t outlook_attention_backward_workspace(const OutlookShape& s) {
  const std::int64_t side = 2 * s.kernel_size - 1;  // the collapsed kernel of every pixel and head
  return s.batch * s.height * s.width * s.heads * side * side;
}

void outlook_attention_backward_cpu(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                    const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                    void* grad_logits, void* workspace, ParallelFor parallel) {
  MFFPA_SELECT(outlook_kernels)
      .backward(dtype, shape, scale, value, logits, mask, grad_output, grad_value, grad_logits, workspace, parallel);
}

}  // namespace mffpa
