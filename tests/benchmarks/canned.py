"""Results as a run on a GPU would store them, with round figures."""

from typing import Any

GPU = {"name": "NVIDIA H100 80GB HBM3", "capability": "9.0", "memory_bytes": 80 * 2**30, "multiprocessors": 132,
       "l2_bytes": 50 * 2**20, "count": 1}  # fmt: skip
SMI = {"driver_version": "580.1", "clocks.max.sm": "1980 MHz", "clocks.max.mem": "2619 MHz"}
MACHINE = {"python": "3.12.3", "torch": "2.11.0+cu130", "nvcc": "release 13.0", "gpu": GPU, "nvidia_smi": SMI,
           "packages": {"triton": "3.6.0"}}  # fmt: skip
KERNELS = [{"name": "tiled<float|int>", "launches": 1.0, "us": 30.0}, {"name": "other", "launches": 2.0, "us": 10.0}]
PROFILE = {"device_us": 40.0, "launches": 3.0, "kernels": KERNELS}


def group(operator: str, shape: str, batch: int, seconds: dict[str, float], work: int = 10**9) -> dict[str, Any]:
    return {
        "group": f"{operator}, {shape}, forward, float32", "operator": operator, "shape": shape, "batch": batch,
        "direction": "forward", "dtype": "float32", "cold": batch >= 32, "work": work, "unit": "GB/s", "limit": 2e12,
        "seconds": seconds, "quartiles": {}, "failures": {}, "profiles": {"ours": PROFILE},
    }  # fmt: skip


def run(kind: str, batch: int, contender: str, seconds: float) -> dict[str, Any]:
    return {"kind": kind, "batch": batch, "contender": contender, "seconds": seconds, "quartiles": [seconds] * 2,
            "images_per_second": batch / seconds, "error": 1e-3, "peak_bytes": 2**30, "profile": PROFILE}  # fmt: skip


def entry(outcome: str = "passed", detail: str = "", figures: Any = None) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail, "seconds": 12.0, "limit": 60.0, "figures": figures,
            "commit": "0123456789ab", "source_hash": "feed", "date": "2026-01-02"}  # fmt: skip


def results() -> dict[str, Any]:
    """Outlook attention meets both its targets, feature norm falls short, the training of batch 32 is missing."""
    micro = {
        "rates": {"copy": 2e12, "GEMM bfloat16": 7e14}, "left_out": ["the last case"], "groups": [
            group("outlook attention", "1x29x80x256 4 heads stride 1", 1,
                  {"eager": 500e-6, "eager, graph": 100e-6, "ours": 20e-6, "ours, graph": 5e-6}),
            group("outlook attention", "64x29x80x256 4 heads stride 1", 64,
                  {"eager": 9e-3, "ours": 640e-6, "ours, graph": 625e-6}),
            group("feature norm", "32x32x640x232 contiguous", 32, {"eager": 9e-3, "ours, graph": 1.5e-3}),
            group("feature norm", "32x32x640x232 channels last", 32, {"eager": 9e-3, "ours, graph": 900e-6}),
            group("feature norm", "32x32x640x232 contiguous pooled", 32, {"eager": 9e-3, "ours, graph": 9e-3}),
        ],
    }  # fmt: skip
    compiled = {"groups": [group("outlook attention", "1x29x80x256 4 heads stride 1", 1, {"torch.compile": 50e-6})]}
    compiled["groups"][0]["failures"] = {"never": "mind"}
    network = {"settings": {"cudnn.benchmark": True}, "left_out": ["training, batch 32: mffpa, ours bf16"], "runs": [
        run("inference", 1, "baseline, eager", 10e-3), run("inference", 1, "mffpa, ours bf16, graph", 1e-3),
        run("inference", 32, "baseline, eager", 40e-3),
        {"kind": "inference", "batch": 32, "contender": "mffpa, eager", "failure": "out of memory"},
        run("inference", 32, "mffpa, ours bf16, graph", 20e-3),
        run("training", 1, "baseline, eager", 30e-3), run("training", 1, "mffpa, ours bf16, graph", 5e-3),
    ]}  # fmt: skip
    counts = {"passed": 570, "failed": 1, "errors": 0, "skipped": 2, "failures": ["tests.cuda.test_x::test_y: no"],
              "skip_reasons": {"needs two CUDA devices": 2}}  # fmt: skip
    stages = {
        "build": entry(), "test": entry("failed", "570 passed, 1 failed, 2 skipped", counts),
        "benchmark": entry(figures=micro), "compile": entry(figures=compiled), "end-to-end": entry(figures=network),
        "memcheck": entry("unavailable", "Device not supported"),
    }  # fmt: skip
    return {"format": 1, "machine": MACHINE, "quick": False, "stages": stages}
