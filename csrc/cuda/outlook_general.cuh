// Outlook attention for any kernel size, stride and head size: a warp per pixel and head. Lanes first normalise rows of
// logits, one each, then gather the collapsed kernel, an offset each; see outlook_window.h.
#pragma once

#include "cuda/elements.h"
#include "cuda/outlook_config.h"

namespace mffpa::cuda {

template <class T>
struct General {
  using A = Accumulator<T>;
  OutlookShape s;
  A scale;
  const T *value, *logits, *mask;
  std::int64_t margin;  // pixels around the image whose rows are visited as well

  MFFPA_DEVICE int kernel() const { return int(s.kernel_size); }
  MFFPA_DEVICE int elements() const { return kernel() * kernel(); }  // K^2
  MFFPA_DEVICE int side() const { return 2 * kernel() - 1; }
  MFFPA_DEVICE int offsets() const { return side() * side(); }       // (2K-1)^2
};

// The pixel and head of a warp, the windows that cover it, and the offsets that they reach.
struct Item {
  bool exists, inside;
  std::int64_t batch, y, x;
  int head;
  ElementRange rows, columns;  // elements i
  int stride, row_count, column_count;

  MFFPA_DEVICE int count() const { return row_count * column_count; }
  MFFPA_DEVICE int iy(int row) const { return int(rows.first) + row / column_count * stride; }
  MFFPA_DEVICE int ix(int row) const { return int(columns.first) + row % column_count * stride; }
};

template <class T>
MFFPA_DEVICE Item item_of_warp(const General<T>& p) {
  const OutlookShape& s = p.s;
  const int warps = int(blockDim.x) / kWarpSize;
  std::int64_t index = std::int64_t(blockIdx.x) * warps + int(threadIdx.x) / kWarpSize;
  const std::int64_t width = s.width + 2 * p.margin, height = s.height + 2 * p.margin;
  Item item;
  item.head = int(index % s.heads);
  index /= s.heads;
  item.x = index % width - p.margin;
  index /= width;
  item.y = index % height - p.margin;
  item.batch = index / height;
  item.exists = item.batch < s.batch;
  item.inside = item.y >= 0 && item.y < s.height && item.x >= 0 && item.x < s.width;
  item.rows = elements_covering(item.y, s.padding, s.stride, s.kernel_size, s.grid_height);
  item.columns = elements_covering(item.x, s.padding, s.stride, s.kernel_size, s.grid_width);
  item.stride = int(s.stride);
  item.row_count = item.rows.last < item.rows.first ? 0 : int((item.rows.last - item.rows.first) / s.stride) + 1;
  item.column_count =
      item.columns.last < item.columns.first ? 0 : int((item.columns.last - item.columns.first) / s.stride) + 1;
  if (item.row_count == 0) item.column_count = 0;  // no division by 0: iy and ix are asked for rows that exist
  return item;
}

// Of row (q, i), in elements from the start of the logits.
template <class T>
MFFPA_DEVICE std::int64_t row_start(const General<T>& p, const Item& item, int iy, int ix) {
  const OutlookShape& s = p.s;
  const std::int64_t qy = (item.y + s.padding - iy) / s.stride, qx = (item.x + s.padding - ix) / s.stride;
  const std::int64_t window = (item.batch * s.grid_height + qy) * s.grid_width + qx;
  return ((window * s.heads + item.head) * p.elements() + iy * p.kernel() + ix) * p.elements();
}

template <class T, class A = Accumulator<T>>
MFFPA_DEVICE A scaled_logit(const General<T>& p, std::int64_t at) {
  return to_accumulator(p.logits[at]) * p.scale;
}

template <class T, class A = Accumulator<T>>
MFFPA_DEVICE A kept(const General<T>& p, std::int64_t at) {
  return p.mask ? to_accumulator(p.mask[at]) : A(1);
}

// Maximum and 1 / sum of exponentials of every row, into shared memory.
template <class T, class A = Accumulator<T>>
MFFPA_DEVICE void normalise_rows(const General<T>& p, const Item& item, A* largest, A* factor) {
  for (int row = int(threadIdx.x) % kWarpSize; row < item.count(); row += kWarpSize) {
    const std::int64_t start = row_start(p, item, item.iy(row), item.ix(row));
    A top = scaled_logit(p, start), sum = 0;
    for (int j = 1; j < p.elements(); ++j) top = larger(top, scaled_logit(p, start + j));
    for (int j = 0; j < p.elements(); ++j) sum += exponential(scaled_logit(p, start + j) - top);
    largest[row] = top, factor[row] = A(1) / sum;
  }
}

// The collapsed kernel at offset (dy, dx), counted from -(K-1): the weights of all rows that reach it, in their order.
template <class T, class A = Accumulator<T>>
MFFPA_DEVICE A kernel_at(const General<T>& p, const Item& item, int dy, int dx, const A* largest, const A* factor) {
  A sum = 0;
  for (int row = 0; row < item.count(); ++row) {
    const int iy = item.iy(row), ix = item.ix(row);
    const int jy = iy + dy - (p.kernel() - 1), jx = ix + dx - (p.kernel() - 1);
    if (jy < 0 || jy >= p.kernel() || jx < 0 || jx >= p.kernel()) continue;
    const std::int64_t at = row_start(p, item, iy, ix) + jy * p.kernel() + jx;
    sum += exponential(scaled_logit(p, at) - largest[row]) * factor[row] * kept(p, at);
  }
  return sum;
}

// Whether offset (dy, dx) is reached by a row and stays inside the image.
template <class T>
MFFPA_DEVICE bool is_tap(const General<T>& p, const Item& item, int dy, int dx) {
  const int reach = p.kernel() - 1;
  const std::int64_t y = item.y + dy - reach, x = item.x + dx - reach;
  return item.count() > 0 && dy >= reach - item.rows.last && dy <= 2 * reach - item.rows.first &&
         dx >= reach - item.columns.last && dx <= 2 * reach - item.columns.first && y >= 0 && y < p.s.height &&
         x >= 0 && x < p.s.width;
}

// The first channel of the head at a pixel, in elements from the start of the values.
template <class T>
MFFPA_DEVICE std::int64_t value_at(const General<T>& p, std::int64_t batch, std::int64_t y, std::int64_t x, int head) {
  return (((batch * p.s.height + y) * p.s.width + x) * p.s.heads + head) * p.s.head_dim;
}

}  // namespace mffpa::cuda
