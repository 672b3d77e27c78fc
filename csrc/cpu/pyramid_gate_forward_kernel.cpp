// Weights the branches of a pyramid by their gate on the CPU, compiled once per instruction set: one pass over x.
#include "cpu/pyramid_lines.h"

namespace mffpa {
namespace {

template <class T>
void run(const PlaneShape& s, const GateOptions& options, const void* x, const void* row_logits, std::int64_t row_size,
         const void* column_logits, void* y, void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const std::int64_t planes = s.batch * s.channels;
  A* const rows = static_cast<A*>(workspace);
  A* const columns = column_logits ? rows + table_size(planes * row_size) : nullptr;
  sigmoid_table(static_cast<const A*>(row_logits), planes * row_size, rows, parallel);
  if (columns) sigmoid_table(static_cast<const A*>(column_logits), planes * s.width, columns, parallel);
  const Gate<T> gate(s, options, rows, row_size, columns);
  if (gate.softmax_of_rows()) softmax_of_rows(gate, rows, parallel);
  weigh_all(gate, static_cast<const T*>(x), static_cast<T*>(y), parallel);
}

void forward(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* x, const void* row_logits,
             std::int64_t row_size, const void* column_logits, void* y, void* workspace, ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() {
    run<T>(shape, options, x, row_logits, row_size, column_logits, y, workspace, parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&pyramid_gate_forward_cpu) pyramid_gate_forward = &forward;
}

}  // namespace mffpa
