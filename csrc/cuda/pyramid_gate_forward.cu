// The pyramid's gate on CUDA, one launch: one read and one write of the tensor.
#include "cuda/pyramid_gate.cuh"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct Weigh {
  GateGrid g;
  const T* x;
  GateLogits<Accumulator<T>> logits;
  T* y;
};

template <class T, class Access>
__global__ void __launch_bounds__(kGateThreads, kGateBlocks<Access>) weigh(const Weigh<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N;
  MFFPA_DYNAMIC_SHARED(A, rows);
  const GateGrid& g = a.g;
  const GatePlace p = gate_place<Access>(g);
  A* const columns = rows + g.tile_rows * g.branches * g.tile_channels;
  fill_tables<Access>(g, p, a.logits, rows, columns);
  __syncthreads();
  if (p.channel + p.own_channel >= g.channels) return;
  for (int column = p.slot * Access::kRun; column < g.tile_columns; column += g.slots * Access::kRun) {
    if (p.column + column >= g.width) return;
    A factors[Access::kMost][N];
    load_columns<Access>(g, columns, column, p.own_channel, factors);
    for (int line = p.line; line < g.tile_rows && p.row + line < g.height; line += g.rows) {
      const std::int64_t at = element_at<Access>(g, p, p.row + line, p.column + column);
      Vector<T, N> x[Access::kMost];
#pragma unroll
      for (int s = 0; s < Access::kMost; ++s)
        if (s < g.branches) x[s] = load_vector<T, N>(a.x + at + s * branch_stride<Access>(g));
      A weights[Access::kMost][N];
      weights_at<Access>(g, rows, line, p.own_channel, a.logits.softmax, factors, weights);
#pragma unroll
      for (int s = 0; s < Access::kMost; ++s) {
        if (s >= g.branches) continue;
        Vector<T, N> y;
#pragma unroll
        for (int k = 0; k < N; ++k) y.at[k] = from_accumulator<T>(to_accumulator(x[s].at[k]) * weights[s][k]);
        store_vector(a.y + at + s * branch_stride<Access>(g), y);
      }
    }
  }
}

}  // namespace
}  // namespace cuda

void pyramid_gate_forward_cuda(DType dtype, const PlaneShape& s, const GateOptions& options, const void* x,
                               const void* row_logits, std::int64_t row_size, const void* column_logits, void* y,
                               void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    using A = cuda::Accumulator<T>;
    const bool aligned = cuda::is_aligned(x) && cuda::is_aligned(y);
    cuda::with_gate_access<T>(s, options, aligned, [&]<class Access>(Access) {
      const auto g = cuda::GateGrid::forward(s, options, row_size, Access::N);
      cuda::launch(cuda::weigh<T, Access>, g.forward_launch(sizeof(A)), stream,
                   {g, static_cast<const T*>(x),
                    {static_cast<const A*>(row_logits), static_cast<const A*>(column_logits), options.softmax},
                    static_cast<T*>(y)});
    });
  });
}

}  // namespace mffpa
