// What each instruction set's build of feature_norm_*_kernel.cpp offers to the dispatcher in feature_norm.cpp.
#pragma once

#include "feature_norm.h"

namespace mffpa {

#define MFFPA_DECLARE_FEATURE_NORM(isa)                                      \
  namespace isa {                                                            \
  extern const decltype(&feature_norm_forward_cpu) feature_norm_forward;     \
  extern const decltype(&feature_norm_backward_cpu) feature_norm_backward;   \
  }

MFFPA_DECLARE_FEATURE_NORM(baseline)
MFFPA_DECLARE_FEATURE_NORM(avx2)
MFFPA_DECLARE_FEATURE_NORM(avx512)

#undef MFFPA_DECLARE_FEATURE_NORM

}  // namespace mffpa
