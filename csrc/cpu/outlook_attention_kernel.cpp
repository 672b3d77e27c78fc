// Outlook attention on the CPU, compiled once per instruction set. One pixel and head at a time:
// softmax of its rows, folded into one (2K-1)^2 kernel (see outlook_window.h), applied to the values.
#include "cpu/outlook_attention_kernel.h"

#include <cstring>
#include <type_traits>

#include "cpu/outlook_rows.h"
#include "cpu/outlook_softmax.h"
#include "cpu/simd.h"

namespace mffpa {
namespace {

constexpr std::int64_t kPixelsPerTask = 32;

// out[0..kVectors) = sum over the neighbours of weights[where] * (base + shift * channels)[0..kVectors)
template <class T, class A, int kVectors, class Where>
MFFPA_INLINE void weighted_block(const T* base, std::int64_t channels, const Neighbourhood& near, const A* weights,
                                 const Where* where, T* out) {
  Vector<A> sum[kVectors] = {};
  for (int t = 0; t < near.pixels; ++t) {
    const T* from = base + near.shift[t] * channels;
    const Vector<A> w = broadcast(weights[where[t]]);
    for (int k = 0; k < kVectors; ++k) sum[k] += w * load(from + k * kLanes<A>);
  }
  for (int k = 0; k < kVectors; ++k) store(out + k * kLanes<A>, sum[k]);
}

template <class T, class Where, class A = Accumulator<T>>
MFFPA_INLINE void weighted_sum(const T* base, std::int64_t channels, const Neighbourhood& near, const A* weights,
                               const Where* where, std::int64_t length, T* out) {
  constexpr int L = kLanes<A>;
  std::int64_t c = 0;
  for (; c + 4 * L <= length; c += 4 * L)
    weighted_block<T, A, 4>(base + c, channels, near, weights, where, out + c);
  for (; c + 2 * L <= length; c += 2 * L)
    weighted_block<T, A, 2>(base + c, channels, near, weights, where, out + c);
  for (; c + L <= length; c += L) weighted_block<T, A, 1>(base + c, channels, near, weights, where, out + c);
  for (; c < length; ++c) {
    A sum = 0;
    for (int t = 0; t < near.pixels; ++t)
      sum += weights[where[t]] * to_accumulator(base[near.shift[t] * channels + c]);
    out[c] = from_accumulator<T>(sum);
  }
}

// results[k] = dot product of a and b[k]
template <class T, class A = Accumulator<T>>
MFFPA_INLINE void four_dots(const T* a, const T* const (&b)[4], std::int64_t length, A (&results)[4]) {
  Vector<A> sum[4] = {};
  std::int64_t c = 0;
  for (; c + kLanes<A> <= length; c += kLanes<A>) {
    const Vector<A> x = load(a + c);
    for (int k = 0; k < 4; ++k) sum[k] += x * load(b[k] + c);
  }
  horizontal_sums<4, A>(sum, results);
  for (; c < length; ++c)
    for (int k = 0; k < 4; ++k) results[k] += to_accumulator(a[c]) * to_accumulator(b[k][c]);
}

// grad_kernel[offset] = <grad, value of the neighbour at offset>
template <class T, class A = Accumulator<T>>
MFFPA_INLINE void kernel_gradient(const T* grad, const T* value, std::int64_t channels, const Neighbourhood& near,
                                  std::int64_t length, A* grad_kernel) {
  for (int first = 0; first < near.pixels; first += 4) {
    const int count = near.pixels - first < 4 ? near.pixels - first : 4;
    const T* from[4];
    for (int k = 0; k < 4; ++k) from[k] = value + near.shift[first + (k < count ? k : 0)] * channels;
    A results[4];
    four_dots(grad, from, length, results);
    for (int k = 0; k < count; ++k) grad_kernel[near.offset[first + k]] = results[k];
  }
}

// Calls body(neighbourhood, pixel, b) for every pixel from begin to end.
template <class P, class Body>
MFFPA_INLINE void for_each_pixel(const P& problem, std::int64_t begin, std::int64_t end, Body body) {
  const OutlookShape& s = problem.s;
  std::int64_t pixel = begin;
  while (pixel < end) {
    const std::int64_t line = pixel / s.width, y = line % s.height, b = line / s.height;
    const AxisPosition at_y(y, s.height, s.grid_height, s);
    for (std::int64_t x = pixel % s.width; x < s.width && pixel < end; ++x, ++pixel)
      body(Neighbourhood(problem, at_y, AxisPosition(x, s.width, s.grid_width, s)), pixel, b);
  }
}

// What a thread works with: the heads of one pixel, some at a time.
template <class P>
struct Work {
  using T = typename P::T;
  using A = typename P::A;
  using RowSet = RowsOf<T, P::kKernel>;
  using Row = typename RowSet::Row;
  const RowSet rows;
  PaddedRows<RowSet> padded;
  alignas(kVectorBytes) A kernels[PaddedRows<RowSet>::kHeads][P::kMaxKernelLanes];
  explicit Work(const P& problem) : rows(problem) {}

  // Calls body(first_head, heads).
  template <class Body>
  MFFPA_INLINE void for_each_heads(const P& problem, Body body) {
    constexpr std::int64_t most = PaddedRows<RowSet>::kHeads;
    for (std::int64_t head = 0; head < problem.s.heads; head += most)
      body(head, int(problem.s.heads - head < most ? problem.s.heads - head : most));
  }
};

template <class P>
void forward(const P& problem, typename P::T* output, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  parallel_for(parallel, problem.pixels(), kPixelsPerTask, [&](std::int64_t begin, std::int64_t end) {
    Work<P> work(problem);
    for_each_pixel(problem, begin, end, [&](const Neighbourhood& near, std::int64_t pixel, std::int64_t b) {
      prefetch_window<0>(problem, problem.logits, b, near.last_window);
      work.for_each_heads(problem, [&](std::int64_t first, int heads) {
        collapse(problem, work.rows, near, problem.first_logit(b, first), heads, work.padded, work.kernels,
                 [](auto&...) {});
        for (int head = 0; head < heads; ++head) {
          const std::int64_t at = pixel * problem.channels + (first + head) * s.head_dim;
          weighted_sum(problem.value + at, problem.channels, near, work.kernels[head], near.offset, s.head_dim,
                       output + at);
        }
      });
    });
  });
}

// Per pixel: the collapsed kernel (kept in `kernels` for grad_value) and the gradient of the rows that feed it.
template <class P, class T = typename P::T, class A = typename P::A>
void backward_logits(const P& problem, const T* grad_output, T* grad_logits, A* kernels, ParallelFor parallel) {
  using Row = typename Work<P>::Row;
  const OutlookShape& s = problem.s;
  parallel_for(parallel, problem.pixels(), kPixelsPerTask, [&](std::int64_t begin, std::int64_t end) {
    Work<P> work(problem);
    const auto& rows = work.rows;
    alignas(kVectorBytes) A grad_kernels[PaddedRows<typename Work<P>::RowSet>::kHeads][P::kMaxKernelLanes];
    for_each_pixel(problem, begin, end, [&](const Neighbourhood& near, std::int64_t pixel, std::int64_t b) {
      prefetch_window<0>(problem, problem.logits, b, near.last_window);
      prefetch_window<1>(problem, grad_logits, b, near.last_window);
      for (auto& kernel : grad_kernels)
        for (A& g : kernel) g = 0;  // outside the image the value is a constant 0
      work.for_each_heads(problem, [&](std::int64_t first, int heads) {
        const std::int64_t first_logit = problem.first_logit(b, first);
        for (int head = 0; head < heads; ++head) {
          const std::int64_t at = pixel * problem.channels + (first + head) * s.head_dim;
          kernel_gradient(grad_output + at, problem.value + at, problem.channels, near, s.head_dim,
                          grad_kernels[head]);
        }
        collapse(problem, rows, near, first_logit, heads, work.padded, work.kernels,
                 [&]<int N>(const HeadRow (&which)[N], const Row (&weight)[N], const Row (&keep)[N]) {
          // softmax backward: scale * s_j * (g_j - sum_k s_k g_k)
          Row grad[N];
          Vector<A> products[N];
          for (int k = 0; k < N; ++k) {
            rows.collect(grad_kernels[which[k].head] + near.corner[which[k].row], grad[k]);
            products[k] = Vector<A>{};
            for (int v = 0; v < rows.vectors(); ++v) {
              grad[k][v] *= keep[k][v];
              products[k] += weight[k][v] * grad[k][v];
            }
          }
          A mean[N];
          horizontal_sums<N, A>(products, mean);
          for (int k = 0; k < N; ++k) {
            for (int v = 0; v < rows.vectors(); ++v)
              grad[k][v] = weight[k][v] * (grad[k][v] - broadcast(mean[k])) * problem.scale;
            const std::int64_t head_start = which[k].head * problem.elements() * problem.elements();
            rows.store_row(grad_logits + first_logit + head_start + near.start[which[k].row], grad[k]);
          }
        });
        for (int head = 0; head < heads; ++head) {
          A* kept = kernels + (pixel * s.heads + first + head) * problem.offsets();
          for (int d = 0; d < problem.offsets(); ++d) kept[d] = work.kernels[head][d];
        }
      });
    });
  });
}

// Rows whose pixel lies outside the image feed nothing: their gradient is 0.
template <class P, class T = typename P::T>
void zero_unused_rows(const P& problem, T* grad_logits, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  const std::int64_t windows = s.batch * s.grid_height * s.grid_width;
  parallel_for(parallel, windows, 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t window = begin; window < end; ++window) {
      const std::int64_t x0 = window % s.grid_width * s.stride - s.padding;
      const std::int64_t y0 = window / s.grid_width % s.grid_height * s.stride - s.padding;
      if (x0 >= 0 && y0 >= 0 && x0 + problem.kernel() <= s.width && y0 + problem.kernel() <= s.height) continue;
      for (int i = 0; i < problem.elements(); ++i) {
        const std::int64_t y = y0 + i / problem.kernel(), x = x0 + i % problem.kernel();
        if (y >= 0 && y < s.height && x >= 0 && x < s.width) continue;
        for (std::int64_t head = 0; head < s.heads; ++head) {
          T* row = grad_logits + window * problem.logit_channels + (head * problem.elements() + i) * problem.elements();
          std::memset(static_cast<void*>(row), 0, sizeof(T) * problem.elements());
        }
      }
    }
  });
}

// Sharing a window is mutual: the pixels that this one feeds are its neighbours, and it lies at the opposite offset.
template <class P, class T = typename P::T, class A = typename P::A>
void backward_value(const P& problem, const T* grad_output, const A* kernels, T* grad_value, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  parallel_for(parallel, problem.pixels(), kPixelsPerTask, [&](std::int64_t begin, std::int64_t end) {
    for_each_pixel(problem, begin, end, [&](const Neighbourhood& near, std::int64_t pixel, std::int64_t) {
      std::int64_t weight[P::kMaxOffsets];
      for (int t = 0; t < near.pixels; ++t)
        weight[t] = near.shift[t] * s.heads * problem.offsets() + problem.offsets() - 1 - near.offset[t];
      for (std::int64_t head = 0; head < s.heads; ++head) {
        const std::int64_t at = pixel * problem.channels + head * s.head_dim;
        weighted_sum(grad_output + at, problem.channels, near, kernels + (pixel * s.heads + head) * problem.offsets(),
                     weight, s.head_dim, grad_value + at);
      }
    });
  });
}

// Calls body(problem) with the Problem type for the dtype and kernel size.
template <class T, class Body>
void with_kernel_size(const OutlookShape& s, double scale, const void* value, const void* logits, const void* mask,
                      Body body) {
  if (s.kernel_size == 3) return body(Problem<T, 3>(s, scale, value, logits, mask));
  body(Problem<T, 0>(s, scale, value, logits, mask));
}

template <class Body>
void with_problem(DType dtype, const OutlookShape& s, double scale, const void* value, const void* logits,
                  const void* mask, Body body) {
  with_element_type(dtype, [&]<class T>() { with_kernel_size<T>(s, scale, value, logits, mask, body); });
}

void forward_any(DType dtype, const OutlookShape& s, double scale, const void* value, const void* logits,
                 const void* mask, void* output, ParallelFor parallel) {
  with_problem(dtype, s, scale, value, logits, mask, [&](const auto& problem) {
    using T = typename std::remove_cvref_t<decltype(problem)>::T;
    forward(problem, static_cast<T*>(output), parallel);
  });
}

void backward_any(DType dtype, const OutlookShape& s, double scale, const void* value, const void* logits,
                  const void* mask, const void* grad_output, void* grad_value, void* grad_logits, void* workspace,
                  ParallelFor parallel) {
  with_problem(dtype, s, scale, value, logits, mask, [&](const auto& problem) {
    using P = std::remove_cvref_t<decltype(problem)>;
    using T = typename P::T;
    auto* kernels = static_cast<typename P::A*>(workspace);
    const auto* dy = static_cast<const T*>(grad_output);
    zero_unused_rows(problem, static_cast<T*>(grad_logits), parallel);
    backward_logits(problem, dy, static_cast<T*>(grad_logits), kernels, parallel);
    backward_value(problem, dy, kernels, static_cast<T*>(grad_value), parallel);
  });
}

}  // namespace

namespace MFFPA_ISA {
const OutlookKernels outlook_kernels{&forward_any, &backward_any};
}

}  // namespace mffpa
