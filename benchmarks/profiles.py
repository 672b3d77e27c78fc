"""Which kernels a call spends its time in, by torch.profiler: on a GPU its kernels and copies, on the CPU operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks import timing

MOST_NAMES, NAME_LENGTH = 10, 90


def profile(run: Callable[[], Any], device: torch.device, calls: int = 3) -> dict[str, Any]:
    """Of one call, in microseconds: `device_us` altogether, and of the `kernels` that take longest their name, number
    of launches and time. Time in which nothing runs is not in it: what lies between `device_us` and the time of a call
    is launching. Where the machine refuses it, `failure` says so, and there are no kernels."""
    try:
        return _profile(run, device, calls)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return {"device_us": 0.0, "launches": 0.0, "kernels": [], "failure": reason}


def _profile(run: Callable[[], Any], device: torch.device, calls: int) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    run()
    timing.synchronize(device)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            run()
        timing.synchronize(device)
    found: dict[str, list[float]] = {}
    for event in profiler.events():
        if on_gpu:
            if event.device_type != DeviceType.CUDA or getattr(event, "is_user_annotation", False):
                continue
            microseconds = event.time_range.elapsed_us()
        else:
            microseconds = event.self_cpu_time_total
        found.setdefault(event.name, []).append(microseconds)
    order = sorted(found, key=lambda name: -sum(found[name]))
    kernels = [
        {"name": _short(name), "launches": len(found[name]) / calls, "us": sum(found[name]) / calls}
        for name in order[:MOST_NAMES]
    ]
    return {
        "device_us": sum(map(sum, found.values())) / calls,
        "launches": sum(map(len, found.values())) / calls,
        "kernels": kernels,
    }


def _short(name: str) -> str:
    """Names with template arguments can take pages."""
    name = name.removeprefix("void ")
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
