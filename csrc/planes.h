// How an image tensor lies in memory.
#pragma once

#include <cstdint>

namespace mffpa {

// Elements of one sample lie channel by channel (contiguous) or pixel by pixel (channels last).
enum class Layout : int { kContiguous = 0, kChannelsLast = 1 };

struct PlaneShape {
  std::int64_t batch, channels, height, width;
  Layout layout;
};

}  // namespace mffpa
