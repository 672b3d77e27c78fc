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
};

template <class T>
struct Problem {
  using A = Accumulator<T>;
  OutlookShape s;
  A scale;
  const T *value, *logits, *mask;
  int kernel, elements, side, offsets;  // K, K^2, 2K-1, (2K-1)^2
  std::int64_t channels, logit_channels;

  Problem(const OutlookShape& shape, double softmax_scale, const void* v, const void* a, const void* m)
      : s(shape), scale(A(softmax_scale)), value(static_cast<const T*>(v)), logits(static_cast<const T*>(a)),
        mask(static_cast<const T*>(m)), kernel(int(shape.kernel_size)), elements(kernel * kernel),
        side(2 * kernel - 1), offsets(side * side), channels(shape.heads * shape.head_dim),
        logit_channels(shape.heads * elements * elements) {}

  std::int64_t pixels() const { return s.batch * s.height * s.width; }

  Rows rows_of(std::int64_t y, std::int64_t x) const {
    Rows rows;
    rows.count = 0;
    const ElementRange ys = elements_covering(y, s.padding, s.stride, kernel, s.grid_height);
    const ElementRange xs = elements_covering(x, s.padding, s.stride, kernel, s.grid_width);
    for (std::int64_t iy = ys.first; iy <= ys.last; iy += s.stride)
      for (std::int64_t ix = xs.first; ix <= xs.last; ix += s.stride) {
        const std::int64_t qy = (y + s.padding - iy) / s.stride, qx = (x + s.padding - ix) / s.stride;
        rows.start[rows.count] = (qy * s.grid_width + qx) * logit_channels + (iy * kernel + ix) * elements;
        rows.corner[rows.count++] = int((kernel - 1 - iy) * side + (kernel - 1 - ix));
      }
    return rows;
  }
};

// Softmax of up to kLanes rows at once: lane = row, so maximum and sum need no horizontal step. weight[j] holds
// element j of every row. Lanes past `count` repeat row 0 and are never read.
template <class T, class A = Accumulator<T>>
MFFPA_INLINE void softmax_rows(const T* logits, const std::int64_t* start, int count, int elements, A scale,
                               Vector<A>* weight) {
  const T* row[kLanes<A>];
  for (int lane = 0; lane < kLanes<A>; ++lane) row[lane] = logits + start[lane < count ? lane : 0];
  Vector<A> largest;
  for (int j = 0; j < elements; ++j) {
    Vector<A> x;
    for (int lane = 0; lane < kLanes<A>; ++lane) x[lane] = to_accumulator(row[lane][j]);
    weight[j] = x * scale;
    largest = j == 0 ? weight[j] : vector_max<A>(largest, weight[j]);
  }
  Vector<A> sum{};
  for (int j = 0; j < elements; ++j) sum += weight[j] = exp_nonpositive(weight[j] - largest);
  const Vector<A> inverse = broadcast(A(1)) / sum;
  for (int j = 0; j < elements; ++j) weight[j] *= inverse;
}

template <class A>
struct Terms {  // sum of weight[t] * source[t], the sources being vectors of head_dim elements
  int count = 0;
  A weight[kMaxOffsets];
  std::int64_t source[kMaxOffsets];
  MFFPA_INLINE void add(A w, std::int64_t at) {
    weight[count] = w;
    source[count++] = at;
  }
};

template <class T, class A, int kVectors>
MFFPA_INLINE void weighted_block(const T* base, const Terms<A>& terms, T* out) {
  Vector<A> sum[kVectors] = {};
  for (int t = 0; t < terms.count; ++t) {
    const T* from = base + terms.source[t];
    const Vector<A> w = broadcast(terms.weight[t]);
    for (int k = 0; k < kVectors; ++k) sum[k] += w * load(from + k * kLanes<A>);
  }
  for (int k = 0; k < kVectors; ++k) store(out + k * kLanes<A>, sum[k]);
}

template <class T, class A = Accumulator<T>>
MFFPA_INLINE void weighted_sum(const T* base, const Terms<A>& terms, std::int64_t length, T* out) {
  std::int64_t c = 0;
  for (; c + 4 * kLanes<A> <= length; c += 4 * kLanes<A>) weighted_block<T, A, 4>(base + c, terms, out + c);
  for (; c + kLanes<A> <= length; c += kLanes<A>) weighted_block<T, A, 1>(base + c, terms, out + c);
  for (; c < length; ++c) {
    A sum = 0;
    for (int t = 0; t < terms.count; ++t) sum += terms.weight[t] * to_accumulator(base[terms.source[t] + c]);
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
template <class T, class Body>
void for_each_pixel(const Problem<T>& problem, ParallelFor parallel, Body body) {
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
template <class T, class A = Accumulator<T>>
MFFPA_INLINE void collapse(const Problem<T>& problem, const Rows& rows, std::int64_t head_start, A* kernel) {
  Vector<A> weight[kMaxElements];
  for (int o = 0; o < problem.offsets; ++o) kernel[o] = 0;
  for (int first = 0; first < rows.count; first += kLanes<A>) {
    const int count = rows.count - first < kLanes<A> ? rows.count - first : kLanes<A>;
    softmax_rows<T>(problem.logits + head_start, rows.start + first, count, problem.elements, problem.scale, weight);
    for (int lane = 0; lane < count; ++lane) {
      const T* keep = problem.mask ? problem.mask + head_start + rows.start[first + lane] : nullptr;
      A* at = kernel + rows.corner[first + lane];
      for (int jy = 0, j = 0; jy < problem.kernel; ++jy, at += problem.side - problem.kernel)
        for (int jx = 0; jx < problem.kernel; ++jx, ++j, ++at)
          *at += keep ? weight[j][lane] * to_accumulator(keep[j]) : weight[j][lane];
    }
  }
}

// Calls body(offset index, pixel shift) for the offsets (dy, dx) = sign * (d - (K-1)) that stay inside the image.
template <class T, class Body>
MFFPA_INLINE void for_each_offset(const Problem<T>& problem, std::int64_t y, std::int64_t x, int sign, Body body) {
  const int reach = problem.kernel - 1;
  for (int dy = 0, d = 0; dy < problem.side; ++dy)
    for (int dx = 0; dx < problem.side; ++dx, ++d) {
      const std::int64_t oy = sign * (dy - reach), ox = sign * (dx - reach);
      if (y + oy < 0 || y + oy >= problem.s.height || x + ox < 0 || x + ox >= problem.s.width) continue;
      body(d, oy * problem.s.width + ox);
    }
}

template <class T>
void forward(const Problem<T>& problem, T* output, ParallelFor parallel) {
  using A = Accumulator<T>;
  const OutlookShape& s = problem.s;
  const std::int64_t grid = s.grid_height * s.grid_width;
  for_each_pixel(problem, parallel, [&](std::int64_t b, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    const Rows rows = problem.rows_of(y, x);
    A kernel[kMaxOffsets];
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t head_start =
          b * grid * problem.logit_channels + head * problem.elements * problem.elements;
      collapse(problem, rows, head_start, kernel);
      Terms<A> terms;
      for_each_offset(problem, y, x, 1, [&](int d, std::int64_t shift) {
        if (kernel[d] != 0) terms.add(kernel[d], shift * problem.channels);
      });
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      weighted_sum(problem.value + at, terms, s.head_dim, output + at);
    }
  });
}

// Per pixel: the collapsed kernel (kept in `kernels` for grad_value) and the gradient of the rows that feed it.
template <class T>
void backward_logits(const Problem<T>& problem, const T* grad_output, T* grad_logits, Accumulator<T>* kernels,
                     ParallelFor parallel) {
  using A = Accumulator<T>;
  const OutlookShape& s = problem.s;
  const std::int64_t grid = s.grid_height * s.grid_width;
  for_each_pixel(problem, parallel, [&](std::int64_t b, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    const Rows rows = problem.rows_of(y, x);
    A grad_kernel[kMaxOffsets];
    Vector<A> weight[kMaxElements], grad_weight[kMaxElements];
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t head_start =
          b * grid * problem.logit_channels + head * problem.elements * problem.elements;
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      for (int d = 0; d < problem.offsets; ++d) grad_kernel[d] = 0;  // outside the image the value is a constant 0
      for_each_offset(problem, y, x, 1, [&](int d, std::int64_t shift) {
        grad_kernel[d] = dot(grad_output + at, problem.value + at + shift * problem.channels, s.head_dim);
      });
      A* kernel = kernels + (pixel * s.heads + head) * problem.offsets;
      for (int d = 0; d < problem.offsets; ++d) kernel[d] = 0;
      for (int first = 0; first < rows.count; first += kLanes<A>) {
        const int count = rows.count - first < kLanes<A> ? rows.count - first : kLanes<A>;
        softmax_rows<T>(problem.logits + head_start, rows.start + first, count, problem.elements, problem.scale,
                        weight);
        for (int j = 0; j < problem.elements; ++j) grad_weight[j] = Vector<A>{};  // the unused lanes stay finite
        for (int lane = 0; lane < count; ++lane) {
          const T* keep = problem.mask ? problem.mask + head_start + rows.start[first + lane] : nullptr;
          int d = rows.corner[first + lane];
          for (int jy = 0, j = 0; jy < problem.kernel; ++jy, d += problem.side - problem.kernel)
            for (int jx = 0; jx < problem.kernel; ++jx, ++j, ++d) {
              const A factor = keep ? to_accumulator(keep[j]) : A(1);
              kernel[d] += weight[j][lane] * factor;
              grad_weight[j][lane] = grad_kernel[d] * factor;
            }
        }
        Vector<A> mean{};  // softmax backward: scale * s_j * (g_j - sum_k s_k g_k)
        for (int j = 0; j < problem.elements; ++j) mean += weight[j] * grad_weight[j];
        for (int j = 0; j < problem.elements; ++j)
          weight[j] *= (grad_weight[j] - mean) * problem.scale;
        for (int lane = 0; lane < count; ++lane) {
          T* to = grad_logits + head_start + rows.start[first + lane];
          for (int j = 0; j < problem.elements; ++j) to[j] = from_accumulator<T>(weight[j][lane]);
        }
      }
    }
  });
}

// Rows whose pixel lies outside the image feed nothing: their gradient is 0.
template <class T>
void zero_unused_rows(const Problem<T>& problem, T* grad_logits, ParallelFor parallel) {
  const OutlookShape& s = problem.s;
  const std::int64_t windows = s.batch * s.grid_height * s.grid_width;
  parallel_for(parallel, windows, 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t window = begin; window < end; ++window) {
      const std::int64_t x0 = window % s.grid_width * s.stride - s.padding;
      const std::int64_t y0 = window / s.grid_width % s.grid_height * s.stride - s.padding;
      if (x0 >= 0 && y0 >= 0 && x0 + problem.kernel <= s.width && y0 + problem.kernel <= s.height) continue;
      for (int i = 0; i < problem.elements; ++i) {
        const std::int64_t y = y0 + i / problem.kernel, x = x0 + i % problem.kernel;
        if (y >= 0 && y < s.height && x >= 0 && x < s.width) continue;
        for (std::int64_t head = 0; head < s.heads; ++head) {
          T* row = grad_logits + window * problem.logit_channels + (head * problem.elements + i) * problem.elements;
          std::memset(static_cast<void*>(row), 0, sizeof(T) * problem.elements);
        }
      }
    }
  });
}

template <class T>
void backward_value(const Problem<T>& problem, const T* grad_output, const Accumulator<T>* kernels, T* grad_value,
                    ParallelFor parallel) {
  using A = Accumulator<T>;
  const OutlookShape& s = problem.s;
  for_each_pixel(problem, parallel, [&](std::int64_t, std::int64_t y, std::int64_t x, std::int64_t pixel) {
    for (std::int64_t head = 0; head < s.heads; ++head) {
      Terms<A> terms;
      for_each_offset(problem, y, x, -1, [&](int d, std::int64_t shift) {  // pixel + shift reaches here by offset d
        const A w = kernels[((pixel + shift) * s.heads + head) * problem.offsets + d];
        if (w != 0) terms.add(w, shift * problem.channels);
      });
      const std::int64_t at = pixel * problem.channels + head * s.head_dim;
      weighted_sum(grad_output + at, terms, s.head_dim, grad_value + at);
    }
  });
}

template <class T>
void run_backward(const Problem<T>& problem, const void* grad_output, void* grad_value, void* grad_logits,
                  void* workspace, ParallelFor parallel) {
  auto* kernels = static_cast<Accumulator<T>*>(workspace);
  const auto* dy = static_cast<const T*>(grad_output);
  zero_unused_rows(problem, static_cast<T*>(grad_logits), parallel);
  backward_logits(problem, dy, static_cast<T*>(grad_logits), kernels, parallel);
  backward_value(problem, dy, kernels, static_cast<T*>(grad_value), parallel);
}

void forward_any(DType dtype, const OutlookShape& s, double scale, const void* value, const void* logits,
                 const void* mask, void* output, ParallelFor parallel) {
  switch (dtype) {
    case DType::kFloat32:
      return forward(Problem<float>(s, scale, value, logits, mask), static_cast<float*>(output), parallel);
    case DType::kFloat64:
      return forward(Problem<double>(s, scale, value, logits, mask), static_cast<double*>(output), parallel);
    case DType::kFloat16:
      return forward(Problem<Half>(s, scale, value, logits, mask), static_cast<Half*>(output), parallel);
    case DType::kBFloat16:
      return forward(Problem<BFloat16>(s, scale, value, logits, mask), static_cast<BFloat16*>(output), parallel);
  }
}

void backward_any(DType dtype, const OutlookShape& s, double scale, const void* value, const void* logits,
                  const void* mask, const void* grad_output, void* grad_value, void* grad_logits, void* workspace,
                  ParallelFor parallel) {
  const auto run = [&](auto problem) {
    run_backward(problem, grad_output, grad_value, grad_logits, workspace, parallel);
  };
  switch (dtype) {
    case DType::kFloat32: return run(Problem<float>(s, scale, value, logits, mask));
    case DType::kFloat64: return run(Problem<double>(s, scale, value, logits, mask));
    case DType::kFloat16: return run(Problem<Half>(s, scale, value, logits, mask));
    case DType::kBFloat16: return run(Problem<BFloat16>(s, scale, value, logits, mask));
  }
}

}  // namespace

namespace MFFPA_ISA {
const OutlookKernels outlook_kernels{&forward_any, &backward_any};
}

}  // namespace mffpa
