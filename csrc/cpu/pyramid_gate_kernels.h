// What each instruction set's build of the pyramid gate's *_kernel.cpp offers to the dispatcher in pyramid_gate.cpp,
// and the sizes of scratch that both sides must agree on.
#pragma once

#include "pyramid_gate.h"

namespace mffpa {

// Scratch is laid out for the widest vectors whatever the instruction set. A table is followed by one more vector,
// since the last line's last vector may be read from anywhere before its end.
constexpr std::int64_t kPadding = 16;
constexpr std::int64_t padded(std::int64_t count) { return (count + kPadding - 1) / kPadding * kPadding; }
constexpr std::int64_t table_size(std::int64_t count) { return padded(count) + kPadding; }

// Fewer elements are not worth a thread of their own.
constexpr std::int64_t kTaskElements = 16384;

// Channels-last sums over rows are made per chunk of so many image rows and merged in order.
constexpr std::int64_t rows_per_chunk(std::int64_t height) {
  return height <= 32 ? 4 : height <= 256 ? (height + 7) / 8 : 32;
}
constexpr std::int64_t row_chunks(std::int64_t height) {
  return (height + rows_per_chunk(height) - 1) / rows_per_chunk(height);
}

#define MFFPA_DECLARE_PYRAMID_GATE(isa)                                                       \
  namespace isa {                                                                             \
  extern const decltype(&directional_means_cpu) directional_means;                            \
  extern const decltype(&pyramid_gate_forward_cpu) pyramid_gate_forward;                      \
  extern const decltype(&pyramid_gate_backward_cpu) pyramid_gate_backward;                    \
  extern const decltype(&pyramid_coordinate_attention_cpu) pyramid_coordinate_attention;      \
  }

MFFPA_DECLARE_PYRAMID_GATE(baseline)
MFFPA_DECLARE_PYRAMID_GATE(avx2)
MFFPA_DECLARE_PYRAMID_GATE(avx512)

#undef MFFPA_DECLARE_PYRAMID_GATE

}  // namespace mffpa
