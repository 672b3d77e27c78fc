"""Decides, before setup() runs, what will be compiled, with what, and why something is left out.

Three outcomes: the kernels are compiled; they are left out with a reason (no usable compiler, or on request), and the
package runs on its PyTorch fallback; or the build stops, because a Python package that it needs is missing and pip
was told not to bring it (--no-build-isolation).
"""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build_compiler import Compiler, find_compiler
from build_cuda import CudaPlan, plan_cuda

# Ordered from the least to the most demanding: build_ninja.py links them in this order, and says why.
X86_ISA_FLAGS = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
}


@dataclass(frozen=True)
class TorchInstallation:
    """The torch whose headers are compiled against. It is looked at, never imported: importing takes seconds."""

    folder: Path
    version: str
    cuda: str | None


@dataclass(frozen=True)
class BuildPlan:
    """What to compile; `reason` says why there are no kernels and is empty when there are."""

    reason: str = ""
    compiler: Compiler = field(default_factory=Compiler)
    torch: TorchInstallation | None = None
    cuda: CudaPlan = field(default_factory=lambda: CudaPlan("no compiled kernels at all"))
    isa_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def compiled(self) -> bool:
        return not self.reason

    def describe(self) -> list[str]:
        """Lines for the build log."""
        if not self.compiled:
            return [
                f"mffpa_ext: WARNING: compiled kernels are left out: {self.reason}.",
                "mffpa_ext: WARNING: the package will run on slower pure-PyTorch code.",
            ]
        assert self.torch is not None
        cuda = f"for {' '.join(self.cuda.architectures)}" if self.cuda.enabled else f"left out: {self.cuda.reason}"
        return [
            f"mffpa_ext: compiling with {self.compiler.description} against torch {self.torch.version}",
            f"mffpa_ext: instruction sets {' '.join(self.isa_flags)}; CUDA kernels {cuda}",
        ]


def make_plan(root: Path, environment: Mapping[str, str] = os.environ) -> BuildPlan:
    """Looks at the machine and at the sources under `root`. Stops with one clear line where it cannot go on."""
    compiler = find_compiler(environment)
    if compiler.unusable_because:
        return BuildPlan(reason=compiler.unusable_because)
    for name in ("pybind11", "ninja"):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(_needs(name, f"pip install {name}"))
    torch = find_torch()
    cuda_sources = any((root / "csrc" / "cuda").glob("*.cu"))
    cuda = plan_cuda(environment, torch.version, torch.cuda, compiler.for_nvcc, cuda_sources)
    return BuildPlan("", compiler, torch, cuda, isa_flags_here())


def isa_flags_here() -> dict[str, tuple[str, ...]]:
    """Instruction sets to compile the CPU kernels for, with their compiler flags; elsewhere than x86-64 only one."""
    is_x86_64 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    return dict(X86_ISA_FLAGS) if is_x86_64 else {"baseline": ()}


def find_torch() -> TorchInstallation:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(_needs("torch", "pip install 'torch>=2.10'"))
    folder = Path(spec.origin).parent
    facts = _assignments(folder / "version.py")
    version = str(facts.get("__version__", "0"))
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < (2, 10):
        raise SystemExit(_needs("torch >= 2.10", "pip install -U torch", found=f"torch {version}"))
    cuda = facts.get("cuda")
    return TorchInstallation(folder, version, str(cuda) if cuda else None)


def _assignments(path: Path) -> dict[str, object]:
    """The constants that a module such as torch/version.py assigns, read without running it."""
    constants: dict[str, object] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            constants[target.id] = value.value
    return constants


def _needs(what: str, command: str, found: str = "none") -> str:
    return (
        f"mffpa_ext: building the kernels needs {what}; found {found}. Run `{command}`, or build without "
        "--no-build-isolation; MFFPA_BUILD=none installs without compiled kernels."
    )
