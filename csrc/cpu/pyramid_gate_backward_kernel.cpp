// Backward pass of the pyramid's gate on the CPU, compiled once per instruction set. One read of x and of grad_y.
//
// With weights p (one per branch, element), and r, c the sigmoids of the row and of the column:
//   grad_x = grad_y p,   grad_p = grad_y x,   grad_g = p (grad_p - sum over the branches of p grad_p), or grad_p,
//   grad_row_logit = r (1 - r) * sum over the row of grad_g c,   grad_column_logit accordingly.
// Without columns the sum over the row comes first and the softmax's backward is taken of it, per row.
#include "cpu/pyramid_lines.h"

namespace mffpa {
namespace {

// Sums of grad_g c along rows and of grad_g r along columns, one piece per branch, added to by every line.
template <class A>
struct Sums {
  A *row, *column;  // [branches, stride]
  std::int64_t row_stride, column_stride;
};

template <Weights kWeights, bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_INLINE void backward_line(const Gate<T>& g, const Line<A>& line, const T* x, const T* grad_y, std::int64_t size,
                                T* grad_x, const Sums<A>& sums) {
  using V = Vector<A>;
  for (std::int64_t i = 0; i < line.count; i += kLanes<A>) {
    V weights[kMaxBranches], products[kMaxBranches], dot{};
    weights_at<kWeights, kByPixel>(g, line, i, weights);
    for (std::int64_t branch = 0; branch < line.branches; ++branch) {
      const std::int64_t piece = line.start + branch * line.stride, at = piece + i;
      const V dy = load_some(grad_y + at, line.count - i, grad_y + size);
      products[branch] = dy * load_some(x + at, line.count - i, x + size);
      if constexpr (kWeights == Weights::kSoftmax) dot += products[branch] * weights[branch];
      store_some(grad_x + at, V(dy * weights[branch]), line.count - i, grad_x + piece + line.room);
    }
    for (std::int64_t branch = 0; branch < line.branches; ++branch) {
      V grad_g = products[branch];
      if constexpr (kWeights == Weights::kSoftmax) grad_g = weights[branch] * (grad_g - dot);
      V along_row = grad_g;
      if constexpr (kWeights != Weights::kRows) {
        along_row *= load(g.columns + line.column + branch * line.column_stride + i);
        A* const column = sums.column + branch * sums.column_stride + i;
        store(column, V(load(column) + grad_g * row_factor<kByPixel>(g, line, branch, i)));
      }
      A* const row = sums.row + branch * sums.row_stride + (kByPixel ? i : 0);
      store(row, V(load(row) + (kByPixel ? along_row : keep_first<A>(along_row, line.count - i))));
    }
  }
}

template <class A>
void clear(A* from, std::int64_t count) {  // a multiple of kPadding
  for (std::int64_t i = 0; i < count; i += kLanes<A>) store(from + i, Vector<A>{});
}

// The derivative of a sigmoid of value t.
template <class V>
MFFPA_INLINE V slope(V t) {
  return t - t * t;
}

// to[i] = sum over the parts of parts[i + k * stride], times the slope of the sigmoids in the table, if there is one.
template <class A>
MFFPA_INLINE void write_sums(const A* parts, std::int64_t count_of_parts, std::int64_t stride, const A* table, A* to,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes<A>) {
    Vector<A> total = load(parts + i);
    for (std::int64_t k = 1; k < count_of_parts; ++k) total += load(parts + k * stride + i);
    if (table) total *= slope(load(table + i));
    store_some(to + i, total, count - i, to + count);
  }
}

// Both make the sums in `rows` and `columns`, in the order of the tables. `table` is g.rows, or null where the softmax
// of rows comes between the sums and the sigmoids.
template <Weights kWeights, class T, class A = Accumulator<T>>
void backward_contiguous(const Gate<T>& g, const T* x, const T* grad_y, T* grad_x, const A* table, A* rows, A* columns,
                         A* workspace, ParallelFor parallel) {
  const PlaneShape& s = g.s;
  const std::int64_t stride = padded(s.width), size = s.batch * s.channels * g.pixels();
  parallel_for(parallel, s.batch * g.channels, kTaskElements / (g.branches * g.pixels()),
               [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / g.channels, channel = task % g.channels;
      A* const scratch = workspace + task * g.branches * (stride + kPadding);
      const Sums<A> sums{scratch, scratch + g.branches * kPadding, kPadding, stride};
      clear(scratch, g.branches * (stride + kPadding));
      for (std::int64_t h = 0; h < s.height; ++h) {
        const Line<A> line = line_at<false>(g, b, h, channel);
        backward_line<kWeights, false>(g, line, x, grad_y, size, grad_x, sums);
        if (g.row_size == 1 && h + 1 < s.height) continue;
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          const std::int64_t at = line.row + branch * line.row_stride;
          const A total = horizontal_sum<A>(load(sums.row + branch * kPadding));
          rows[at] = table ? total * slope(table[at]) : total;
          store(sums.row + branch * kPadding, Vector<A>{});
        }
      }
      if constexpr (kWeights != Weights::kRows)
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          const std::int64_t at = (b * s.channels + branch * g.channels + channel) * s.width;
          write_sums(sums.column + branch * stride, 1, 0, g.columns + at, columns + at, s.width);
        }
    }
  });
}

template <Weights kWeights, class T, class A = Accumulator<T>>
void backward_channels_last(const Gate<T>& g, const T* x, const T* grad_y, T* grad_x, const A* table, A* rows,
                            A* columns, A* workspace, ParallelFor parallel) {
  const PlaneShape& s = g.s;
  const std::int64_t per_chunk = rows_per_chunk(s.height), chunks = row_chunks(s.height);
  const std::int64_t stride = padded(g.channels), pixel = g.branches * stride, size = s.batch * s.channels * g.pixels();
  const std::int64_t chunk_size = (s.width + 1) * pixel;  // sums of the row, then of the columns
  parallel_for(parallel, s.batch * chunks, kTaskElements / (per_chunk * s.width * s.channels),
               [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / chunks, first = task % chunks * per_chunk;
      const std::int64_t last = first + per_chunk < s.height ? first + per_chunk : s.height;
      A *const sum_row = workspace + task * chunk_size, *const sum_columns = sum_row + pixel;
      clear(sum_row, kWeights == Weights::kRows ? pixel : chunk_size);
      for (std::int64_t h = first; h < last; ++h) {
        for (std::int64_t w = 0; w < s.width; ++w)
          backward_line<kWeights, true>(g, line_at<true>(g, b, h, w), x, grad_y, size, grad_x,
                                        Sums<A>{sum_row, sum_columns + w * pixel, stride, stride});
        if (g.row_size == 1) continue;
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          const std::int64_t at = (b * s.height + h) * s.channels + branch * g.channels;
          write_sums(sum_row + branch * stride, 1, 0, table ? table + at : nullptr, rows + at, g.channels);
        }
        clear(sum_row, pixel);
      }
    }
  });
  // Pieces of channels: of the row where it has one number for the whole image, and of the columns.
  const std::int64_t of_row = g.row_size == 1 ? g.branches : 0;
  const std::int64_t of_columns = kWeights == Weights::kRows ? 0 : s.width * g.branches, pieces = of_row + of_columns;
  parallel_for(parallel, s.batch * pieces, kTaskElements / (chunks * g.channels),
               [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t b = task / pieces, piece = task % pieces;
      const bool column = piece >= of_row;
      const std::int64_t from = column ? g.branches + piece - of_row : piece;
      const std::int64_t at = (column ? b * of_columns + piece - of_row : b * of_row + piece) * g.channels;
      const A* const sigmoids = column ? g.columns + at : table ? table + at : nullptr;
      write_sums(workspace + b * chunks * chunk_size + from * stride, chunks, chunk_size, sigmoids,
                 (column ? columns : rows) + at, g.channels);
    }
  });
}

// rows: in, the sums that belong to the softmax's outputs g.rows; out, the gradients of the logits.
template <class T, class A = Accumulator<T>>
void backward_softmax_of_rows(const Gate<T>& g, const A* logits, A* rows, ParallelFor parallel) {
  const std::int64_t inner = g.inner(), piece = g.branches * inner;
  parallel_for(parallel, g.outer(), kTaskElements / piece, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t outer = begin; outer < end; ++outer)
      for (std::int64_t i = 0; i < inner; i += kLanes<A>) {
        const std::int64_t first = outer * piece + i, count = inner - i;
        const auto some = [&](const A* from) { return load_some(from, count, from + count); };
        Vector<A> dot{};
        for (std::int64_t branch = 0; branch < g.branches; ++branch)
          dot += load(g.rows + first + branch * inner) * some(rows + first + branch * inner);
        for (std::int64_t branch = 0; branch < g.branches; ++branch) {
          const std::int64_t at = first + branch * inner;
          const Vector<A> grad_g = load(g.rows + at) * (some(rows + at) - dot);
          store_some(rows + at, Vector<A>(grad_g * slope(sigmoid<A>(some(logits + at)))), count, rows + at + count);
        }
      }
  });
}

template <class T>
void run(const PlaneShape& s, const GateOptions& options, const void* grad_y, const void* x, const void* row_logits,
         std::int64_t row_size, const void* column_logits, void* grad_x, void* grad_rows, void* grad_columns,
         void* workspace, ParallelFor parallel) {
  using A = Accumulator<T>;
  const std::int64_t planes = s.batch * s.channels;
  A* const row_table = static_cast<A*>(workspace);
  A* const column_table = row_table + table_size(planes * row_size);
  A* const scratch = column_table + table_size(planes * s.width);
  const auto* logits = static_cast<const A*>(row_logits);
  sigmoid_table(logits, planes * row_size, row_table, parallel);
  if (column_logits) sigmoid_table(static_cast<const A*>(column_logits), planes * s.width, column_table, parallel);
  const Gate<T> g(s, options, row_table, row_size, column_logits ? column_table : nullptr);
  if (g.softmax_of_rows()) softmax_of_rows(g, row_table, parallel);
  const auto pass = [&]<Weights kWeights>() {
    const auto function = s.layout == Layout::kContiguous ? &backward_contiguous<kWeights, T>
                                                          : &backward_channels_last<kWeights, T>;
    function(g, static_cast<const T*>(x), static_cast<const T*>(grad_y), static_cast<T*>(grad_x),
             g.softmax_of_rows() ? nullptr : row_table, static_cast<A*>(grad_rows), static_cast<A*>(grad_columns),
             scratch, parallel);
  };
  if (!column_logits) pass.template operator()<Weights::kRows>();
  else if (!options.softmax) pass.template operator()<Weights::kProduct>();
  else pass.template operator()<Weights::kSoftmax>();
  if (g.softmax_of_rows()) backward_softmax_of_rows(g, logits, static_cast<A*>(grad_rows), parallel);
}

void backward(DType dtype, const PlaneShape& shape, const GateOptions& options, const void* grad_y, const void* x,
              const void* row_logits, std::int64_t row_size, const void* column_logits, void* grad_x, void* grad_rows,
              void* grad_columns, void* workspace, ParallelFor parallel) {
  with_element_type(dtype, [&]<class T>() {
    run<T>(shape, options, grad_y, x, row_logits, row_size, column_logits, grad_x, grad_rows, grad_columns, workspace,
           parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const decltype(&pyramid_gate_backward_cpu) pyramid_gate_backward = &backward;
}

}  // namespace mffpa
