// Outlook attention on the CPU, compiled once per instruction set. One pixel and head at a time:
// softmax of its rows, folded into one (2K-1)^2 kernel (see outlook_window.h), applied to the values.
#include "cpu/outlook_attention_kernel.h"

#include "cpu/simd.h"
#include "outlook_window.h"

namespace mffpa {
namespace {

constexpr int kMaxKernel = 15;  // checked by the bridge; bounds the arrays below
constexpr int kMaxElements = kMaxKernel * kMaxKernel;
constexpr int kMaxOffsets = (2 * kMaxKernel - 1) * (2 * kMaxKernel - 1);
constexpr std::int64_t kPixelsPerTask = 32;

// The logit rows that feed one pixel, along both axes.
struct Rows {
  int count;
  std::int64_t start[kMaxElements];  // of row (q, i), in elements from the batch entry's first logit, head 0
  int corner[kMaxElements];          // where the row's j = 0 lands among the (2K-1)^2 offsets
  ElementRange touched_y, touched_x;  // offsets that some row reaches, counted from -(K-1)
};

// K is the kernel size where it is known at compile time, so that the loops over 3 x 3 unroll; 0 where it is not.
template <class T_, int K>
struct Problem {
  using T = T_;
  using A = Accumulator<T>;
  OutlookShape s;
  A scale;
  const T *value, *logits, *mask;
  std::int64_t channels, logit_channels;

  Problem(const OutlookShape& shape, double softmax_scale, const void* v, const void* a, const void* m)
      : s(shape), scale(A(softmax_scale)), value(static_cast<const T*>(v)), logits(static_cast<const T*>(a)),
        mask(static_cast<const T*>(m)), channels(shape.heads * shape.head_dim),
        logit_channels(shape.heads * elements() * elements()) {}

  MFFPA_INLINE int kernel() const { return K ? K : int(s.kernel_size); }
  MFFPA_INLINE int elements() const { return kernel() * kernel(); }    // K^2
  MFFPA_INLINE int side() const { return 2 * kernel() - 1; }           // of the collapsed kernel
  MFFPA_INLINE int offsets() const { return side() * side(); }         // (2K-1)^2
  std::int64_t pixels() const { return s.batch * s.height * s.width; }

  Rows rows_of(std::int64_t y, std::int64_t x) const {
    Rows rows;
    rows.count = 0;
    const ElementRange ys = elements_covering(y, s.padding, s.stride, kernel(), s.grid_height);
    const ElementRange xs = elements_covering(x, s.padding, s.stride, kernel(), s.grid_width);
    rows.touched_y = {kernel() - 1 - ys.last, 2 * kernel() - 2 - ys.first};
    rows.touched_x = {kernel() - 1 - xs.last, 2 * kernel() - 2 - xs.first};
    for (std::int64_t iy = ys.first; iy <= ys.last; iy += s.stride)
      for (std::int64_t ix = xs.first; ix <= xs.last; ix += s.stride) {
        const std::int64_t qy = (y + s.padding - iy) / s.stride, qx = (x + s.padding - ix) / s.stride;
        rows.start[rows.count] = (qy * s.grid_width + qx) * logit_channels + (iy * kernel() + ix) * elements();
        rows.corner[rows.count++] = int((kernel() - 1 - iy) * side() + (kernel() - 1 - ix));
      }
    // A pixel between or behind the windows: the ranges above would lie outside the (2K-1)^2 offsets.
    if (rows.count == 0) rows.touched_y = rows.touched_x = {0, -1};
    return rows;
  }
};

// Up to kLanes rows side by side: at[j][lane] is element j of row `lane`, so that maximum and sum over j need no
// horizontal step. Lanes past the rows' count keep an earlier row, or 0, and are never stored.
template <class A>
struct alignas(kVectorBytes) RowBlock {
  A at[kMaxElements][kLanes<A>];
  MFFPA_INLINE Vector<A> column(int j) const { return load(at[j]); }
  MFFPA_INLINE void set_column(int j, Vector<A> v) { store(at[j], v); }
  MFFPA_INLINE explicit RowBlock(int elements) {
    for (int j = 0; j < elements; ++j) set_column(j, Vector<A>{});
  }
};

// Softmax of up to kLanes rows at once.
template <class T, class A = Accumulator<T>>
MFFPA_INLINE void softmax_rows(const T* logits, const std::int64_t* start, int count, int elements, A scale,
                               RowBlock<A>& weight) {
  for (int lane = 0; lane < count; ++lane) {
    const T* row = logits + start[lane];
    for (int j = 0; j < elements; ++j) weight.at[j][lane] = to_accumulator(row[j]);
  }
  Vector<A> largest = weight.column(0) * scale;
  for (int j = 1; j < elements; ++j) largest = vector_max<A>(largest, weight.column(j) * scale);
  Vector<A> sum{};
  for (int j = 0; j < elements; ++j) {
    const Vector<A> power = exp_nonpositive(weight.column(j) * scale - largest);
    sum += power;
    weight.set_column(j, power);
  }
  const Vector<A> inverse = broadcast(A(1)) / sum;
  for (int j = 0; j < elements; ++j) weight.set_column(j, weight.column(j) * inverse);
}

// The offsets at which a pixel's collapsed kernel is read, and where the pixels that they weight lie.
struct Offsets {
  int count = 0;
  int index[kMaxOffsets];           // into the (2K-1)^2 weights
  std::int64_t shift[kMaxOffsets];  // in pixels
  MFFPA_INLINE void add(int d, std::int64_t pixels) {
    index[count] = d;
    shift[count++] = pixels;
  }
};

// out[0..kVectors) = sum over the offsets of weights[index] * (base + shift * channels)[0..kVectors)
template <class T, class A, int kVectors>
MFFPA_INLINE void weighted_block(const T* base, std::int64_t channels, const Offsets& offsets, const A* weights,
                                 T* out) {
  Vector<A> sum[kVectors] = {};
  for (int t = 0; t < offsets.count; ++t) {
    const T* from = base + offsets.shift[t] * channels;
    const Vector<A> w = broadcast(weights[offsets.index[t]]);
    for (int k = 0; k < kVectors; ++k) sum[k] += w * load(from + k * kLanes<A>);
  }
  for (int k = 0; k < kVectors; ++k) store(out + k * kLanes<A>, sum[k]);
}

template <class T, class A = Accumulator<T>>
MFFPA_INLINE void weighted_sum(const T* base, std::int64_t channels, const Offsets& offsets, const A* weights,
                               std::int64_t length, T* out) {
  std::int64_t c = 0;
  for (; c + 4 * kLanes<A> <= length; c += 4 * kLanes<A>)
    weighted_block<T, A, 4>(base + c, channels, offsets, weights, out + c);
  for (; c + kLanes<A> <= length; c += kLanes<A>)
    weighted_block<T, A, 1>(base + c, channels, offsets, weights, out + c);
  for (; c < length; ++c) {
    A sum = 0;
    for (int t = 0; t < offsets.count; ++t)
      sum += weights[offsets.index[t]] * to_accumulator(base[offsets.shift[t] * channels + c]);
    out[c] = from_accumulator<T>(sum);
  }
}

template <class T, class A = Accumulator<T>>
MFFPA_INLINE A dot(const T* a, const T* b, std::int64_t length) {
  Vector<A> sum{};
  std::int64_t c = 0;
  for (; c + kLanes<A> <= length; c += kLanes<A>) sum += load(a + c) * load(b + c);
  A total = horizontal_sum<A>(sum);
  for (; c < length; ++c) total += to_accumulator(a[c]) * to_accumulator(b[c]);
  return total;
}

// Calls body(b, y, x, pixel) for every pixel, split over threads.
template <class P, class Body>
void for_each_pixel(const P& problem, ParallelFor parallel, Body body) {
  const OutlookShape& s = problem.s;
  parallel_for(parallel, problem.pixels(), kPixelsPerTask, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t x = begin % s.width, y = begin / s.width % s.height, b = begin / s.width / s.height;
    for (std::int64_t pixel = begin; pixel < end; ++pixel) {
      body(b, y, x, pixel);
      if (++x == s.width) {
        x = 0;
        if (++y == s.height) y = 0, ++b;
      }
    }
  });
}

// Adds the rows' softmax (times mask) into kernel[offsets], in row order.
template <class P, class A = typename P::A>
MFFPA_INLINE void collapse(const P& problem, const Rows& rows, std::int64_t head_start, RowBlock<A>& weight,
                           A* kernel) {
  using T = typename P::T;
  for (int o = 0; o < problem.offsets(); ++o) kernel[o] = 0;
  for (int first = 0; first < rows.count; first += kLanes<A>) {
    const int count = rows.count - first < kLanes<A> ? rows.count - first : kLanes<A>;
    softmax_rows<T>(problem.logits + head_start, rows.start + first, count, problem.elements(), problem.scale, weight);
    for (int lane = 0; lane < count; ++lane) {
      const T* keep = problem.mask ? problem.mask + head_start + rows.start[first + lane] : nullptr;
      A* at = kernel + rows.corner[first + lane];
      for (int jy = 0, j = 0; jy < problem.kernel(); ++jy, at += problem.side() - problem.kernel())
        for (int jx = 0; jx < problem.kernel(); ++jx, ++j, ++at)
          *at += keep ? weight.at[j][lane] * to_accumulator(keep[j]) : weight.at[j][lane];
    }
  }
}

// The offsets (dy, dx) = sign * (d - (K-1)) that stay inside the image, with d in the given ranges.
template <class P>
MFFPA_INLINE void offsets_inside(const P& problem, std::int64_t y, std::int64_t x, int sign, ElementRange rows_d,
                                 ElementRange columns_d, Offsets& offsets) {
  const std::int64_t reach = problem.kernel() - 1;
  for (std::int64_t dy = rows_d.first; dy <= rows_d.last; ++dy) {
    const std::int64_t oy = sign * (dy - reach);
    if (y + oy < 0 || y + oy >= problem.s.height) continue;
    for (std::int64_t dx = columns_d.first; dx <= columns_d.last; ++dx) {
      const std::int64_t ox = sign * (dx - reach);
      if (x + ox < 0 || x + ox >= problem.s.width) continue;
      offsets.add(int(dy * problem.side() + dx), oy * problem.s.width + ox);
    }
  }
}

template <class P>
void forward(const P& problem, typename P::T* output, ParallelFor parallel) {
  using A = typename P::A;
  const OutlookShape& s = problem.s;
  const std::int64_t grid = s.grid_height * s.grid_width;
  for_each_pixel(problem, parallel, [&](std::int64_t b, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    const Rows rows = problem.rows_of(y, x);
    Offsets offsets;
    offsets_inside(problem, y, x, 1, rows.touched_y, rows.touched_x, offsets);
    RowBlock<A> weight(problem.elements());
    A kernel[kMaxOffsets];
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t head_start =
          b * grid * problem.logit_channels + head * problem.elements() * problem.elements();
      collapse(problem, rows, head_start, weight, kernel);
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      weighted_sum(problem.value + at, problem.channels, offsets, kernel, s.head_dim, output + at);
    }
  });
}

// Per pixel: the collapsed kernel (kept in `kernels` for grad_value) and the gradient of the rows that feed it.
template <class P, class T = typename P::T, class A = typename P::A>
void backward_logits(const P& problem, const T* grad_output, T* grad_logits, A* kernels, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  const std::int64_t grid = s.grid_height * s.grid_width;
  for_each_pixel(problem, parallel, [&](std::int64_t b, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    const Rows rows = problem.rows_of(y, x);
    Offsets offsets;
    offsets_inside(problem, y, x, 1, rows.touched_y, rows.touched_x, offsets);
    A grad_kernel[kMaxOffsets];
    for (int d = 0; d < problem.offsets(); ++d) grad_kernel[d] = 0;  // outside the image the value is a constant 0
    RowBlock<A> weight(problem.elements()), grad_weight(problem.elements());
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t head_start =
          b * grid * problem.logit_channels + head * problem.elements() * problem.elements();
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      for (int t = 0; t < offsets.count; ++t)
        grad_kernel[offsets.index[t]] =
            dot(grad_output + at, problem.value + at + offsets.shift[t] * problem.channels, s.head_dim);
      A* kernel = kernels + (pixel * s.heads + head) * problem.offsets();
      for (int d = 0; d < problem.offsets(); ++d) kernel[d] = 0;
      for (int first = 0; first < rows.count; first += kLanes<A>) {
        const int count = rows.count - first < kLanes<A> ? rows.count - first : kLanes<A>;
        softmax_rows<T>(problem.logits + head_start, rows.start + first, count, problem.elements(), problem.scale,
                        weight);
        for (int lane = 0; lane < count; ++lane) {
          const T* keep = problem.mask ? problem.mask + head_start + rows.start[first + lane] : nullptr;
          int d = rows.corner[first + lane];
          for (int jy = 0, j = 0; jy < problem.kernel(); ++jy, d += problem.side() - problem.kernel())
            for (int jx = 0; jx < problem.kernel(); ++jx, ++j, ++d) {
              const A factor = keep ? to_accumulator(keep[j]) : A(1);
              kernel[d] += weight.at[j][lane] * factor;
              grad_weight.at[j][lane] = grad_kernel[d] * factor;
            }
        }
        Vector<A> mean{};  // softmax backward: scale * s_j * (g_j - sum_k s_k g_k)
        for (int j = 0; j < problem.elements(); ++j) mean += weight.column(j) * grad_weight.column(j);
        for (int j = 0; j < problem.elements(); ++j)
          weight.set_column(j, weight.column(j) * (grad_weight.column(j) - mean) * problem.scale);
        for (int lane = 0; lane < count; ++lane) {
          T* to = grad_logits + head_start + rows.start[first + lane];
          for (int j = 0; j < problem.elements(); ++j) to[j] = from_accumulator<T>(weight.at[j][lane]);
        }
      }
    }
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

template <class P, class T = typename P::T, class A = typename P::A>
void backward_value(const P& problem, const T* grad_output, const A* kernels, T* grad_value, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  for_each_pixel(problem, parallel, [&](std::int64_t, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    Offsets offsets;  // the pixels that reach this one by offset d lie at -d
    offsets_inside(problem, y, x, -1, {0, problem.side() - 1}, {0, problem.side() - 1}, offsets);
    A weights[kMaxOffsets];
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      for (int t = 0; t < offsets.count; ++t) {
        const std::int64_t from = pixel + offsets.shift[t];
        weights[offsets.index[t]] = kernels[(from * s.heads + head) * problem.offsets() + offsets.index[t]];
      }
      weighted_sum(grad_output + at, problem.channels, offsets, weights, s.head_dim, grad_value + at);
    }
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
  switch (dtype) {
    case DType::kFloat32: return with_kernel_size<float>(s, scale, value, logits, mask, body);
    case DType::kFloat64: return with_kernel_size<double>(s, scale, value, logits, mask, body);
    case DType::kFloat16: return with_kernel_size<Half>(s, scale, value, logits, mask, body);
    case DType::kBFloat16: return with_kernel_size<BFloat16>(s, scale, value, logits, mask, body);
  }
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
