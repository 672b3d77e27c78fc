// Means over the width and over the height on the CPU, compiled once per instruction set.
#include "cpu/directional_means.h"
#include "cpu/pyramid_gate_kernels.h"

namespace mffpa {
namespace {

void means(DType dtype, const PlaneShape& shape, const void* x, void* by_row, void* by_column, void* workspace,
           ParallelFor parallel) {
  const auto call = [&]<class T>() {
    directional_means_of(shape, static_cast<const T*>(x), static_cast<T*>(by_row), static_cast<T*>(by_column),
                         static_cast<Accumulator<T>*>(workspace), parallel);
  };
  switch (dtype) {
    case DType::kFloat32: return call.template operator()<float>();
    case DType::kFloat64: return call.template operator()<double>();
    case DType::kFloat16: return call.template operator()<Half>();
    case DType::kBFloat16: return call.template operator()<BFloat16>();
  }
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&directional_means_cpu) directional_means = &means;
}

}  // namespace mffpa
