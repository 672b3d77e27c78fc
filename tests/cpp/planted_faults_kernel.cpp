// A kernel like those of csrc/cpu, compiled once per instruction set, with faults that the sanitizers must report.
#include "cpu/packs.h"

namespace mffpa::MFFPA_ISA {

// Doubles the elements of from[0..count) into to: whole vectors first, then single elements.
void twice(const float* from, std::int64_t count, float* to) {
  for_each_pack<float>(count, [&]<class V, int N>(std::int64_t at) {
    for (int k = 0; k < N; ++k) {
      const std::int64_t i = at + k * kWidth<V, float>;
      store_as<V>(to + i, V(load_as<V>(from + i) * 2.0f));
    }
  });
}

std::int64_t pixels(std::int64_t height, std::int64_t width) { return height * width; }

}  // namespace mffpa::MFFPA_ISA
