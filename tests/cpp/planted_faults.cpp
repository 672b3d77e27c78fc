// Commits the fault that its argument names, in the kernel of the instruction set MFFPA_CPU_ISA: ctest expects the
// sanitizer's report. One element beyond a heap array ("read", "write"), a signed overflow ("undefined"), or "none".
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <string>
#include <vector>

#include "cpu/isa.h"

namespace mffpa {

#define MFFPA_DECLARE_FAULTS(isa)                                    \
  namespace isa {                                                    \
  void twice(const float* from, std::int64_t count, float* to);      \
  std::int64_t pixels(std::int64_t height, std::int64_t width);      \
  }

MFFPA_DECLARE_FAULTS(baseline)
MFFPA_DECLARE_FAULTS(avx2)
MFFPA_DECLARE_FAULTS(avx512)

}  // namespace mffpa

int main(int, char** arguments) try {
  using namespace mffpa;
  const std::string fault = arguments[1];
  // The last of 16 elements is the end of a whole vector in every instruction set.
  const std::vector<float> from(fault == "read" ? 15 : 16);
  std::vector<float> to(fault == "write" ? 15 : 16);
  MFFPA_SELECT(twice)(from.data(), 16, to.data());
  const std::int64_t large = fault == "undefined" ? std::numeric_limits<std::int64_t>::max() : 1;
  std::printf("unnoticed: %g %lld\n", to[0], static_cast<long long>(MFFPA_SELECT(pixels)(large, 2)));
} catch (const std::exception& error) {
  std::printf("%s\n", error.what());  // ctest recognises this as: not on this CPU
}
