// The geometry of the outlook kernels: which rows of logits feed a pixel, and which pixels it shares a window with.
// Included by outlook_attention_kernel.cpp alone, once per instruction set; see simd.h for the anonymous namespace.
#pragma once

#include "cpu/simd.h"
#include "outlook_attention.h"
#include "outlook_window.h"

namespace mffpa {
namespace {

constexpr int kMaxKernel = int(kMaxOutlookKernel);

// K is the kernel size where it is known at compile time, so that the loops over 3 x 3 unroll; 0 where it is not.
template <class T_, int K>
struct Problem {
  using T = T_;
  using A = Accumulator<T>;
  static constexpr int kKernel = K;
  static constexpr int kSize = K ? K : kMaxKernel;
  static constexpr int kMaxOffsets = (2 * kSize - 1) * (2 * kSize - 1);
  // A collapsed kernel in whole vectors; a row's run of lanes that starts at the last corner may reach behind that.
  static constexpr int kMaxKernelLanes = (kMaxOffsets + 2 * kLanes<A> - 1) / kLanes<A> * kLanes<A>;
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
  // Of a pixel's and head's row (q = 0, i = 0) in logits and mask.
  std::int64_t first_logit(std::int64_t b, std::int64_t head) const {
    return b * s.grid_height * s.grid_width * logit_channels + head * elements() * elements();
  }
};

// One pixel along one axis.
struct AxisPosition {
  ElementRange elements;  // i of the windows that cover it, and of the window
  std::int64_t window;    // that it is element `elements.first` of; each further i lies one window before
  int first_offset, last_offset;  // of the pixels that share a window with it, counted from -(K-1); inside the image

  AxisPosition(std::int64_t p, std::int64_t size, std::int64_t grid, const OutlookShape& s)
      : elements(elements_covering(p, s.padding, s.stride, s.kernel_size, grid)) {
    const std::int64_t reach = s.kernel_size - 1;
    window = (p + s.padding - elements.first) / s.stride;
    const bool covered = elements.first <= elements.last;
    // Windows that cover one pixel overlap or touch: their union has no gaps.
    const std::int64_t before = covered ? (elements.last < p ? elements.last : p) : 0;
    const std::int64_t rest = size - 1 - p, reach_after = reach - elements.first;
    first_offset = int(reach - before);
    last_offset = covered ? int(reach + (reach_after < rest ? reach_after : rest)) : first_offset - 1;
  }
};

// What the rows and pixels around one pixel have in common for all heads.
struct Neighbourhood {
  static constexpr int kMaxElements = kMaxKernel * kMaxKernel;
  static constexpr int kMaxOffsets = (2 * kMaxKernel - 1) * (2 * kMaxKernel - 1);
  int rows = 0;
  int rows_per_line = 0;             // as many in a line have the same iy
  std::int64_t start[kMaxElements];  // of row (q, i), in elements from the batch entry's first logit of the head
  int corner[kMaxElements];          // where the row's j = 0 lands in the collapsed kernel

  std::int64_t last_window = 0;  // that covers the pixel, in its batch entry

  int pixels = 0;
  int offset[kMaxOffsets];          // in the collapsed kernel
  std::int64_t shift[kMaxOffsets];  // the pixel at this offset, counted in pixels from this one

  template <class P>
  Neighbourhood(const P& problem, const AxisPosition& y, const AxisPosition& x) {
    const OutlookShape& s = problem.s;
    const int reach = problem.kernel() - 1;
    std::int64_t line = y.window * s.grid_width;
    last_window = line + x.window;
    for (std::int64_t iy = y.elements.first; iy <= y.elements.last; iy += s.stride, line -= s.grid_width) {
      std::int64_t window = line + x.window;
      for (std::int64_t ix = x.elements.first; ix <= x.elements.last; ix += s.stride, --window) {
        start[rows] = window * problem.logit_channels + (iy * problem.kernel() + ix) * problem.elements();
        corner[rows++] = int((reach - iy) * problem.side() + reach - ix);
      }
      if (rows_per_line == 0) rows_per_line = rows;
    }
    if (rows == 0) return;  // a pixel between or behind the windows
    for (int dy = y.first_offset; dy <= y.last_offset; ++dy)
      for (int dx = x.first_offset; dx <= x.last_offset; ++dx) {
        offset[pixels] = dy * problem.side() + dx;
        shift[pixels++] = (dy - reach) * s.width + dx - reach;
      }
  }
};

// Asks for the logits (or their gradients) of a window that the pixels of this line reach a little later. The rows of
// one pixel lie far apart, in an order that hardware does not foresee.
template <int kWrite, class P>
MFFPA_INLINE void prefetch_window(const P& problem, const typename P::T* logits, std::int64_t b, std::int64_t window) {
  constexpr std::int64_t kAhead = 3, kLine = 64 / sizeof(typename P::T);
  const std::int64_t windows = problem.s.grid_height * problem.s.grid_width;
  const typename P::T* from = logits + (b * windows + window + kAhead) * problem.logit_channels;
  if (window + kAhead >= windows) return;
  for (std::int64_t at = 0; at < problem.logit_channels; at += kLine) __builtin_prefetch(from + at, kWrite);
}

}  // namespace
}  // namespace mffpa
