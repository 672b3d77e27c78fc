#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef MFFPA_X86_ISAS
#include <cpuid.h>
#endif

namespace mffpa {
namespace {

constexpr Isa kFromBestToLeast[] = {Isa::kAvx512, Isa::kAvx2, Isa::kBaseline};

#ifdef MFFPA_X86_ISAS
// Asked of the CPU itself: __builtin_cpu_supports knows the name "f16c" only in recent compilers.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

std::string supported_names() {
  std::string names;
  for (Isa isa : kFromBestToLeast) {
    if (isa_supported(isa)) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  return names;
}

Isa choose() {
  const char* requested = std::getenv("MFFPA_CPU_ISA");
  const bool any = requested == nullptr || *requested == '\0';
  for (Isa isa : kFromBestToLeast) {
    if ((any || std::string(requested) == isa_name(isa)) && isa_supported(isa)) return isa;
  }
  throw std::invalid_argument("MFFPA_CPU_ISA: expected one that this machine can run (" + supported_names() +
                              "), got '" + requested + "'; unset it to use the best one");
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    case Isa::kBaseline: break;
  }
  return "baseline";
}

bool isa_supported(Isa isa) {
  if (isa == Isa::kBaseline) return true;
#ifdef MFFPA_X86_ISAS
  __builtin_cpu_init();
  // These also check that the operating system saves the wide registers. One test per -m flag of the build
  // (X86_ISA_FLAGS in python/build_plan.py): the compiler may use every one of them anywhere in the variant.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == Isa::kAvx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

Isa selected_isa() {
  static const Isa isa = choose();  // a choice that throws is made again at the next call
  return isa;
}

}  // namespace mffpa
