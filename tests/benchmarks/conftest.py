"""A stand-in for torch.cuda, so that the benchmarks' code for a GPU runs on the CPU: same calls, same order."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch


class FakeCuda:
    """What happened, in `log`. A replay runs nothing: the results of the capture stay as they are."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing = False

    def event(self, enable_timing: bool = False) -> SimpleNamespace:
        assert enable_timing
        times: list[float] = []
        return SimpleNamespace(
            record=lambda: times.append(time.perf_counter()), synchronize=lambda: None, times=times,
            elapsed_time=lambda other: (other.times[-1] - times[-1]) * 1e3,
        )  # fmt: skip

    def stream(self) -> SimpleNamespace:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))

    def graph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def on_stream(self, stream: object) -> Iterator[None]:
        self.log.append("side stream")
        yield

    @contextmanager
    def capture(self, graph: object) -> Iterator[None]:
        self.log.append("capture")
        self.capturing = True
        yield
        self.capturing = False


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    properties = SimpleNamespace(L2_cache_size=50 * 2**20, total_memory=80 * 2**30, uuid=None)
    replaced = {
        "Event": fake.event, "Stream": fake.stream, "current_stream": fake.stream, "CUDAGraph": fake.graph,
        "stream": fake.on_stream, "graph": fake.capture, "empty_cache": lambda: None,
        "synchronize": lambda device=None: fake.log.append("synchronize"),
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 2**30, "get_device_properties": lambda device: properties,
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake
