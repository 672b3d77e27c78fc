// Outlook attention forward on CUDA, one launch.
#include "cuda/outlook_general.cuh"
#include "cuda/outlook_tile.cuh"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct TiledForward {
  TiledShape s;
  Accumulator<T> scale;
  const T *value, *logits, *mask;
  T* output;
};

// A thread per pixel. Row by row of window elements: the block stages logits, each thread adds the softmax of its rows
// into the 25 weights it keeps in registers; then the weights are applied to the staged values.
template <class T, int S>
__global__ void __launch_bounds__(kTileThreads, 5) tiled_forward(const TiledForward<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(unsigned char, shared);
  A* const staged = reinterpret_cast<A*>(shared);
  const TiledShape& s = a.s;
  const Tile tile = tile_of_block(s);
  const Pixel p = pixel_of_thread<S>(s, tile);
  A weight[kTaps] = {};
  TapRange tap_rows, tap_columns;
#pragma unroll
  for (int iy = 0; iy < 3; ++iy) {
    for_each_logit<S>(s, tile, iy, [&](int slot, std::int64_t at, bool inside) {
      if (inside) staged[slot] = to_accumulator(a.logits[at]);
    });
    __syncthreads();
    if (p.inside && is_element<S>(p.y, iy, s.padding, s.grid_height)) {
      tap_rows.add_element(iy);
#pragma unroll
      for (int ix = 0; ix < 3; ++ix) {
        if (!is_element<S>(p.x, ix, s.padding, s.grid_width)) continue;
        tap_columns.add_element(ix);
        A row[9];
        softmax_row(staged + int(threadIdx.x) * kStagedRow + ix * 9, a.scale, row);
        const T* const mask = a.mask ? a.mask + row_offset<S>(s, tile, p, iy, ix) : nullptr;
#pragma unroll
        for (int j = 0; j < 9; ++j)
          weight[(2 - iy + j / 3) * kReach + 2 - ix + j % 3] += mask ? row[j] * to_accumulator(mask[j]) : row[j];
      }
    }
    __syncthreads();
  }
  weighted_sum<S>(s, tile, p, weight, tap_rows, tap_columns, a.value, a.output, reinterpret_cast<Vector<T>*>(shared));
}

template <class T>
struct GeneralForward : General<T> {
  T* output;
};

template <class T>
__global__ void __launch_bounds__(4 * kWarpSize, 5) general_forward(const GeneralForward<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(A, shared);
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  A* const kernel = shared + warp * outlook_forward_scratch(a.kernel());
  A* const largest = kernel + a.offsets();
  A* const factor = largest + a.elements();
  const Item item = item_of_warp(a);
  if (!item.exists) return;  // all lanes of the warp

  normalise_rows(a, item, largest, factor);
  __syncwarp();
  for (int d = lane; d < a.offsets(); d += kWarpSize)
    kernel[d] = kernel_at(a, item, d / a.side(), d % a.side(), largest, factor);
  __syncwarp();

  const std::int64_t own = value_at(a, item.batch, item.y, item.x, item.head);
  const std::int64_t channels = a.s.heads * a.s.head_dim;
  for (std::int64_t c = lane; c < a.s.head_dim; c += kWarpSize) {
    A sum = 0;
    for (int dy = 0; dy < a.side(); ++dy)
      for (int dx = 0; dx < a.side(); ++dx) {
        if (!is_tap(a, item, dy, dx)) continue;
        const std::int64_t shift = (dy - a.kernel() + 1) * a.s.width + (dx - a.kernel() + 1);
        sum += kernel[dy * a.side() + dx] * to_accumulator(a.value[own + shift * channels + c]);
      }
    a.output[own + c] = from_accumulator<T>(sum);
  }
}

template <class T>
void forward(const OutlookShape& s, double scale, const T* value, const T* logits, const T* mask, T* output,
             void* stream) {
  using A = Accumulator<T>;
  if constexpr (!std::is_same_v<T, double>) {
    if (outlook_is_tiled(s, sizeof(T), is_aligned(value) && is_aligned(output))) {
      const TiledForward<T> arguments{TiledShape(s, kVectorSize<T>, 0), A(scale), value, logits, mask, output};
      return launch(s.stride == 1 ? tiled_forward<T, 1> : tiled_forward<T, 2>, outlook_tiled_launch(s, 0), stream,
                    arguments);
    }
  }
  const std::int64_t scratch = outlook_forward_scratch(s.kernel_size) * std::int64_t(sizeof(A));
  launch(general_forward<T>, outlook_general_launch(s, s.batch * s.height * s.width, scratch), stream,
         {{s, A(scale), value, logits, mask, 0}, output});
}

}  // namespace
}  // namespace cuda

void outlook_attention_forward_cuda(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                    const void* logits, const void* mask, void* output, void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    cuda::forward<T>(shape, scale, static_cast<const T*>(value), static_cast<const T*>(logits),
                     static_cast<const T*>(mask), static_cast<T*>(output), stream);
  });
}

}  // namespace mffpa
