// selected_isa() obeys MFFPA_CPU_ISA, and falls back on nothing when that is wrong. ctest runs this once per
// instruction set, with the variable set.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "cpu/isa.h"

int main() {
  using mffpa::Isa;
  int failures = 0;
  const auto expect = [&](bool condition, const char* what) {
    if (!condition) std::printf("FAILED: %s\n", what), ++failures;
  };

  expect(mffpa::isa_supported(Isa::kBaseline), "baseline runs everywhere");
  expect(!mffpa::isa_supported(Isa::kAvx512) || mffpa::isa_supported(Isa::kAvx2), "AVX-512 kernels also use AVX2");

  const char* requested = std::getenv("MFFPA_CPU_ISA");
  const std::string wanted = requested ? requested : "";
  setenv("MFFPA_CPU_ISA", "no-such-set", 1);
  try {
    mffpa::selected_isa();
    expect(false, "an unknown name must be refused");
  } catch (const std::exception& error) {
    expect(std::string(error.what()).find("no-such-set") != std::string::npos, "the message repeats the name");
  }

  setenv("MFFPA_CPU_ISA", wanted.c_str(), 1);  // a failed choice is not remembered; empty means the best
  try {
    const std::string selected = mffpa::isa_name(mffpa::selected_isa());
    expect(wanted.empty() || selected == wanted, "the named instruction set is used");
    setenv("MFFPA_CPU_ISA", "no-such-set", 1);
    expect(mffpa::isa_name(mffpa::selected_isa()) == selected, "a successful choice is made once");
    std::printf("selected %s\n", selected.c_str());
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());  // ctest recognises this as: not on this CPU
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
