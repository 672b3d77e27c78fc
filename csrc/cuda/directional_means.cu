// Means over the width and over the height on CUDA: a launch each, with 16-byte accesses where lines are whole vectors.
// The second one reads what the first has often left in the cache.
#include "cuda/directional_means_config.h"
#include "cuda/warp.h"
#include "pyramid_gate.h"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct Along {
  const T* x;
  T* means;
  std::int64_t lines, size;
};

template <class T, int N>
__global__ void __launch_bounds__(kMeanWarps * kWarpSize, 4) mean_along(const Along<T> a) {
  using A = Accumulator<T>;
  const int lane = int(threadIdx.x) % kWarpSize;
  const std::int64_t line = std::int64_t(blockIdx.x) * kMeanWarps + int(threadIdx.x) / kWarpSize;
  if (line >= a.lines) return;  // all lanes of the warp
  const T* const from = a.x + line * a.size;
  A sums[N] = {}, sum = 0;
#pragma unroll 4
  for (std::int64_t i = lane * N; i < a.size; i += kWarpSize * N) {
    const Vector<T, N> vector = load_vector<T, N>(from + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] += to_accumulator(vector.at[k]);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) sum += sums[k];
  sum = warp_sum(sum);
  if (lane == 0) a.means[line] = from_accumulator<T>(sum / A(a.size));
}

template <class T>
struct Across {
  const T* x;
  T* means;
  std::int64_t size, inner, tiles;
};

template <class T, int N>
__global__ void __launch_bounds__(kMeanWarps * kWarpSize, 4) mean_across(const Across<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(A, shared);
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  const std::int64_t outer = blockIdx.x / a.tiles, at = (blockIdx.x % a.tiles * kWarpSize + lane) * N;
  const bool inside = at < a.inner;
  A sums[N] = {};
#pragma unroll 4
  for (std::int64_t i = warp; inside && i < a.size; i += kMeanWarps) {
    const Vector<T, N> vector = load_vector<T, N>(a.x + (outer * a.size + i) * a.inner + at);
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] += to_accumulator(vector.at[k]);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) shared[(warp * N + k) * kWarpSize + lane] = sums[k];
  __syncthreads();
  if (warp != 0 || !inside) return;
  Vector<T, N> means;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    for (int w = 1; w < kMeanWarps; ++w) sums[k] += shared[(w * N + k) * kWarpSize + lane];
    means.at[k] = from_accumulator<T>(sums[k] / A(a.size));
  }
  store_vector(a.means + outer * a.inner + at, means);
}

template <class T>
void along(const T* x, T* means, std::int64_t lines, std::int64_t size, void* stream) {
  const bool vectors = is_aligned(x) && size % kVectorSize<T> == 0;
  launch(vectors ? mean_along<T, kVectorSize<T>> : mean_along<T, 1>, mean_along_launch(lines), stream,
         {x, means, lines, size});
}

template <class T>
void across(const T* x, T* means, std::int64_t outer, std::int64_t size, std::int64_t inner, void* stream) {
  const bool vectors = is_aligned(x) && is_aligned(means) && inner % kVectorSize<T> == 0;
  const int n = vectors ? kVectorSize<T> : 1;
  launch(vectors ? mean_across<T, kVectorSize<T>> : mean_across<T, 1>,
         mean_across_launch(outer, inner, n, sizeof(Accumulator<T>)), stream,
         {x, means, size, inner, mean_across_tiles(inner, n)});
}

}  // namespace
}  // namespace cuda

void directional_means_cuda(DType dtype, const PlaneShape& s, const void* x, void* by_row, void* by_column,
                            void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    const auto* from = static_cast<const T*>(x);
    auto *rows = static_cast<T*>(by_row), *columns = static_cast<T*>(by_column);
    if (s.layout == Layout::kContiguous) {
      cuda::along(from, rows, s.batch * s.channels * s.height, s.width, stream);
      cuda::across(from, columns, s.batch * s.channels, s.height, s.width, stream);
    } else {
      cuda::across(from, rows, s.batch * s.height, s.width, s.channels, stream);
      cuda::across(from, columns, s.batch, s.height, s.width * s.channels, stream);
    }
  });
}

}  // namespace mffpa
