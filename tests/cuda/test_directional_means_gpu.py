"""The directional means on a GPU: the CPU tests' cases, and what only a device can show. Skips where there is none."""

import pytest
import torch

from mffpa_ext import _extension, ops
from mffpa_ext.ops import backend, reference
from tests.cuda.test_directional_means import SHAPES
from tests.ops import test_directional_means as cpu
from tests.ops.gate_cases import LAYOUTS, assert_as_exact_as_naive, with_gradients
from tests.ops.support import DTYPES

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not _extension.has_cuda_kernels(), reason=f"no kernels: {_extension.cuda_missing_reason()}"),
]


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFFPA_BACKEND", "compiled")
    assert "directional_means" in backend._WITH_CUDA_KERNEL


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", (*SHAPES, *cpu.SHAPES, (2, 64, 116, 320)), ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = cpu.image(shape, dtype, layout)
    actual, again = (with_gradients(ops.directional_means, [x.cuda()]) for _ in range(2))
    assert all(a.is_cuda and torch.equal(a, b) for a, b in zip(actual, again, strict=True))
    naive, exact = (with_gradients(reference.directional_means, [t]) for t in (x, x.double()))
    assert_as_exact_as_naive([a.cpu() for a in actual], naive, exact, (shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    x = cpu.image((2, 3, 4, 5), layout=layout).cuda()
    torch.library.opcheck(torch.ops.mffpa_ext.directional_means, (x,))
    torch.library.opcheck(torch.ops.mffpa_ext.directional_means, (x.requires_grad_(),))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_capture_and_replay(layout: str) -> None:
    first, second = (torch.randn(2, 24, 70, 52, device="cuda") for _ in range(2))
    x = first.contiguous(memory_format=LAYOUTS[layout])
    ops.directional_means(x)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = ops.directional_means(x)
    for new in (second, first):
        x.copy_(new)
        graph.replay()
        assert all(torch.equal(a, e) for a, e in zip(outputs, ops.directional_means(x), strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one() -> None:
    x = torch.randn(2, 16, 19, 33)
    with torch.cuda.device(0):
        expected, actual = ops.directional_means(x.to("cuda:0")), ops.directional_means(x.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    for a, e in zip(actual, expected, strict=True):
        assert a.device.index == 1 and torch.equal(a.cpu(), e.cpu())
