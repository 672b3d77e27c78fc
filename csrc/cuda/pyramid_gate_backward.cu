// The pyramid's gate backward on CUDA, two launches: the gradient of x, with sums over the rows and columns of every
// tile left in the workspace; then the gradients of the logits, which add the tiles up. Two reads, one write.
//
// With weights p (one per branch, element), and r, c the sigmoids of the row and of the column:
//   grad_x = grad_y p,   grad_p = grad_y x,   grad_g = p (grad_p - sum over the branches of p grad_p), or grad_p,
//   grad_row_logit = r (1 - r) * sum over the row of grad_g c,   grad_column_logit accordingly.
#include "cuda/pyramid_gate.cuh"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct GateGradient {
  GateGrid g;
  const T *x, *grad_y;
  GateLogits<Accumulator<T>> logits;
  T* grad_x;
  Accumulator<T>*row_parts, *column_parts;  // [part, in the order of the logits]
};

// The gradient of the gate at N elements of every branch, of which grad_x is written on the way.
template <class T, class Access, class A = Accumulator<T>>
MFFPA_DEVICE void gradient_at(const GateGradient<T>& a, std::int64_t at, const A (&weights)[Access::kMost][Access::N],
                              A (&grad)[Access::kMost][Access::N]) {
  constexpr int N = Access::N;
  const GateGrid& g = a.g;
  A dot[N] = {};
#pragma unroll
  for (int first = 0; first < Access::kMost; first += kFewBranches) {
    // Loads first: they must not wait for the stores of other branches, which for all that is known overlap them.
    Vector<T, N> x[kFewBranches], grad_y[kFewBranches];
#pragma unroll
    for (int i = 0; i < kFewBranches; ++i) {
      if (first + i >= g.branches) continue;
      x[i] = load_vector<T, N>(a.x + at + (first + i) * branch_stride<Access>(g));
      grad_y[i] = load_vector<T, N>(a.grad_y + at + (first + i) * branch_stride<Access>(g));
    }
#pragma unroll
    for (int i = 0; i < kFewBranches; ++i) {
      const int s = first + i;
      if (s >= g.branches) continue;
      Vector<T, N> grad_x;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const A dy = to_accumulator(grad_y[i].at[k]);
        grad[s][k] = dy * to_accumulator(x[i].at[k]);
        dot[k] += grad[s][k] * weights[s][k];
        grad_x.at[k] = from_accumulator<T>(dy * weights[s][k]);
      }
      store_vector(a.grad_x + at + s * branch_stride<Access>(g), grad_x);
    }
  }
  if (!a.logits.softmax) return;
#pragma unroll
  for (int s = 0; s < Access::kMost; ++s)
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (s < g.branches) grad[s][k] = weights[s][k] * (grad[s][k] - dot[k]);
}

// Adds a thread's share of a row of the tile, one number per branch and channel, over the threads of the row, who are
// neighbours in a warp. All lanes take part; the row's numbers belong to the warp.
template <class Access, class A>
MFFPA_DEVICE void add_to_row(const GateGrid& g, const GatePlace& p, int line,
                             const A (&share)[Access::kMost][Access::kChannels], A* sums) {
#pragma unroll
  for (int s = 0; s < Access::kMost; ++s) {
    if (s >= g.branches) continue;
#pragma unroll
    for (int k = 0; k < Access::kChannels; ++k) {
      A sum = share[s][k];
      for (int distance = g.groups; distance < g.groups * g.slots; distance *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if (p.slot == 0) sums[table_at<Access>(g, g.tile_rows, line, s, p.own_channel + k)] += sum;
    }
  }
}

// Its sums take more registers than the forward pass has, in double twice as many.
template <class T, class Access>
constexpr int kGradientBlocks = std::is_same_v<T, double> ? 1 : kGateBlocks<Access> - 1;

template <class T, class Access>
__global__ void __launch_bounds__(kGateThreads, kGradientBlocks<T, Access>) gate_gradient(const GateGradient<T> a) {
  using A = Accumulator<T>;
  constexpr int N = Access::N;
  MFFPA_DYNAMIC_SHARED(A, rows);
  const GateGrid& g = a.g;
  const GatePlace p = gate_place<Access>(g);
  A* const columns = rows + g.tile_rows * g.branches * g.tile_channels;
  A* const row_sums = columns + g.tile_columns * g.branches * g.tile_channels;
  // Of each row of threads, as a table of the columns of a pass.
  A* const column_sums = row_sums + g.tile_rows * g.branches * g.tile_channels;
  fill_tables<Access>(g, p, a.logits, rows, columns);
  for_table<Access>(g, g.tile_rows, [&](int at, int, int, int) { row_sums[at] = A(0); });
  __syncthreads();

  const int pass = g.slots * Access::kRun, per_line = pass * g.branches * g.tile_channels;
  for (int first = 0; first < g.tile_columns; first += pass) {
    const int column = first + p.slot * Access::kRun;
    const bool inside = p.channel + p.own_channel < g.channels && p.column + column < g.width;
    A factors[Access::kMost][N] = {}, column_sum[Access::kMost][N] = {};
    if (inside) load_columns<Access>(g, columns, column, p.own_channel, factors);
    for (int line = p.line; line < g.tile_rows; line += g.rows) {
      A share[Access::kMost][Access::kChannels] = {};
      if (inside && p.row + line < g.height) {
        A weights[Access::kMost][N], grad[Access::kMost][N];
        weights_at<Access>(g, rows, line, p.own_channel, a.logits.softmax, factors, weights);
        gradient_at<T, Access>(a, element_at<Access>(g, p, p.row + line, p.column + column), weights, grad);
#pragma unroll
        for (int s = 0; s < Access::kMost; ++s) {
          if (s >= g.branches) continue;
          A row[N];
          load_row<Access>(g, rows, line, s, p.own_channel, row);
#pragma unroll
          for (int k = 0; k < N; ++k) {
            share[s][Access::kByPixel ? k : 0] += grad[s][k] * factors[s][k];
            column_sum[s][k] += grad[s][k] * row[k];
          }
        }
      }
      add_to_row<Access>(g, p, line, share, row_sums);
    }
    if (!a.logits.columns) continue;
#pragma unroll
    for (int s = 0; s < Access::kMost; ++s) {
      if (s >= g.branches) continue;
      Vector<A, N> sums;
#pragma unroll
      for (int k = 0; k < N; ++k) sums.at[k] = column_sum[s][k];
      store_vector(
          column_sums + p.line * per_line + table_at<Access>(g, pass, p.slot * Access::kRun, s, p.own_channel), sums);
    }
    __syncthreads();
    const std::int64_t logits = g.batch * g.channels * g.branches * g.width;
    for_table<Access>(g, pass, [&](int at, int branch, int own, int line) {
      const std::int64_t channel = p.channel + own, index = p.column + first + line;
      if (channel >= g.channels || index >= g.width) return;
      A total = column_sums[at];
      for (int row = 1; row < g.rows; ++row) total += column_sums[row * per_line + at];
      a.column_parts[p.row_tile * logits +
                     line_at<Access>(g, p.batch, branch * g.channels + channel, g.width, index)] = total;
    });
    __syncthreads();
  }

  __syncthreads();  // row_sums are complete, also without columns
  const std::int64_t logits = g.batch * g.channels * g.branches * g.row_size;
  if (g.row_size != 1) {
    for_table<Access>(g, g.tile_rows, [&](int at, int branch, int own, int line) {
      const std::int64_t channel = p.channel + own, index = p.row + line;
      if (channel >= g.channels || index >= g.height) return;
      a.row_parts[p.column_tile * logits +
                  line_at<Access>(g, p.batch, branch * g.channels + channel, g.row_size, index)] = row_sums[at];
    });
    return;
  }
  for_table<Access>(g, 1, [&](int, int branch, int own, int) {  // one logit for all rows
    const std::int64_t channel = p.channel + own;
    if (channel >= g.channels) return;
    A total = 0;
    for (int line = 0; line < g.tile_rows && p.row + line < g.height; ++line)
      total += row_sums[table_at<Access>(g, g.tile_rows, line, branch, own)];
    a.row_parts[(std::int64_t(p.row_tile) * g.column_tiles + p.column_tile) * logits +
                line_at<Access>(g, p.batch, branch * g.channels + channel, 1, 0)] = total;
  });
}

template <class A>
struct MergedLogits {
  std::int64_t count, parts;
  const A *logits, *partial;
  A* grad;

  MFFPA_DEVICE void merge(std::int64_t i) const {
    A total = partial[i];
    for (std::int64_t part = 1; part < parts; ++part) total += partial[part * count + i];
    const A t = sigmoid(logits[i]);
    grad[i] = total * (t - t * t);
  }
};

template <class A>
struct Merge {
  MergedLogits<A> rows, columns;
};

template <class A>
__global__ void __launch_bounds__(kGateThreads) merge_gradients(const Merge<A> a) {
  const std::int64_t i = std::int64_t(blockIdx.x) * kGateThreads + threadIdx.x;
  if (i < a.rows.count) a.rows.merge(i);
  else if (i - a.rows.count < a.columns.count) a.columns.merge(i - a.rows.count);
}

}  // namespace
}  // namespace cuda

std::int64_t pyramid_gate_backward_workspace_cuda(DType dtype, const PlaneShape& s, const GateOptions& options,
                                                  std::int64_t row_size) {
  std::int64_t elements = 0;
  cuda::with_element_type(dtype, [&]<class T>(T) {
    for (const bool aligned : {false, true})  // not yet known
      cuda::with_gate_access<T>(s, options, aligned, [&]<class Access>(Access) {
        const auto g = cuda::GateGrid::backward(s, options, row_size, Access::N);
        elements = std::max(elements, s.batch * s.channels * (row_size * g.row_parts() + s.width * g.column_parts()));
      });
  });
  return elements;
}

void pyramid_gate_backward_cuda(DType dtype, const PlaneShape& s, const GateOptions& options, const void* grad_y,
                                const void* x, const void* row_logits, std::int64_t row_size,
                                const void* column_logits, void* grad_x, void* grad_row_logits,
                                void* grad_column_logits, void* workspace, void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    using A = cuda::Accumulator<T>;
    const bool aligned = cuda::is_aligned(x) && cuda::is_aligned(grad_y) && cuda::is_aligned(grad_x);
    const auto *rows = static_cast<const A*>(row_logits), *columns = static_cast<const A*>(column_logits);
    cuda::with_gate_access<T>(s, options, aligned, [&]<class Access>(Access) {
      const auto g = cuda::GateGrid::backward(s, options, row_size, Access::N);
      const std::int64_t of_rows = s.batch * s.channels * row_size;
      const std::int64_t of_columns = columns ? s.batch * s.channels * s.width : 0;
      A *const row_parts = static_cast<A*>(workspace), *const column_parts = row_parts + of_rows * g.row_parts();
      cuda::launch(cuda::gate_gradient<T, Access>, g.backward_launch(Access::N, sizeof(A)), stream,
                   {g, static_cast<const T*>(x), static_cast<const T*>(grad_y), {rows, columns, options.softmax},
                    static_cast<T*>(grad_x), row_parts, column_parts});
      cuda::launch(cuda::merge_gradients<A>, cuda::gate_merge_launch(of_rows + of_columns), stream,
                   {{of_rows, g.row_parts(), rows, row_parts, static_cast<A*>(grad_row_logits)},
                    {of_columns, g.column_parts(), columns, column_parts, static_cast<A*>(grad_column_logits)}});
    });
  });
}

}  // namespace mffpa
