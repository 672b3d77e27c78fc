"""What this machine can do at best: measured rates that the achieved ones are compared with."""

import functools
import statistics
import time
from collections.abc import Callable

import torch

CACHED_BYTES, LARGE_BYTES = 2**20, 2**28  # both tensors of a copy together
GEMM_SIZE = 1024


def median_seconds(run: Callable[[], object], at_least: float = 0.2, rounds: int = 10) -> float:
    """Median over as many runs as take `at_least` seconds, after two that do not count."""
    run(), run()
    times: list[float] = []
    while len(times) < rounds or sum(times) < at_least:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@functools.cache
def copy_rate(size: int) -> float:
    """Bytes a second, read and written, of `copy_` between two tensors of `size` bytes in total."""
    source, target = torch.zeros(2, size // 8)  # float32
    return size / median_seconds(lambda: target.copy_(source))


@functools.cache
def gemm_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product."""
    a, b, out = torch.rand(3, GEMM_SIZE, GEMM_SIZE).to(dtype)
    return 2 * GEMM_SIZE**3 / median_seconds(lambda: torch.mm(a, b, out=out))


def describe() -> str:
    rates = [f"copy {copy_rate(LARGE_BYTES) / 1e9:.1f} GB/s, in cache {copy_rate(CACHED_BYTES) / 1e9:.1f} GB/s"]
    for dtype in (torch.float32, torch.bfloat16):
        rates.append(f"GEMM {str(dtype)[6:]} {gemm_rate(dtype) / 1e9:.0f} GFLOP/s")
    return "; ".join(rates)
