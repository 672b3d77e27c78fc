// Means over the width and over the height on the CPU, compiled once per instruction set.
#include "cpu/directional_means.h"
#include "cpu/pyramid_gate_kernels.h"

namespace mffpa {
namespace {

void means(DType dtype, const PlaneShape& shape, const void* x, void* by_row, void* by_column, void* workspace,
           ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() {
    directional_means_of(shape, static_cast<const T*>(x), static_cast<T*>(by_row), static_cast<T*>(by_column),
                         static_cast<Accumulator<T>*>(workspace), parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&directional_means_cpu) directional_means = &means;
}

}  // namespace mffpa
