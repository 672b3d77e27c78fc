"""Decides whether the CUDA kernels are built, with which nvcc, and for which GPUs.

MFFPA_CUDA=auto (default) builds them when torch has CUDA and a matching nvcc is there; 0 never; 1 always, also for a
CPU build of torch: the library then loads in CPU and CUDA builds alike. Only 1 turns a missing nvcc into an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Turing to Blackwell; one entry per major version, since code for 8.0 also runs on 8.6 and 8.9. PTX of the newest lets
# later GPUs compile it for themselves.
DEFAULT_ARCHITECTURES = "7.5;8.0;9.0;10.0;12.0+PTX"


@dataclass(frozen=True)
class CudaPlan:
    """How to compile .cu files; `reason` says why not, and is empty when they are compiled."""

    reason: str = ""
    nvcc: str = ""
    nvcc_version: str = ""
    architectures: tuple[str, ...] = ()
    shared_runtime: bool = False

    @property
    def enabled(self) -> bool:
        return not self.reason

    def gencode_flags(self) -> list[str]:
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


def plan_cuda(
    environment: Mapping[str, str], torch_version: str, torch_cuda: str | None, host_compiler: str, sources: bool
) -> CudaPlan:
    """`torch_cuda` is the CUDA version of the torch to build for (None: a CPU build), `sources` whether .cu exist."""
    requested = environment.get("MFFPA_CUDA", "auto")
    if requested not in ("auto", "0", "1"):
        raise SystemExit(f"mffpa_ext: MFFPA_CUDA must be 'auto', '0' or '1', got {requested!r}")
    if requested == "0":
        return CudaPlan("they were left out on request (MFFPA_CUDA=0)")
    if not sources:
        return CudaPlan("this version has none (no .cu file under csrc/cuda)")
    if requested == "auto" and not torch_cuda:
        return CudaPlan(f"torch {torch_version} is a build without CUDA (MFFPA_CUDA=1 builds them nevertheless)")

    plan = _plan_nvcc(environment, torch_version, torch_cuda, host_compiler, check_version=requested == "auto")
    if requested == "1" and not plan.enabled:
        raise SystemExit(f"mffpa_ext: MFFPA_CUDA=1, but the CUDA kernels cannot be built: {plan.reason}")
    return plan


def _plan_nvcc(
    environment: Mapping[str, str], torch_version: str, torch_cuda: str | None, host_compiler: str, check_version: bool
) -> CudaPlan:
    nvcc = find_nvcc(environment)
    if nvcc is None:
        return CudaPlan(f"nvcc was not found (torch {torch_version}, CUDA {torch_cuda}); set CUDA_HOME and reinstall")
    release = re.search(r"release (\d+)\.(\d+)", _output_of(nvcc, "--version"))
    if release is None:
        return CudaPlan(f"`{Path(nvcc).name} --version` names no release")
    version = f"{release[1]}.{release[2]}"
    if check_version and torch_cuda and torch_cuda.split(".")[0] != release[1]:
        return CudaPlan(f"nvcc is {version}, but torch was built for CUDA {torch_cuda} (MFFPA_CUDA=1 builds anyway)")

    known = set(_output_of(nvcc, "--list-gpu-arch").split())
    wanted = re.split(r"[;,\s]+", environment.get("TORCH_CUDA_ARCH_LIST", "").strip() or DEFAULT_ARCHITECTURES)
    architectures = tuple(name for name in wanted if f"compute_{_base_number(name)}" in known)
    if not architectures:
        return CudaPlan(f"nvcc {version} compiles for none of the architectures {' '.join(wanted)}")
    if failure := _probe(nvcc, host_compiler, architectures[0]):
        return CudaPlan(f"nvcc {version} cannot compile with the host compiler {Path(host_compiler).name}: {failure}")
    # A CUDA torch brings its own libcudart; beside a CPU torch the static runtime lets the library load anywhere.
    return CudaPlan("", nvcc, version, architectures, shared_runtime=torch_cuda is not None)


def find_nvcc(environment: Mapping[str, str]) -> str | None:
    homes = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    candidates = [f"{home}/bin/nvcc" for home in homes]
    candidates += [shutil.which("nvcc", path=environment.get("PATH")) or "", "/usr/local/cuda/bin/nvcc"]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def _base_number(architecture: str) -> str:
    """'9.0a+PTX' -> '90': nvcc lists architectures without their feature suffix."""
    return architecture.removesuffix("+PTX").replace(".", "").rstrip("af")


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _probe(nvcc: str, host_compiler: str, architecture: str) -> str:
    """Empty when nvcc works; otherwise its first error. Finds, above all, a host compiler too new for this nvcc."""
    number = architecture.removesuffix("+PTX").replace(".", "")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text("#include <cuda_runtime.h>\n__global__ void probe(float* x) { x[threadIdx.x] = 0; }\n")
        command = [nvcc, "-std=c++20", "-ccbin", host_compiler, f"-arch=sm_{number}", "-c", str(source)]
        result = subprocess.run([*command, "-o", f"{folder}/probe.o"], capture_output=True, text=True)
    if result.returncode == 0:
        return ""
    lines = result.stderr.splitlines() or ["no message"]
    return next((line for line in lines if "error" in line), lines[0])
