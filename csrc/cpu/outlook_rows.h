// The parts of the outlook kernels that know about windows: which rows of logits feed a pixel, and their softmax.
// Included by outlook_attention_kernel.cpp alone, once per instruction set; see simd.h for the anonymous namespace.
#pragma once

#include "cpu/simd.h"
#include "outlook_attention.h"
#include "outlook_window.h"

namespace mffpa {
namespace {

constexpr int kMaxKernel = int(kMaxOutlookKernel);
constexpr int kMaxElements = kMaxKernel * kMaxKernel;
constexpr int kMaxOffsets = (2 * kMaxKernel - 1) * (2 * kMaxKernel - 1);

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

}  // namespace
}  // namespace mffpa
