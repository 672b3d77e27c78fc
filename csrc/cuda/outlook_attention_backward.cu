// Outlook attention backward on CUDA, two launches: gradient of the logits, with the collapsed kernels left in the
// workspace as planes [batch, head, offset, height, width]; then the gradient of the value, which every pixel gathers.
#include "cuda/outlook_general.cuh"
#include "cuda/outlook_tile.cuh"

namespace mffpa {
namespace cuda {
namespace {

template <class T>
struct TiledLogits {
  TiledShape s;
  Accumulator<T> scale;
  const T *value, *logits, *mask, *grad_output;
  T* grad_logits;
  Accumulator<T>* kernels;
};

// dot[tap] = grad_output[p] . value[p + tap - kHalo] over the head's channels.
template <class T, class A = Accumulator<T>>
MFFPA_DEVICE void tap_products(const TiledLogits<T>& a, const Tile& tile, const Pixel& p, A (&dot)[kTaps],
                               Vector<T>* staged) {
  const TiledShape& s = a.s;
  const T* const own = a.grad_output + (pixel_index(s, tile.batch, p.y, p.x) * s.heads + tile.head) * s.head_vectors *
                                           kVectorSize<T>;
  for (int first = 0; first < s.head_vectors; first += kStagedVectors) {
    const int count = s.head_vectors - first < kStagedVectors ? s.head_vectors - first : kStagedVectors;
    stage_vectors(s, tile, a.value, first, count, staged);
    __syncthreads();
    for (int v = 0; p.inside && v < count; ++v) {
      const Vector<T> gradient = load_vector(own + (first + v) * kVectorSize<T>);
      const Vector<T>* corner = staged + v * kStagedPitch + p.row * kStagedWidth + p.column;
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        const Vector<T> vector = corner[tap / kReach * kStagedWidth + tap % kReach];
#pragma unroll
        for (int k = 0; k < kVectorSize<T>; ++k)
          dot[tap] += to_accumulator(gradient.at[k]) * to_accumulator(vector.at[k]);
      }
    }
    __syncthreads();
  }
}

// As tiled_forward, with the gradient of every staged row put in its place. Tiles reach over the image's edge as far as
// the windows do: rows outside the image feed nothing, and their gradient is 0.
template <class T, int S>
__global__ void __launch_bounds__(kTileThreads, 4) tiled_logits(const TiledLogits<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(unsigned char, shared);
  A* const staged = reinterpret_cast<A*>(shared);
  const TiledShape& s = a.s;
  const Tile tile = tile_of_block(s);
  const Pixel p = pixel_of_thread<S>(s, tile);
  A dot[kTaps] = {}, kernel[kTaps] = {};
  tap_products(a, tile, p, dot, reinterpret_cast<Vector<T>*>(shared));
#pragma unroll
  for (int iy = 0; iy < 3; ++iy) {
    for_each_logit<S>(s, tile, iy, [&](int slot, std::int64_t at, bool inside) {
      if (inside) staged[slot] = to_accumulator(a.logits[at]);
    });
    __syncthreads();
    if (p.inside && is_element<S>(p.y, iy, s.padding, s.grid_height)) {
#pragma unroll
      for (int ix = 0; ix < 3; ++ix) {
        if (!is_element<S>(p.x, ix, s.padding, s.grid_width)) continue;
        A* const slot = staged + int(threadIdx.x) * kStagedRow + ix * 9;
        const T* const mask = a.mask ? a.mask + row_offset<S>(s, tile, p, iy, ix) : nullptr;
        A row[9], gradient[9], mean = 0;
        softmax_row(slot, a.scale, row);
#pragma unroll
        for (int j = 0; j < 9; ++j) {
          const int tap = (2 - iy + j / 3) * kReach + 2 - ix + j % 3;
          const A keep = mask ? to_accumulator(mask[j]) : A(1);
          kernel[tap] += row[j] * keep;
          gradient[j] = dot[tap] * keep;
          mean += row[j] * gradient[j];
        }
#pragma unroll
        for (int j = 0; j < 9; ++j) slot[j] = row[j] * (gradient[j] - mean) * a.scale;
      }
    }
    __syncthreads();
    for_each_logit<S>(s, tile, iy, [&](int slot, std::int64_t at, bool inside) {
      a.grad_logits[at] = from_accumulator<T>(inside ? staged[slot] : A(0));
    });
    __syncthreads();
  }
  if (!p.inside) return;
  const std::int64_t plane = std::int64_t(s.height) * s.width;
  A* const out = a.kernels + (tile.batch * s.heads + tile.head) * kTaps * plane + pixel_index(s, 0, p.y, p.x);
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) out[tap * plane] = kernel[tap];
}

template <class T>
struct TiledValue {
  TiledShape s;
  const Accumulator<T>* kernels;
  const T* grad_output;
  T* grad_value;
};

// The pixel at tap - kHalo from p reached p with the opposite offset.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 5) tiled_value(const TiledValue<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(unsigned char, shared);
  const TiledShape& s = a.s;
  const Tile tile = tile_of_block(s);
  const Pixel p = pixel_of_thread<1>(s, tile);
  const std::int64_t plane = std::int64_t(s.height) * s.width;
  const A* const kernels = a.kernels + (tile.batch * s.heads + tile.head) * kTaps * plane;
  A weight[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    const int y = p.y + tap / kReach - kHalo, x = p.x + tap % kReach - kHalo;
    const bool inside = p.inside && y >= 0 && y < s.height && x >= 0 && x < s.width;
    weight[tap] = inside ? kernels[(kTaps - 1 - tap) * plane + pixel_index(s, 0, y, x)] : A(0);
  }
  weighted_sum<1>(s, tile, p, weight, {}, {}, a.grad_output, a.grad_value, reinterpret_cast<Vector<T>*>(shared));
}

template <class T>
struct GeneralLogits : General<T> {
  const T* grad_output;
  T* grad_logits;
  Accumulator<T>* kernels;
};

template <class T>
__global__ void __launch_bounds__(4 * kWarpSize, 5) general_logits(const GeneralLogits<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(A, shared);
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  A* const dot = shared + warp * outlook_backward_scratch(a.kernel());
  A* const largest = dot + a.offsets();
  A* const factor = largest + a.elements();
  A* const mean = factor + a.elements();
  const Item item = item_of_warp(a);
  if (!item.exists) return;  // all lanes of the warp
  if (!item.inside) {        // these rows feed no pixel
    for (int at = lane; at < item.count() * a.elements(); at += kWarpSize) {
      const int row = at / a.elements();
      a.grad_logits[row_start(a, item, item.iy(row), item.ix(row)) + at % a.elements()] = from_accumulator<T>(A(0));
    }
    return;
  }

  normalise_rows(a, item, largest, factor);
  __syncwarp();
  const OutlookShape& s = a.s;
  const std::int64_t own = value_at(a, item.batch, item.y, item.x, item.head), plane = s.height * s.width;
  A* const kernels =
      a.kernels + (item.batch * s.heads + item.head) * a.offsets() * plane + item.y * s.width + item.x;
  for (int d = lane; d < a.offsets(); d += kWarpSize) {
    const int dy = d / a.side(), dx = d % a.side();
    kernels[d * plane] = kernel_at(a, item, dy, dx, largest, factor);
    A sum = 0;
    if (is_tap(a, item, dy, dx)) {
      const std::int64_t shift = (dy - a.kernel() + 1) * s.width + (dx - a.kernel() + 1);
      const T* const from = a.value + own + shift * s.heads * s.head_dim;
      for (std::int64_t c = 0; c < s.head_dim; ++c)
        sum += to_accumulator(a.grad_output[own + c]) * to_accumulator(from[c]);
    }
    dot[d] = sum;
  }
  __syncwarp();

  // Softmax backward: scale * s_j * (g_j - sum_k s_k g_k), g_j = dot at the offset of element j.
  const auto weight_and_gradient = [&](int row, std::int64_t start, int j, A& weight, A& gradient) {
    const int dy = a.kernel() - 1 - item.iy(row) + j / a.kernel(), dx = a.kernel() - 1 - item.ix(row) + j % a.kernel();
    weight = exponential(scaled_logit(a, start + j) - largest[row]) * factor[row];
    gradient = dot[dy * a.side() + dx] * kept(a, start + j);
  };
  for (int row = lane; row < item.count(); row += kWarpSize) {
    const std::int64_t start = row_start(a, item, item.iy(row), item.ix(row));
    A sum = 0, weight, gradient;
    for (int j = 0; j < a.elements(); ++j) {
      weight_and_gradient(row, start, j, weight, gradient);
      sum += weight * gradient;
    }
    mean[row] = sum;
  }
  __syncwarp();
  for (int row = 0; row < item.count(); ++row) {
    const std::int64_t start = row_start(a, item, item.iy(row), item.ix(row));
    A weight, gradient;
    for (int j = lane; j < a.elements(); j += kWarpSize) {
      weight_and_gradient(row, start, j, weight, gradient);
      a.grad_logits[start + j] = from_accumulator<T>(weight * (gradient - mean[row]) * a.scale);
    }
  }
}

template <class T>
struct GeneralValue {
  OutlookShape s;
  const Accumulator<T>* kernels;
  const T* grad_output;
  T* grad_value;
};

template <class T>
__global__ void __launch_bounds__(kGatherThreads) general_value(const GeneralValue<T> a) {
  const OutlookShape& s = a.s;
  const std::int64_t at = std::int64_t(blockIdx.x) * kGatherThreads + threadIdx.x;
  const std::int64_t channels = s.heads * s.head_dim, plane = s.height * s.width;
  const std::int64_t batch = at / channels / plane, pixel = at / channels % plane;
  if (batch >= s.batch) return;
  const std::int64_t y = pixel / s.width, x = pixel % s.width, head = at % channels / s.head_dim;
  const int side = 2 * int(s.kernel_size) - 1, reach = int(s.kernel_size) - 1;
  const Accumulator<T>* const kernels = a.kernels + (batch * s.heads + head) * side * side * plane;
  Accumulator<T> sum = 0;
  for (int dy = 0; dy < side; ++dy)
    for (int dx = 0; dx < side; ++dx) {  // the pixel that reaches this one by (dy, dx)
      const std::int64_t oy = reach - dy, ox = reach - dx;
      if (y + oy < 0 || y + oy >= s.height || x + ox < 0 || x + ox >= s.width) continue;
      const std::int64_t shift = oy * s.width + ox;
      sum += kernels[(dy * side + dx) * plane + pixel + shift] * to_accumulator(a.grad_output[at + shift * channels]);
    }
  a.grad_value[at] = from_accumulator<T>(sum);
}

template <class T>
void backward(const OutlookShape& s, double scale, const T* value, const T* logits, const T* mask,
              const T* grad_output, T* grad_value, T* grad_logits, Accumulator<T>* kernels, void* stream) {
  using A = Accumulator<T>;
  if constexpr (!std::is_same_v<T, double>) {
    if (outlook_is_tiled(s, sizeof(T), is_aligned(value) && is_aligned(grad_output) && is_aligned(grad_value))) {
      const TiledLogits<T> arguments{TiledShape(s, kVectorSize<T>, s.padding), A(scale), value, logits, mask,
                                     grad_output, grad_logits, kernels};
      launch(s.stride == 1 ? tiled_logits<T, 1> : tiled_logits<T, 2>, outlook_tiled_launch(s, s.padding), stream,
             arguments);
      return launch(tiled_value<T>, outlook_tiled_launch(s, 0), stream,
                    {TiledShape(s, kVectorSize<T>, 0), kernels, grad_output, grad_value});
    }
  }
  const std::int64_t scratch = outlook_backward_scratch(s.kernel_size) * std::int64_t(sizeof(A));
  const std::int64_t pixels = s.batch * (s.height + 2 * s.padding) * (s.width + 2 * s.padding);
  launch(general_logits<T>, outlook_general_launch(s, pixels, scratch), stream,
         {{s, A(scale), value, logits, mask, s.padding}, grad_output, grad_logits, kernels});
  launch(general_value<T>, outlook_gather_launch(s), stream, {s, kernels, grad_output, grad_value});
}

}  // namespace
}  // namespace cuda

void outlook_attention_backward_cuda(DType dtype, const OutlookShape& shape, double scale, const void* value,
                                     const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                     void* grad_logits, void* workspace, void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    cuda::backward<T>(shape, scale, static_cast<const T*>(value), static_cast<const T*>(logits),
                      static_cast<const T*>(mask), static_cast<const T*>(grad_output), static_cast<T*>(grad_value),
                      static_cast<T*>(grad_logits), static_cast<cuda::Accumulator<T>*>(workspace), stream);
  });
}

}  // namespace mffpa
