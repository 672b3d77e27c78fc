"""Profiles: of the CPU's operators here; which events count on a GPU, on events made for it."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import profiles


def test_profile_on_the_cpu() -> None:
    x = torch.rand(200, 200)
    found = profiles.profile(lambda: (x @ x).exp(), torch.device("cpu"))
    kernels = {kernel["name"]: kernel for kernel in found["kernels"]}
    assert kernels["aten::mm"]["launches"] == 1 and kernels["aten::exp"]["us"] > 0
    assert found["device_us"] >= kernels["aten::mm"]["us"] and len(kernels) <= profiles.MOST_NAMES


def test_a_profiler_that_does_not_start_costs_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(activities: list) -> None:
        raise RuntimeError("CUPTI:\nnot permitted")

    monkeypatch.setattr(torch.profiler, "profile", refused)
    found = profiles.profile(lambda: None, torch.device("cpu"))
    assert found == {"device_us": 0.0, "launches": 0.0, "kernels": [], "failure": "CUPTI: not permitted"}


def test_profile_of_a_gpu_counts_its_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(name: str, kind: DeviceType, us: float, annotation: bool = False) -> SimpleNamespace:
        duration = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(name=name, device_type=kind, time_range=duration, is_user_annotation=annotation)

    long = "void at::native::" + "elementwise" * 20
    events = 3 * [
        event("aten::mm", DeviceType.CPU, 50.0),
        event("Optimizer.step", DeviceType.CUDA, 90.0, annotation=True),
        event("gemm", DeviceType.CUDA, 7.0), event("gemm", DeviceType.CUDA, 3.0), event(long, DeviceType.CUDA, 4.0),
    ]  # fmt: skip

    class Profiler:
        def __init__(self, activities: list) -> None:
            assert len(activities) == 2

        def __enter__(self) -> "Profiler":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def events(self) -> list[SimpleNamespace]:
            return events

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    found = profiles.profile(lambda: None, torch.device("cuda"), calls=3)
    assert found["device_us"] == 14.0 and found["launches"] == 3.0
    assert found["kernels"][0] == {"name": "gemm", "launches": 2.0, "us": 10.0}
    assert len(found["kernels"][1]["name"]) == profiles.NAME_LENGTH and len(found["kernels"]) == 2
