"""The directional means on a GPU: the CPU tests' cases, and what only a device can show. Skips where there is none."""

import pytest
import torch

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.cuda.device import check_capture, needs_device, needs_two_devices
from tests.cuda.device import no_fallback as no_fallback
from tests.cuda.test_directional_means import SHAPES
from tests.ops import test_directional_means as cpu
from tests.ops.gate_cases import LAYOUTS, assert_as_exact_as_naive, with_gradients
from tests.ops.support import DTYPES

pytestmark = needs_device


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
    x = first.clone(memory_format=LAYOUTS[layout])
    check_capture(lambda: ops.directional_means(x), [x], [second], [first])


@needs_two_devices
def test_a_device_that_is_not_the_current_one() -> None:
    x = torch.randn(2, 16, 19, 33)
    with torch.cuda.device(0):
        expected, actual = ops.directional_means(x.to("cuda:0")), ops.directional_means(x.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    for a, e in zip(actual, expected, strict=True):
        assert a.device.index == 1 and torch.equal(a.cpu(), e.cpu())
