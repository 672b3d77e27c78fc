// Softmax of rows of logits, and their sum into the collapsed kernel.
// Included by outlook_attention_kernel.cpp alone, once per instruction set; see simd.h for the anonymous namespace.
//
// A row of K x K elements is worked on as it lies in memory. To add to the collapsed kernel it is spread: element
// (jy, jx) to lane jy * (2K-1) + jx, so that it is one run of lanes from the row's corner on. K = 3:
//   lane  0 1 2 3 4 5 6 7 8 9 10 11 12
//   j     0 1 2 . . 3 4 5 . .  6  7  8
// The lanes in between hold 0.
#pragma once

#include <limits>

#include "cpu/lanes.h"
#include "cpu/outlook_rows.h"

namespace mffpa {
namespace {

// Rows of a Problem<T, K>; the lanes behind the last element hold 0.
template <class T_, int K>
struct RowsOf {
  using T = T_;
  using A = Accumulator<T>;
  using V = Vector<A>;
  using I = typename VectorOf<A>::integer;
  static constexpr int kSize = K ? K : kMaxKernel;
  static constexpr int kMaxVectors = (kSize * kSize + kLanes<A> - 1) / kLanes<A>;
  static constexpr int kMaxSpread = (kSize - 1) * (2 * kSize - 1) + kSize;
  static constexpr bool kOneVector = K == 3 && kLanes<A> == 16;  // spread, too
  using Row = V[kMaxVectors];

  int runtime_kernel;
  I used[kMaxVectors];  // -1 in the lanes of elements, 0 behind them
  I piece[kSize / kLanes<A> + 1];  // the same for one line of K elements

  int kernel() const { return K ? K : runtime_kernel; }
  int side() const { return 2 * kernel() - 1; }
  int elements() const { return kernel() * kernel(); }
  int vectors() const { return (elements() + kLanes<A> - 1) / kLanes<A>; }

  explicit RowsOf(const Problem<T, K>& problem) : runtime_kernel(problem.kernel()) {
    constexpr int L = kLanes<A>;
    for (int lane = 0; lane < vectors() * L; ++lane) used[lane / L][lane % L] = lane < elements() ? -1 : 0;
    for (int lane = 0; lane < (kSize / L + 1) * L; ++lane) piece[lane / L][lane % L] = lane < kernel() ? -1 : 0;
  }

  MFFPA_INLINE int count(int v) const {  // of the elements in vector v
    return elements() - v * kLanes<A> < kLanes<A> ? elements() - v * kLanes<A> : kLanes<A>;
  }
  MFFPA_INLINE void load_row(const T* from, Row& row) const {
    for (int v = 0; v < vectors(); ++v) {
      const T* at = from + v * kLanes<A>;
      row[v] = count(v) == kLanes<A> ? load(at) : load_first(at, count(v));
    }
  }
  MFFPA_INLINE void store_row(T* to, const Row& row) const {
    for (int v = 0; v < vectors(); ++v) {
      T* at = to + v * kLanes<A>;
      if (count(v) == kLanes<A>) store(at, row[v]);
      else store_first(at, row[v], count(v));
    }
  }

  // Writes a row spread; up to one vector behind it becomes 0.
  MFFPA_INLINE void spread(const Row& row, A* to) const {
    if constexpr (kOneVector) {
      store(to, __builtin_shufflevector(row[0], row[0], 0, 1, 2, 9, 9, 3, 4, 5, 9, 9, 6, 7, 8, 9, 9, 9));
    } else {
      alignas(kVectorBytes) A close[(kMaxVectors + 2) * kLanes<A>];
      for (int v = 0; v < vectors(); ++v) store(close + v * kLanes<A>, row[v]);
      for (int jy = 0; jy < kernel(); ++jy)
        for (int jx = 0; jx < kernel(); jx += kLanes<A>)
          store(to + jy * side() + jx,
                piece[jx / kLanes<A>] ? load<A>(close + jy * kernel() + jx) : V{});
    }
  }

  // The opposite: takes a row from a run of lanes. Reads up to a vector behind it.
  MFFPA_INLINE void collect(const A* from, Row& row) const {
    if constexpr (kOneVector) {
      const V run = load(from);
      row[0] = __builtin_shufflevector(run, run, 0, 1, 2, 5, 6, 7, 10, 11, 12, 3, 3, 3, 3, 3, 3, 3);
    } else {
      alignas(kVectorBytes) A close[(kMaxVectors + 2) * kLanes<A>];
      for (int jy = 0; jy < kernel(); ++jy)  // in rising order: what is written too far is written over
        for (int jx = 0; jx < kernel(); jx += kLanes<A>)
          store(close + jy * kernel() + jx, load(from + jy * side() + jx));
      for (int v = 0; v < vectors(); ++v) row[v] = load(close + v * kLanes<A>);
    }
    for (int v = 0; v < vectors(); ++v) row[v] = used[v] ? row[v] : V{};
  }

  // softmax of scale * row, for N rows
  template <int N>
  MFFPA_INLINE void softmax(A scale, Row (&rows)[N]) const {
    const V lowest = broadcast(-std::numeric_limits<A>::infinity());
    V reduced[N];
    A of_row[N];
    for (int k = 0; k < N; ++k) {
      reduced[k] = lowest;
      for (int v = 0; v < vectors(); ++v) {
        rows[k][v] = used[v] ? rows[k][v] * scale : lowest;
        reduced[k] = vector_max(rows[k][v], reduced[k]);
      }
    }
    horizontal_maxima<N, A>(reduced, of_row);
    for (int k = 0; k < N; ++k) {
      reduced[k] = V{};
      for (int v = 0; v < vectors(); ++v) {
        rows[k][v] = exp_nonpositive(rows[k][v] - broadcast(of_row[k]));
        reduced[k] += rows[k][v];
      }
    }
    horizontal_sums<N, A>(reduced, of_row);
    for (int k = 0; k < N; ++k) of_row[k] = A(1) / of_row[k];
    for (int k = 0; k < N; ++k)
      for (int v = 0; v < vectors(); ++v)
        rows[k][v] = used[v] ? rows[k][v] * broadcast(of_row[k]) : V{};  // NaN stays in the used lanes
  }
};

// Rows with zeros before and behind, so that their sum, each at its corner, is made of whole vectors. The rows of one
// line, or for a small kernel those of a whole pixel and several heads, since only four rows at once keep the CPU busy.
template <class RowSet>
struct alignas(kVectorBytes) PaddedRows {
  using A = typename RowSet::A;
  static constexpr int kSize = RowSet::kSize;
  static constexpr bool kSmall = kSize == 3;
  static constexpr int kHeads = kSmall ? 8 : 1;
  static constexpr int kRows = kSmall ? kSize * kSize : kSize;
  static constexpr int kCorners = kSmall ? (kSize - 1) * 2 * kSize : kSize - 1;  // highest corner minus lowest
  static constexpr int kBefore = (kCorners + 2 * (kLanes<A> - 1)) / kLanes<A> * kLanes<A>;
  static constexpr int kLength = 2 * kBefore + (RowSet::kMaxSpread + kLanes<A>) / kLanes<A> * kLanes<A>;
  A at[kHeads * kRows][kLength];

  PaddedRows() {
    for (auto& row : at)
      for (A& x : row) x = 0;
  }
};

// One row of the neighbourhood, for one of the heads that are worked on.
struct HeadRow {
  int head, row;
};

// kernels[head] = sum over the pixel's rows of softmax * mask, each at its corner, for `heads` heads of which the first
// has its logits from first_logit on. Calls each_rows(which, softmax, keep) in between; keep is the mask, or ones.
template <class P, class RowSet, int kStride, class A = typename P::A, class EachRows>
MFFPA_INLINE void collapse(const P& problem, const RowSet& row_set, const Neighbourhood& near, std::int64_t first_logit,
                           int heads, PaddedRows<RowSet>& padded, A (*kernels)[kStride], EachRows each_rows) {
  constexpr int L = kLanes<A>;
  const std::int64_t head_logits = problem.elements() * problem.elements();
  const auto softmax_rows = [&]<int N>(const HeadRow (&which)[N], int place) {
    typename RowSet::Row rows[N], keep[N];
    for (int k = 0; k < N; ++k) {
      const std::int64_t start = first_logit + which[k].head * head_logits + near.start[which[k].row];
      row_set.load_row(problem.logits + start, rows[k]);
      if (problem.mask) row_set.load_row(problem.mask + start, keep[k]);
      else for (int v = 0; v < row_set.vectors(); ++v) keep[k][v] = broadcast(A(1));
    }
    row_set.template softmax<N>(problem.scale, rows);
    each_rows(which, rows, keep);
    for (int k = 0; k < N; ++k) {
      for (int v = 0; v < row_set.vectors(); ++v) rows[k][v] *= keep[k][v];
      row_set.spread(rows[k], padded.at[place + k] + padded.kBefore);
    }
  };
  for (int head = 0; head < heads; ++head)
    for (int d = 0; d < problem.offsets(); d += L) store(kernels[head] + d, Vector<A>{});
  const int step = padded.kSmall ? near.rows : near.rows_per_line;
  for (int first = 0; first < near.rows; first += step) {
    HeadRow next{0, first};
    const auto take = [&] {
      const HeadRow taken = next;
      if (++next.row == first + step) next = {next.head + 1, first};
      return taken;
    };
    int place = 0;
    for (; place + 4 <= heads * step; place += 4) softmax_rows({take(), take(), take(), take()}, place);
    for (; place < heads * step; ++place) softmax_rows({take()}, place);
    // Corners fall from row to row.
    const int low = near.corner[first + step - 1] / L * L;
    const int high = near.corner[first] + (problem.kernel() - 1) * problem.side() + problem.kernel();
    for (int head = 0; head < heads; ++head)
      for (int d = low; d < high; d += L) {
        Vector<A> sum = load(kernels[head] + d);
        for (int k = 0; k < step; ++k)
          sum += load(padded.at[head * step + k] + padded.kBefore + d - near.corner[first + k]);
        store(kernels[head] + d, sum);
      }
  }
}

}  // namespace
}  // namespace mffpa
