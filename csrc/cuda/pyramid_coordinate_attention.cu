// Coordinate attention over the branches of a pyramid on CUDA, for inference, two launches: the logits of every row and
// column, each block from the means of its own lines; then the gate. The first reads the tensor twice, the second time
// mostly from the cache, the gate once more.
#include "cuda/pyramid_gate_config.h"
#include "cuda/warp.h"

namespace mffpa {
namespace cuda {
namespace {

template <class A>
struct Coordinate {  // as CoordinateWeights
  int hidden;
  const A *conv1_weight, *conv1_bias, *bn_weight, *bn_bias, *bn_mean, *bn_var;
  A bn_eps;
  const A *conv_weight[2], *conv_bias[2];  // of rows and columns
};

template <class T>
struct MakeLogits {
  CoordinateGrid grid;
  std::int64_t channels, height, width;  // channels of one branch
  int branches;
  const T* x;
  Coordinate<Accumulator<T>> p;
  Accumulator<T>* logits[2];  // of rows and columns, in the order of x
};

// The lines of a block: neighbouring rows or columns of one branch of one image.
struct Lines {
  std::int64_t batch, branch, first, size, length;  // `size` lines of `length` pixels in the image
  int direction, count;                             // rows 0, columns 1; lines of this block
};

template <class T>
MFFPA_DEVICE Lines lines_of_block(const MakeLogits<T>& a) {
  const unsigned tiles = a.grid.row_tiles + a.grid.column_tiles;
  const unsigned tile = blockIdx.x % tiles, piece = blockIdx.x / tiles;
  Lines b;
  b.batch = piece / a.branches, b.branch = piece % a.branches;
  b.direction = tile < a.grid.row_tiles ? 0 : 1;
  b.size = b.direction == 0 ? a.height : a.width, b.length = b.direction == 0 ? a.width : a.height;
  b.first = std::int64_t(b.direction == 0 ? tile : tile - a.grid.row_tiles) * a.grid.lines;
  b.count = int(b.size - b.first < a.grid.lines ? b.size - b.first : a.grid.lines);
  return b;
}

// Which share of the sums a thread takes: every few pixels of a line, from `pixel` on. Neighbours read neighbours.
struct Share {
  int pixel, line, channel, channel_step;  // channels from `channel` on, `channel_step` apart, within the chunk
};

template <int N, bool kByPixel>
MFFPA_DEVICE Share share_of_thread(const CoordinateGrid& g, int direction) {
  const int t = int(threadIdx.x);
  if constexpr (kByPixel) return {t / g.groups, 0, t % g.groups * N, g.chunk};
  const int inner = direction == 0 ? g.pixels : g.lines, outer = direction == 0 ? g.lines : g.pixels;
  const int fast = t % inner, slow = t / inner % outer, each = inner * outer;
  return {direction == 0 ? fast : slow, direction == 0 ? slow : fast, t / each, kLogitThreads / each};
}

// Means of the block's lines for the channels from `first` on, into means[line][channel of the chunk].
template <int N, bool kByPixel, class T, class A = Accumulator<T>>
MFFPA_DEVICE void take_means(const MakeLogits<T>& a, const Lines& b, std::int64_t first, int count, A* partials,
                             A* means) {
  const CoordinateGrid& g = a.grid;
  const Share share = share_of_thread<N, kByPixel>(g, b.direction);
  const std::int64_t all = a.channels * a.branches, line = b.first + share.line;
  const std::int64_t pixel = kByPixel ? all : 1, row = a.width * pixel;  // distances in memory
  const std::int64_t step = b.direction == 0 ? pixel : row;
  for (int c = share.channel; c < count && share.line < b.count; c += share.channel_step) {
    const std::int64_t channel = b.branch * a.channels + first + c;
    const T* const from = a.x + (kByPixel ? b.batch * a.height * a.width * all + channel
                                          : (b.batch * all + channel) * a.height * a.width) +
                          line * (b.direction == 0 ? row : pixel);
    A sums[N] = {};
#pragma unroll 4
    for (std::int64_t i = share.pixel; i < b.length; i += g.pixels) {
      const Vector<T, N> vector = load_vector<T, N>(from + i * step);
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k] += to_accumulator(vector.at[k]);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) partials[(share.line * g.pixels + share.pixel) * g.pitch + c + k] = sums[k];
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < b.count * count; i += kLogitThreads) {
    const int l = i / count, c = i % count;
    A sum = partials[l * g.pixels * g.pitch + c];
    for (int pixel = 1; pixel < g.pixels; ++pixel) sum += partials[(l * g.pixels + pixel) * g.pitch + c];
    means[l * g.chunk + c] = sum / A(b.length);
  }
  __syncthreads();
}

template <class A>
MFFPA_DEVICE A hard_swish(A x) {
  const A gate = x + A(3), above = gate < A(0) ? A(0) : gate;  // keeps NaN
  return x * (above > A(6) ? A(6) : above) / A(6);
}

// N: channels that a thread reads at once, where x is channels last.
template <class T, int N, bool kByPixel>
__global__ void __launch_bounds__(kLogitThreads, 4) coordinate_logits(const MakeLogits<T> a) {
  using A = Accumulator<T>;
  MFFPA_DYNAMIC_SHARED(A, partials);
  const CoordinateGrid& g = a.grid;
  const Coordinate<A>& p = a.p;
  A *const means = partials + g.pitch * g.lines * g.pixels, *const hidden = means + g.lines * g.chunk;
  const Lines b = lines_of_block(a);
  const int warp = int(threadIdx.x) / kWarpSize, lane = int(threadIdx.x) % kWarpSize;
  for (std::int64_t first = 0; first < a.channels; first += g.chunk) {
    const int count = int(a.channels - first < g.chunk ? a.channels - first : g.chunk);
    take_means<N, kByPixel>(a, b, first, count, partials, means);
    // The shared convolution's share of this chunk, a warp per hidden channel of a line.
    for (int i = warp; i < b.count * p.hidden; i += kLogitThreads / kWarpSize) {
      const int l = i / p.hidden, m = i % p.hidden;
      A sum = 0;
      for (int c = lane; c < count; c += kWarpSize)
        sum += p.conv1_weight[m * a.channels + first + c] * means[l * g.chunk + c];
      sum = warp_sum(sum);
      if (lane == 0) hidden[i] = first == 0 ? sum : hidden[i] + sum;
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < b.count * p.hidden; i += kLogitThreads) {
    const int m = i % p.hidden;
    const A scale = p.bn_weight[m] / root(p.bn_var[m] + p.bn_eps);
    hidden[i] = hard_swish((hidden[i] + p.conv1_bias[m] - p.bn_mean[m]) * scale + p.bn_bias[m]);
  }
  __syncthreads();
  const A *const weight = p.conv_weight[b.direction], *const bias = p.conv_bias[b.direction];
  A* const logits = a.logits[b.direction];
  const std::int64_t all = a.channels * a.branches;
  for (unsigned i = threadIdx.x; i < unsigned(b.count * a.channels); i += kLogitThreads) {
    const int c = int(kByPixel ? i : i / unsigned(b.count)), l = int(kByPixel ? 0 : i % unsigned(b.count));
    A sum = bias[c];
    for (int m = 0; m < p.hidden; ++m) sum += weight[std::int64_t(c) * p.hidden + m] * hidden[l * p.hidden + m];
    const std::int64_t channel = b.branch * a.channels + c, line = b.first + l;
    logits[kByPixel ? (b.batch * b.size + line) * all + channel : (b.batch * all + channel) * b.size + line] = sum;
  }
}

template <class T>
void make_logits(const PlaneShape& s, const GateOptions& options, const T* x, const CoordinateWeights& w,
                 Accumulator<T>* row_logits, Accumulator<T>* column_logits, void* stream) {
  using A = Accumulator<T>;
  const auto of = [](const void* pointer) { return static_cast<const A*>(pointer); };
  const std::int64_t channels = s.channels / options.branches;
  const bool by_pixel = s.layout == Layout::kChannelsLast;
  const bool vectors = by_pixel && is_aligned(x) && channels % kVectorSize<T> == 0;
  const CoordinateGrid grid(s, options, w.hidden, vectors ? kVectorSize<T> : 1);
  const MakeLogits<T> arguments{
      grid, channels, s.height, s.width, int(options.branches), x,
      {int(w.hidden), of(w.conv1_weight), of(w.conv1_bias), of(w.bn_weight), of(w.bn_bias), of(w.bn_mean), of(w.bn_var),
       A(w.bn_eps), {of(w.conv_h_weight), of(w.conv_w_weight)}, {of(w.conv_h_bias), of(w.conv_w_bias)}},
      {row_logits, column_logits}};
  launch(vectors ? coordinate_logits<T, kVectorSize<T>, true>
         : by_pixel ? coordinate_logits<T, 1, true> : coordinate_logits<T, 1, false>,
         grid.launch(s, options, w.hidden, sizeof(A)), stream, arguments);
}

}  // namespace
}  // namespace cuda

std::int64_t pyramid_coordinate_attention_workspace_cuda(const PlaneShape& s) {
  return s.batch * s.channels * (s.height + s.width);
}

void pyramid_coordinate_attention_cuda(DType dtype, const PlaneShape& s, const GateOptions& options, const void* x,
                                       const CoordinateWeights& weights, void* y, void* workspace, void* stream) {
  cuda::with_element_type(dtype, [&]<class T>(T) {
    auto* const rows = static_cast<cuda::Accumulator<T>*>(workspace);
    auto* const columns = rows + s.batch * s.channels * s.height;
    cuda::make_logits(s, options, static_cast<const T*>(x), weights, rows, columns, stream);
    pyramid_gate_forward_cuda(dtype, s, options, x, rows, s.height, columns, y, stream);
  });
}

}  // namespace mffpa
