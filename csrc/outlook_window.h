// Geometry of outlook attention, shared by every device: which windows cover a pixel, along one axis.
//
// Window q of the grid starts at stride*q - padding; its element i (0 <= i < kernel_size) is pixel
// p = stride*q - padding + i. Row (q, i) of the logits therefore feeds pixel p only, and weights the values at
// r = stride*q - padding + j = p + (j - i). Whatever the stride, the rows of one pixel thus add up to ONE kernel over
// the offsets d = j - i in [-(K-1), K-1]: (2K-1)^2 multiply-adds instead of up to K^2 * K^2. This "collapsed" form
// never has more terms than the sum over windows, and its result is written once per pixel: no atomics.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace mffpa {

// The elements i = first, first + stride, ..., last for which pixel p is element i of a window inside the grid;
// none (last = first - 1) where there is none. Along one axis.
struct ElementRange {
  std::int64_t first, last;
};

MFFPA_HOST_DEVICE inline ElementRange elements_covering(std::int64_t p, std::int64_t padding, std::int64_t stride,
                                                        std::int64_t kernel_size, std::int64_t grid) {
  const std::int64_t shifted = p + padding;                        // = stride * q + i
  std::int64_t first = shifted % stride;                           // smallest i >= 0 with a whole q
  const std::int64_t beyond = shifted - stride * (grid - 1);       // i >= beyond keeps q <= grid - 1
  if (beyond > first) first += (beyond - first + stride - 1) / stride * stride;
  const std::int64_t limit = shifted < kernel_size - 1 ? shifted : kernel_size - 1;  // i <= shifted keeps q >= 0
  return {first, first > limit ? first - 1 : limit - (limit - first) % stride};
}

MFFPA_HOST_DEVICE inline std::int64_t grid_size(std::int64_t size, std::int64_t padding, std::int64_t stride,
                                                std::int64_t kernel_size) {
  return (size + 2 * padding - kernel_size) / stride + 1;
}

}  // namespace mffpa
