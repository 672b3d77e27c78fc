// What each instruction set's build of outlook_attention_kernel.cpp offers to the dispatcher in outlook_attention.cpp.
#pragma once

#include "outlook_attention.h"

namespace mffpa {

struct OutlookKernels {
  decltype(&outlook_attention_forward_cpu) forward;
  decltype(&outlook_attention_backward_cpu) backward;
};

namespace baseline {
extern const OutlookKernels outlook_kernels;
}
namespace avx2 {
extern const OutlookKernels outlook_kernels;
}
namespace avx512 {
extern const OutlookKernels outlook_kernels;
}

}  // namespace mffpa
