"""What the tests on a GPU share. Their files skip where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from mffpa_ext import _extension

needs_device = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not _extension.has_cuda_kernels(), reason=f"no kernels: {_extension.cuda_missing_reason()}"),
]
needs_two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator without a CUDA kernel is an error. For test files to import."""
    monkeypatch.setenv("MFFPA_BACKEND", "compiled")


def check_capture(step: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor], *news: Sequence[Tensor]) -> None:
    """Captures `step`, which reads `inputs`, as a CUDA graph; its replays must follow what is copied into the inputs.

    Nothing synchronises or allocates outside torch's pool, or the capture would fail.
    """
    step()  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    for new in news:
        for input_, tensor in zip(inputs, new, strict=True):
            input_.copy_(tensor)
        graph.replay()
        for output, expected in zip(outputs, step(), strict=True):
            assert torch.equal(output, expected)


def check_streams(run: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Two streams with work before the operator: on the wrong stream it would read inputs that are not yet there."""
    expected = run(*inputs)
    streams, outputs = [torch.cuda.Stream(), torch.cuda.Stream()], []
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            late = [torch.full_like(tensor, torch.nan) for tensor in inputs]
            torch.cuda._sleep(20_000_000)
            for there, tensor in zip(late, inputs, strict=True):
                there.copy_(tensor)
            outputs.append(run(*late))
    torch.cuda.synchronize()
    assert all(torch.equal(output, expected) for output in outputs)


def skip_without_memory(gigabytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory")


def count_launches(run: Callable[[], object]) -> int:
    """The kernels that `run` puts on the device."""
    run()  # loads them
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)
