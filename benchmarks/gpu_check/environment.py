"""`python -m benchmarks.gpu_check.environment FILE`: what this machine has, and what of it is missing, as JSON.

Prints the same in a few lines. Exit code 1 where there is no torch, without which nothing else runs.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.json_files import write_json

# Import name: the distribution, and what is left out or fails without it.
PACKAGES = {
    "torch": ("torch", "everything"),
    "numpy": ("numpy", "everything"),
    "pybind11": ("pybind11", "build"),
    "ninja": ("ninja", "build"),
    "pytest": ("pytest", "test, memcheck, racecheck"),
    "hypothesis": ("hypothesis", "the CPU tests"),
    "sklearn": ("scikit-learn", "the CPU tests"),
    "PIL": ("pillow", "end-to-end"),
    "tqdm": ("tqdm", "end-to-end"),
    "triton": ("triton", "compile (it comes with torch for CUDA)"),
    "pytest_benchmark": ("pytest-benchmark", "`pytest benchmarks` alone: benchmark uses a runner of its own"),
}
QUERIED = (
    "name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.limit", "temperature.gpu",
)  # fmt: skip


def missing_packages(found: dict[str, str | None]) -> list[str]:
    """A line for each package that is not there, with what it is needed for."""
    return [f"{name}: needed for {use}" for name, use in PACKAGES.values() if found[name] is None]


def packages() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for module, (distribution, _) in PACKAGES.items():
        versions[distribution] = None
        if importlib.util.find_spec(module) is not None:
            try:
                versions[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                versions[distribution] = "of unknown version"
    return versions


def output_of(*command: str, match: str = ".+") -> str | None:
    """The first match in what a program prints; None where there is no such program, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(match, done.stdout) if done.returncode == 0 else None
    return found[0].strip() if found else None


def find_tool(name: str) -> str | None:
    """On PATH, or where the CUDA toolkit puts it."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [shutil.which(name), *(f"{home}/bin/{name}" for home in homes if home)]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def nvidia_smi() -> dict[str, str]:
    """Of the first GPU that CUDA would see, by the order of nvidia-smi; empty where it does not answer."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    line = output_of("nvidia-smi", "-i", first, f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader")
    values = line.split(", ") if line else []
    return dict(zip(QUERIED, values, strict=True)) if len(values) == len(QUERIED) else {}


def torch_facts() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "gpu": None}
    if not torch.cuda.is_available():
        return facts
    gpu = torch.cuda.get_device_properties(0)
    facts["cudnn"] = torch.backends.cudnn.version()
    facts["gpu"] = {
        "name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "memory_bytes": gpu.total_memory,
        "multiprocessors": gpu.multi_processor_count, "l2_bytes": gpu.L2_cache_size,
        "count": torch.cuda.device_count(),
    }  # fmt: skip
    return facts


def no_gpu_because(torch_cuda: str | None, smi: dict[str, str], torch_version: str) -> str:
    if smi and torch_cuda is None:
        return f"nvidia-smi shows {smi['name']}, but torch {torch_version} is a build without CUDA"
    if smi:
        return f"nvidia-smi shows {smi['name']}, but torch {torch_version} cannot use it (torch.cuda.is_available())"
    return "nvidia-smi shows no GPU"


def collect() -> dict[str, Any]:
    smi = nvidia_smi()
    facts: dict[str, Any] = {
        "python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count(),
        "packages": packages(), "nvidia_smi": smi, "gpu": None,
    }  # fmt: skip
    tools = {"nvcc": "release .+", "compute-sanitizer": "Version .+", "g++": "g.+"}
    facts |= {name: output_of(find_tool(name) or name, "--version", match=match) for name, match in tools.items()}
    facts["missing"] = missing_packages(facts["packages"])
    if facts["packages"]["torch"] is not None:
        facts |= torch_facts()
    if facts["gpu"] is None:
        facts["no_gpu"] = no_gpu_because(facts.get("torch_cuda"), smi, facts.get("torch", "(none)"))
    return facts


def describe(facts: dict[str, Any]) -> list[str]:
    tools = {"torch": facts.get("torch"), "nvcc": facts["nvcc"], "compute-sanitizer": facts["compute-sanitizer"]}
    found = [f"{name} {version}" if version else f"no {name}" for name, version in tools.items()]
    lines = [", ".join([f"Python {facts['python']}", *found, facts["g++"] or "no g++", f"{facts['cores']} cores"])]
    if gpu := facts["gpu"]:
        driver = facts["nvidia_smi"].get("driver_version", "unknown")
        lines.append(f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, sm_{gpu['capability'].replace('.', '')}, "
                     f"driver {driver}")  # fmt: skip
    else:
        lines.append(f"no GPU: {facts['no_gpu']}")
    return lines + [f"missing package {line}" for line in facts["missing"]]


def main(path: Path) -> int:
    facts = collect()
    write_json(path, facts)
    print("\n".join(describe(facts)))
    if "torch" not in facts:
        print("torch is missing, and nothing runs without it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
