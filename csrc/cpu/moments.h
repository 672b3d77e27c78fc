// Mean and variance of many elements in one read and without cancellation, for the kernels that normalise.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
//
// Sums and sums of squares are those of differences from a shift that is itself an element of the set. With d_i the
// differences, one of which is 0, Cauchy-Schwarz gives sum d^2 <= n (sum d^2 - (sum d)^2 / n): at worst, where that one
// element is far from all others, the rounding of the squares is amplified n times. Short runs are summed in the
// accumulator type, each with a shift of its own; runs are brought to one shift in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/packs.h"

namespace mffpa {
namespace {

// Away from the mean by D, the sums of a run grow to `count` D, and so does their rounding.
constexpr std::int64_t kLongestRun = 64;

// Sums of x[0], x[stride], ..., x[(count-1) * stride], for every element of N packs V.
template <class V, int N>
struct RunSums {
  V shift[N], sum[N], squares[N];
};

template <class V, int N, class T, class A = Accumulator<T>>
MFFPA_INLINE RunSums<V, N> run_sums(const T* x, std::int64_t count, std::int64_t stride) {
  constexpr int width = kWidth<V, A>;
  RunSums<V, N> run;
  for (int k = 0; k < N; ++k) run.shift[k] = load_as<V>(x + k * width), run.sum[k] = run.squares[k] = V{};
  for (std::int64_t i = 1; i < count; ++i)
    for (int k = 0; k < N; ++k) {
      const V d = load_as<V>(x + i * stride + k * width) - run.shift[k];
      run.sum[k] += d;
      run.squares[k] += d * d;
    }
  return run;
}

// Runs of `lanes` sets side by side.
template <int lanes>
struct LaneMoments {
  double shift[lanes], sum[lanes], squares[lanes];

  // The shift must be an element of the set.
  template <class A>
  MFFPA_INLINE explicit LaneMoments(const A* elements) {
    for (int i = 0; i < lanes; ++i) shift[i] = double(elements[i]), sum[i] = squares[i] = 0;
  }

  // Adds a run of `count` elements to each of the first `some` sets.
  template <int some = lanes, class A>
  MFFPA_INLINE void add(const A* run_shift, const A* run_sum, const A* run_squares, std::int64_t count) {
    const double n = double(count);
    for (int i = 0; i < some; ++i) {
      const double e = double(run_shift[i]) - shift[i], s = double(run_sum[i]);
      sum[i] += n * e + s;
      squares[i] += double(run_squares[i]) + e * (2 * s + n * e);
    }
  }

  // The same for the runs that run_sums has summed: one of each lane of its packs.
  template <int some, class A, class V, int N>
  MFFPA_INLINE void add(const RunSums<V, N>& run, std::int64_t count) {
    A values[3][some];
    static_assert(sizeof(values) == sizeof(run));
    std::memcpy(values, &run, sizeof(values));
    add<some>(values[0], values[1], values[2], count);
  }

  // All that was added, as one run.
  template <class A>
  MFFPA_INLINE void store_to(A* run_shift, A* run_sum, A* run_squares) const {
    for (int i = 0; i < lanes; ++i) {
      run_shift[i] = A(shift[i]);
      run_sum[i] = A(sum[i]);
      run_squares[i] = A(squares[i]);
    }
  }

  // All sets as one, where they have the same shift; the result is in the first.
  MFFPA_INLINE void join() {
    for (int half = lanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) sum[i] += sum[i + half], squares[i] += squares[i + half];
  }

  // Mean as high + low, and standard deviation (0 for a single element), of a set of `count` elements.
  template <class A>
  MFFPA_INLINE void finish(int i, std::int64_t count, A* high, A* low, A* std) const {
    const double error = sum[i] / double(count), mean = shift[i] + error;
    const double deviations = squares[i] - sum[i] * error;
    *high = A(mean);
    *low = A(mean - double(*high));
    // Rounding may leave less than 0; written so that NaN stays.
    *std = A(std::sqrt(deviations < 0 ? 0.0 : deviations / double(count > 1 ? count - 1 : 1)));
  }
};

}  // namespace
}  // namespace mffpa
