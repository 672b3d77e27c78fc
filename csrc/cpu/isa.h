// Which of the compiled variants of a CPU kernel runs.
//
// Every csrc/cpu/*_kernel.cpp is compiled once per instruction set, into namespace MFFPA_ISA. The dispatcher beside it
// (csrc/cpu/<op>.cpp, compiled once, for any CPU) switches on selected_isa(). MFFPA_X86_ISAS is defined where variants
// other than baseline exist.
#pragma once

namespace mffpa {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// "baseline", "avx2" or "avx512".
const char* isa_name(Isa isa);

// Whether this CPU, and the operating system on it, can run kernels compiled for `isa`.
bool isa_supported(Isa isa);

// The best supported one, or the one that the environment variable MFFPA_CPU_ISA names; decided at the first call.
// Throws std::invalid_argument when MFFPA_CPU_ISA names none, or one that is not supported.
Isa selected_isa();

// The build of a kernel (an object that every variant's namespace has) for the selected instruction set.
#if defined(MFFPA_X86_ISAS)
#define MFFPA_SELECT(kernel)                                 \
  (selected_isa() == Isa::kAvx512 ? avx512::kernel           \
   : selected_isa() == Isa::kAvx2 ? avx2::kernel : baseline::kernel)
#else
#define MFFPA_SELECT(kernel) (baseline::kernel)
#endif

}  // namespace mffpa
