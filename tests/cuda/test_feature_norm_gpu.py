"""Feature normalisation on a GPU: the CPU tests' cases, and what only a device can show. Skips where there is none."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.cuda.device import (
    check_capture,
    check_streams,
    count_launches,
    needs_device,
    needs_two_devices,
    skip_without_memory,
)
from tests.cuda.device import no_fallback as no_fallback
from tests.cuda.test_feature_norm import EPS, LAYOUTS, SHAPES, check_errors, make
from tests.ops import test_feature_norm_kernel as cpu
from tests.ops.support import DTYPES

pytestmark = needs_device


def ours(inputs: list[Tensor], layout: str, relu: bool) -> list[Tensor]:
    """Output, all gradients, and the pooled output where there is one."""
    x, weight, bias, dy = (tensor.cuda() for tensor in inputs)
    leaves = [t.requires_grad_() for t in (x.contiguous(memory_format=LAYOUTS[layout]), weight, bias)]
    y = ops.feature_norm(*leaves, EPS, relu)
    results = [y.detach(), *torch.autograd.grad(y, leaves, dy)]
    assert y.stride() == leaves[0].stride() and results[1].stride() == leaves[0].stride()
    if min(x.shape[2:]) >= 2:
        with torch.no_grad():
            results.append(ops.feature_norm_pool(*leaves, EPS, relu))
    return results


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", (*SHAPES, *cpu.SHAPES, (2, 64, 116, 320), (1, 1024, 15, 40)), ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    inputs = make(shape, dtype)
    for relu in (False, True):
        actual, again = ours(inputs, layout, relu), ours(inputs, layout, relu)
        for a, b in zip(actual, again, strict=True):
            assert a.is_cuda and torch.equal(a, b)
        check_errors([a.cpu() for a in actual[:4]], relu, inputs)
        if len(actual) == 5:
            assert torch.equal(actual[4], F.max_pool2d(actual[0], 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plane_far_from_zero_does_not_cancel(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (1e4 + 1e-2 * torch.randn(1, 8, 40, 30, generator=generator, dtype=torch.float64)).float()
    exact = reference.feature_norm(x.double(), None, None, EPS, False)
    y = ops.feature_norm(x.cuda().contiguous(memory_format=LAYOUTS[layout]))
    torch.testing.assert_close(y.cpu().double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cuda()
    x = x.contiguous(memory_format=LAYOUTS[layout])
    weight = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64, device="cuda")
    operators = torch.ops.mffpa_ext
    torch.library.opcheck(operators.feature_norm, (x, weight, None, EPS, True))
    torch.library.opcheck(operators.feature_norm_pool, (x, weight, weight, EPS, True))
    _, statistics = operators.feature_norm(x, weight, weight, EPS, True)
    torch.library.opcheck(operators.feature_norm_backward, (x, x, weight, weight, statistics, EPS, True))
    x.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(operators.feature_norm, (x, weight, weight, EPS, True))


def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()
    x = torch.randn(1, 8, 6, 10, generator=torch.Generator().manual_seed(0)).cuda().requires_grad_()
    compiled = torch.compile(ops.feature_norm, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(ops.feature_norm(x, relu=True).square().sum(), x)
    (actual,) = torch.autograd.grad(compiled(x, relu=True).square().sum(), x)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_graph_capture_and_replay(layout: str) -> None:
    first, second = (
        torch.randn(2, 24, 70, 52, generator=torch.Generator().manual_seed(seed)).cuda() for seed in (0, 1)
    )
    x = first.clone(memory_format=LAYOUTS[layout])

    def step() -> tuple[Tensor, ...]:
        y, statistics = torch.ops.mffpa_ext.feature_norm(x, None, None, EPS, True)
        pooled = torch.ops.mffpa_ext.feature_norm_pool(x, None, None, EPS, True)
        return y, pooled, *torch.ops.mffpa_ext.feature_norm_backward(x, x, None, None, statistics, EPS, True)

    check_capture(step, [x], [second], [first])


def test_the_current_stream_is_used() -> None:
    check_streams(ops.feature_norm, torch.randn(4, 64, 64, 64, generator=torch.Generator().manual_seed(0)).cuda())


def test_number_of_launches() -> None:
    x, operators = torch.randn(1, 32, 64, 40, device="cuda"), torch.ops.mffpa_ext
    _, statistics = operators.feature_norm(x, None, None, EPS, True)
    assert count_launches(lambda: operators.feature_norm(x, None, None, EPS, True)) == 2
    assert count_launches(lambda: operators.feature_norm_pool(x, None, None, EPS, True)) == 2
    assert count_launches(lambda: operators.feature_norm_backward(x, x, None, None, statistics, EPS, True)) == 2


@needs_two_devices
def test_a_device_that_is_not_the_current_one() -> None:
    x = torch.randn(2, 16, 19, 33, generator=torch.Generator().manual_seed(0))
    with torch.cuda.device(0):
        expected, actual = ops.feature_norm(x.to("cuda:0")), ops.feature_norm(x.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    assert actual.device.index == 1 and torch.equal(actual.cpu(), expected.cpu())
    with pytest.raises(ValueError, match="weight must have shape \\[16\\], the accumulator's dtype and x's device"):
        torch.ops.mffpa_ext.feature_norm(x.to("cuda:0"), torch.ones(16, device="cuda:1"), None, EPS, False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_2_to_the_31_elements(layout: str) -> None:
    """The last image of a batch that needs 64-bit offsets."""
    skip_without_memory(24)
    x = torch.randn(33, 64, 1024, 1024, device="cuda", dtype=torch.float16)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    assert x.numel() > 2**31
    assert torch.equal(ops.feature_norm(x, relu=True)[-1:], ops.feature_norm(x[-1:], relu=True))
