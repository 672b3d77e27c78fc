// Mean and variance of many elements without cancellation, for the kernels that normalise.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/packs.h"

namespace mffpa {
namespace {

// Mean and sum of squared deviations of a set, merged by Chan's update, in double whatever the elements are.
struct Moments {
  double count = 0, mean = 0, deviations = 0;

  MFFPA_INLINE void merge(double other_count, double other_mean, double other_deviations) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    deviations += other_deviations + delta * delta * (count * other_count / total);
    count = total;
  }
};

// Moments of a run that is short enough to stay in the cache, for every element of N packs V:
// of x[0], x[stride], ..., x[(count-1) * stride]. The true mean is mean + error.
template <class V, int N>
struct RunMoments {
  V mean[N], error[N], deviations[N];
};

// Reads the run twice: the mean first, then the deviations from it, corrected by what the mean's rounding left over.
template <class V, int N, class T, class A = Accumulator<T>>
MFFPA_INLINE RunMoments<V, N> run_moments(const T* x, std::int64_t count, std::int64_t stride) {
  constexpr int width = kWidth<V, A>;
  RunMoments<V, N> run;
  V shift[N], sum[N] = {}, squares[N] = {};
  for (int k = 0; k < N; ++k) shift[k] = load_as<V>(x + k * width);  // differences from it are nearly exact
  for (std::int64_t i = 0; i < count; ++i)
    for (int k = 0; k < N; ++k) sum[k] += load_as<V>(x + i * stride + k * width) - shift[k];
  for (int k = 0; k < N; ++k) {
    run.mean[k] = shift[k] + sum[k] / A(count);
    sum[k] = V{};
  }
  for (std::int64_t i = 0; i < count; ++i)
    for (int k = 0; k < N; ++k) {
      const V d = load_as<V>(x + i * stride + k * width) - run.mean[k];
      sum[k] += d;
      squares[k] += d * d;
    }
  for (int k = 0; k < N; ++k) {
    run.error[k] = sum[k] / A(count);
    run.deviations[k] = squares[k] - sum[k] * run.error[k];
  }
  return run;
}

// Merges every element of a run's packs into one set.
template <class A, class V, int N>
MFFPA_INLINE void merge_run(Moments& moments, const RunMoments<V, N>& run, std::int64_t count) {
  constexpr int width = kWidth<V, A>;
  A mean[N * width], error[N * width], deviations[N * width];
  std::memcpy(mean, run.mean, sizeof(mean));
  std::memcpy(error, run.error, sizeof(error));
  std::memcpy(deviations, run.deviations, sizeof(deviations));
  for (int i = 0; i < N * width; ++i)
    moments.merge(double(count), double(mean[i]) + double(error[i]), double(deviations[i]));
}

}  // namespace
}  // namespace mffpa
