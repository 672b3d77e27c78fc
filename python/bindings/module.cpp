// The Python module mffpa_ext._C: facts about the build, and the instruction set in use. Loading it also runs the
// static initialisers of the other bindings, which register the operators with torch.
//
// pybind11 only: torch's include folder carries a pybind11 of its own, which does not compile under
// TORCH_TARGET_VERSION, so no torch header may be included here.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "build_facts.h"
#include "cpu/isa.h"

namespace {

pybind11::list split_at_spaces(const char* text) {
  pybind11::list words;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) words.append(word);
  return words;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  const mffpa::BuildFacts& facts = mffpa::build_facts;
  module.doc() = "Compiled kernels of mffpa_ext: build facts here, operators under torch.ops.mffpa_ext.";
  module.attr("version") = facts.version;
  module.attr("torch") = facts.torch;
  module.attr("torch_cuda") = *facts.torch_cuda ? pybind11::cast(facts.torch_cuda) : pybind11::none();
  module.attr("compiler") = facts.compiler;
  module.attr("cxx_standard") = facts.cxx_standard;
  module.attr("cuda_version") = facts.cuda_version;
  module.attr("cuda_reason") = facts.cuda_reason;
  module.attr("source_hash") = facts.source_hash;
  module.attr("isas") = split_at_spaces(facts.isas);
  module.attr("cuda_archs") = split_at_spaces(facts.cuda_archs);
#ifdef MFFPA_WITH_CUDA
  module.attr("has_cuda") = true;
#else
  module.attr("has_cuda") = false;
#endif
  module.def(
      "cpu_isa", [] { return mffpa::isa_name(mffpa::selected_isa()); },
      "Instruction set that the CPU kernels use: the best that this CPU has, or the one named by MFFPA_CPU_ISA.");
}
