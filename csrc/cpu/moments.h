// Mean and variance of many elements without cancellation, for the kernels that normalise.
// Included only by *_kernel.cpp files; see simd.h for the anonymous namespace.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/simd.h"

namespace mffpa {
namespace {

// Count, mean and sum of squared deviations of a set. Merged by Chan's update, in double whatever the elements are.
struct Moments {
  double count = 0, mean = 0, deviations = 0;

  MFFPA_INLINE void merge(double other_count, double other_mean, double other_deviations) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    deviations += other_deviations + delta * delta * (count * other_count / total);
    count = total;
  }
};

// What a plane is normalised with; see feature_norm.h for why the mean is two numbers.
template <class A>
struct PlaneStatistics {
  A mean_high, mean_low, std;

  MFFPA_INLINE explicit PlaneStatistics(const Moments& m)
      : mean_high(A(m.mean)), mean_low(A(m.mean - double(A(m.mean)))),
        std(A(std::sqrt(m.count > 1 ? m.deviations / (m.count - 1) : 0.0))) {}
};

// Sums over one short run of elements, relative to a shift that is close to them (their first, or an earlier mean):
// the differences are exact or nearly so, and the second sum corrects what the shift misses of the mean.
template <class A>
struct ShiftedSums {
  A first, second;  // sum of (x - shift), sum of (x - shift)^2
};

// Elements x[0], x[stride], ... of `count` vectors of kLanes channels: sums per lane.
template <class T, int kVectors, class A = Accumulator<T>>
MFFPA_INLINE void lane_sums(const T* x, std::int64_t count, std::int64_t stride, const Vector<A>* shift,
                            Vector<A>* first, Vector<A>* second) {
  for (int k = 0; k < kVectors; ++k) first[k] = second[k] = Vector<A>{};
  for (std::int64_t i = 0; i < count; ++i)
    for (int k = 0; k < kVectors; ++k) {
      const Vector<A> d = load(x + i * stride + k * kLanes<A>) - shift[k];
      first[k] += d;
      second[k] += d * d;
    }
}

}  // namespace
}  // namespace mffpa
