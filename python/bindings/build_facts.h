// Facts about the build that produced this library. python/build_facts.py generates the definition; the order of the
// fields is part of that agreement.
#pragma once

namespace mffpa {

struct BuildFacts {
  const char* version;       // of the package
  const char* torch;         // version of the torch that it was compiled against
  const char* torch_cuda;    // CUDA version of that torch, empty for a build without CUDA
  const char* compiler;      // first line of `<compiler> --version`
  int cxx_standard;          // 20 for C++20
  const char* cuda_version;  // of nvcc, empty without CUDA kernels
  const char* cuda_reason;   // why there are no CUDA kernels, empty with them
  const char* source_hash;   // see mffpa_ext/_source_hash.py
  const char* isas;          // instruction sets of the CPU kernels, separated by spaces
  const char* cuda_archs;    // GPU architectures as in TORCH_CUDA_ARCH_LIST, separated by spaces
};

extern const BuildFacts build_facts;

}  // namespace mffpa
