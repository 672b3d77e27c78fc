"""What this machine can do at best: measured rates that the achieved ones are compared with."""

import functools
import math
import statistics
import subprocess

import torch

from benchmarks import timing

CACHED_BYTES, LARGE_BYTES = 2**20, 2**28  # both tensors of a copy together
LARGE_BYTES_GPU = 2**31
GEMM_SIZE, GEMM_SIZE_GPU = 1024, 8192
CPU = torch.device("cpu")


@functools.cache
def copy_rate(size: int, device: torch.device = CPU) -> float:
    """Bytes a second, read and written, of `copy_` between two tensors of `size` bytes in total, not all zeros."""
    source, target = torch.rand(2, size // 8, device=device)  # float32
    return size / statistics.median(timing.rounds(lambda: target.copy_(source), device, at_least=0.2))


def copy_limit(work: int, device: torch.device) -> float:
    """The copy rate that moving `work` bytes is compared with: on the CPU that of a copy of about this size, which
    caches hold or not; on a GPU that of its memory."""
    if device.type == "cuda":
        return copy_rate(min(LARGE_BYTES_GPU, _tenth_of_memory(device)), device)
    return copy_rate(2 ** round(math.log2(work)), device)


def _tenth_of_memory(device: torch.device) -> int:
    return 2 ** int(math.log2(torch.cuda.get_device_properties(device).total_memory / 10))


@functools.cache
def gemm_rate(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Floating-point operations a second of a square matrix product; of random numbers, zeros are faster."""
    size = GEMM_SIZE_GPU if device.type == "cuda" else GEMM_SIZE
    a, b, out = torch.rand(3, size, size, device=device).to(dtype)
    times = timing.rounds(lambda: torch.mm(a, b, out=out), device, at_least=0.2)
    return 2 * size**3 / statistics.median(times)


def rates(device: torch.device = CPU) -> dict[str, float]:
    """Bytes or floating-point operations a second."""
    found = {"copy": copy_limit(LARGE_BYTES, device)}
    if device.type == "cpu":
        found["copy in cache"] = copy_rate(CACHED_BYTES)
    return found | {f"GEMM {str(dtype)[6:]}": gemm_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}


def describe(device: torch.device = CPU) -> str:
    return "; ".join(
        f"{name} {rate / 1e9:.0f} GFLOP/s" if name.startswith("GEMM") else f"{name} {rate / 1e9:.1f} GB/s"
        for name, rate in rates(device).items()
    )


def gpu_clocks(device: torch.device) -> dict[str, str]:
    """The clocks, temperature and power of this moment, from nvidia-smi; empty where it does not answer."""
    names = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "temperature.gpu", "power.draw")
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    which = ["-i", f"GPU-{str(uuid).removeprefix('GPU-')}"] if uuid else []
    command = ["nvidia-smi", *which, f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = answer.stdout.strip().split(", ")
    return dict(zip(names, values, strict=True)) if answer.returncode == 0 and len(values) == len(names) else {}
