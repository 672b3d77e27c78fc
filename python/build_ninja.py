"""Writes the ninja file for the compiled module and runs it.

ninja is driven directly and not through torch's BuildExtension: that one refuses to compile .cu files for a CPU build
of torch, has no per-file flags, and would compile every file once where the CPU kernels need one object per
instruction set.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from build_compiler import CXX_STANDARD
from build_facts import Facts, as_cpp
from build_plan import BuildPlan

# Calls into torch go through the C shims that every torch since 2.10 has: one binary loads in all of them.
TORCH_TARGET_VERSION = "0x020a000000000000"

# No -ffast-math: sums keep their order, infinities and NaN their meaning. The two switches only drop what nobody reads
# (errno of sqrt and exp, floating-point exception flags) and let loops with them be vectorised.
CXX_FLAGS = (
    *(f"-std=c++{CXX_STANDARD}", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fno-math-errno", "-fno-trapping-math"),
)
NVCC_FLAGS = (f"-std=c++{CXX_STANDARD}", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall")


def build_library(root: Path, work: Path, plan: BuildPlan, facts: Facts) -> Path:
    """Compiles what changed since the last call with the same `work` folder; returns the library."""
    work.mkdir(parents=True, exist_ok=True)
    library = work / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    write_if_changed(work / "build_facts.cpp", as_cpp(facts))
    write_if_changed(work / "build.ninja", _NinjaFile(root, work, plan).text(library.name))
    command = [find_ninja(), "-C", str(work)]
    if jobs := os.environ.get("MAX_JOBS"):
        command += ["-j", jobs]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(
            "mffpa_ext: compiling the kernels failed; the compiler's messages stand above. "
            "MFFPA_BUILD=none installs without compiled kernels."
        )
    return library


def find_ninja() -> str:
    """The program of the `ninja` package; it need not be on PATH when the package comes from a parent environment."""
    for file in importlib.metadata.files("ninja") or ():
        path = Path(str(file.locate()))
        if file.name == "ninja" and path.is_file():
            return str(path.resolve())
    if on_path := shutil.which("ninja"):
        return on_path
    raise SystemExit("mffpa_ext: the ninja package has no program, and none is on PATH. Run `pip install -U ninja`.")


def write_if_changed(path: Path, text: str) -> None:
    """An unchanged file keeps its time stamp, so that ninja does not compile it again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


class _NinjaFile:
    """Collects rules and build statements. Object paths are relative to the work folder, sources are absolute."""

    def __init__(self, root: Path, work: Path, plan: BuildPlan) -> None:
        import pybind11  # not at the top: commands that compile nothing must do without it

        assert plan.torch is not None
        self.root, self.work, self.plan, self.torch = root, work, plan, plan.torch.folder
        self.pybind11_include = Path(pybind11.get_include())
        self.defines = ["-DMFFPA_X86_ISAS=1"] if len(plan.isa_flags) > 1 else []
        if plan.cuda.enabled:
            self.defines.append("-DMFFPA_WITH_CUDA")
        self.objects: list[str] = []
        self.lines: list[str] = []

    def text(self, library: str) -> str:
        self._rules()
        self._plain_sources()
        self._bindings()
        self._cuda_kernels()
        # After everything else, in rising order of demands. Where two objects hold the same inline function, the
        # linker keeps the first: a copy that was compiled with AVX-512 must never be the one the baseline code calls.
        for isa, flags in self.plan.isa_flags.items():
            for source in sorted((self.root / "csrc" / "cpu").glob("*_kernel.cpp")):
                self._compile(source, [f"-DMFFPA_ISA={isa}", *flags], suffix=f".{isa}")
        self.lines.append(f"build {_path(library)}: link {' '.join(map(_path, self.objects))}")
        return "\n".join(["ninja_required_version = 1.8", *self.lines, ""])

    def _rules(self) -> None:
        compiler, cuda = self.plan.compiler.command, self.plan.cuda
        # -MD and not -MMD, which leaves out -isystem headers: a torch upgraded in place must compile the bindings anew.
        common = [*self.defines, f"-I{self.root / 'csrc'}", "-MD", "-MF", "$out.d"]
        # Headers mention __FILE__ in their messages: the prefix maps keep the building machine's folders out of them.
        prefixes = [self.root, self.torch.parent, self.pybind11_include.parents[1]]
        maps = [f"-ffile-prefix-map={prefix}=." for prefix in prefixes]
        cxx = [*compiler, *CXX_FLAGS, *maps, *common]
        self._rule("cxx", [*cxx, *shlex.split(os.environ.get("CXXFLAGS", "")), "$flags", "-c", "$in", "-o", "$out"])
        linker, pass_on = [*compiler, "-shared"], "-Wl,"
        user_flags = shlex.split(os.environ.get("LDFLAGS", ""))
        if cuda.enabled:
            nvcc = [cuda.nvcc, "-ccbin", self.plan.compiler.for_nvcc]
            self._rule("nvcc", [*nvcc, *NVCC_FLAGS, *cuda.gencode_flags(), *common, "-c", "$in", "-o", "$out"])
            # nvcc as the linker knows where the CUDA runtime lies.
            linker, pass_on = [*nvcc, "-shared", "-cudart", "shared" if cuda.shared_runtime else "static"], "-Xlinker="
            user_flags = _linker_flags_for_nvcc(user_flags)
        # libtorch must stay among the needed libraries although no symbol of it is used: in a CUDA build of torch it
        # is what brings in libtorch_cuda, which the kernels ask for the current stream.
        # One option, because nvcc moves separate -Xlinker options away from the library that they are meant for.
        torch = [f"-L{self.torch / 'lib'}", f"{pass_on}--no-as-needed,-ltorch,--as-needed"]
        torch += ["-ltorch_cpu", "-lc10", *user_flags]
        self._rule("link", [*linker, "-o", "$out", "$in", *torch], depfile=False)

    def _plain_sources(self) -> None:
        kernels = set((self.root / "csrc" / "cpu").glob("*_kernel.cpp"))
        for source in sorted(set((self.root / "csrc").rglob("*.cpp")) - kernels):
            self._compile(source)
        self._compile(self.work / "build_facts.cpp", [f"-I{self.root / 'python' / 'bindings'}"])

    def _bindings(self) -> None:
        bindings = self.root / "python" / "bindings"
        pybind = ["-isystem", str(self.pybind11_include), "-isystem", sysconfig.get_path("include")]
        torch = ["-isystem", str(self.torch / "include"), f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
        if self.plan.cuda.enabled:
            torch.append("-DUSE_CUDA")  # makes the stable headers declare what is about CUDA
        for source in sorted(bindings.glob("*.cpp")):
            self._compile(source, pybind if source.name == "module.cpp" else torch)

    def _cuda_kernels(self) -> None:
        if self.plan.cuda.enabled:
            for source in sorted((self.root / "csrc" / "cuda").glob("*.cu")):
                self._compile(source, rule="nvcc")

    def _compile(self, source: Path, flags: list[str] | None = None, suffix: str = "", rule: str = "cxx") -> None:
        base = self.root if source.is_relative_to(self.root) and not source.is_relative_to(self.work) else self.work
        target = f"{source.relative_to(base).as_posix()}{suffix}.o"
        self.lines.append(f"build {_path(target)}: {rule} {_path(str(source))}")
        if flags:
            self.lines.append(f"  flags = {_command(flags)}")
        self.objects.append(target)

    def _rule(self, name: str, command: list[str], depfile: bool = True) -> None:
        self.lines += [f"rule {name}", f"  command = {_command(command)}", f"  description = {name} $out"]
        if depfile:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]


def _linker_flags_for_nvcc(flags: list[str]) -> list[str]:
    """nvcc as the linker does not know the notation of the C++ compiler, which conda environments always set."""
    return [
        flag if flag.startswith(("-L", "-l"))
        else f"-Xlinker={flag.removeprefix('-Wl,')}" if flag.startswith("-Wl,")
        else f"-Xcompiler={flag}"
        for flag in flags
    ]  # fmt: skip


def _command(words: list[str]) -> str:
    """Quotes for the shell; ninja's own variables, which it quotes itself, pass through."""
    variables = {"$in", "$out", "$out.d", "$flags"}
    return " ".join(word if word in variables else shlex.quote(word).replace("$", "$$") for word in words)


def _path(path: str) -> str:
    """Escapes a path for a build statement of a ninja file."""
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
