"""Outlook attention on a GPU: the CPU tests' cases, and what only a device can show. Skipped where there is none."""

import pytest
import torch

from tests.cuda.device import (
    check_capture,
    check_streams,
    count_launches,
    needs_device,
    needs_two_devices,
    skip_without_memory,
)
from tests.cuda.device import no_fallback as no_fallback
from tests.cuda.test_outlook_attention import RESULTS, TILED, gradient
from tests.ops.outlook_cases import CASES, Case, error, make, ours, textbook, tolerance, with_gradients
from tests.ops.support import DTYPES

pytestmark = needs_device


def to(device: str, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [tensor if tensor is None else tensor.to(device) for tensor in tensors]


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", (*CASES, *TILED, Case(29, 80, 4, 64), Case(16, 17, 1, 3, 15, 4)), ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, mask: bool) -> None:
    arguments = (*make(case, dtype, mask), gradient(case, dtype))
    exact = with_gradients(textbook, case, *(x if x is None else x.double() for x in arguments))
    naive = with_gradients(textbook, case, *arguments)
    actual = with_gradients(ours, case, *to("cuda", *arguments))
    again = with_gradients(ours, case, *to("cuda", *arguments))
    for name, a, b, n, e in zip(RESULTS, actual, again, naive, exact, strict=True):
        assert a.is_cuda and a.dtype == dtype and a.is_contiguous() and torch.equal(a, b), name
        assert error(a.cpu(), e) <= tolerance(n, e), f"{name}: {error(a.cpu(), e):.3g} against {error(n, e):.3g}"


def test_special_logits_act_as_in_softmax() -> None:
    for head_dim in (8, 7):  # tiled, general
        case = Case(4, 4, 2, head_dim)
        for logit in (torch.nan, torch.inf, -torch.inf, 1e4):
            value, logits, _ = make(case)
            logits[0, 1, 2, 9 * 4 + 5] = logit
            exact = textbook(case, value.double(), logits.double())
            actual = ours(case, *to("cuda", value, logits)).cpu()
            assert torch.equal(actual.isnan(), exact.isnan())
            known = ~exact.isnan()
            assert error(actual[known], exact[known]) <= tolerance(value, exact[known])


@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires_grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_opcheck(dtype: torch.dtype, requires_grad: bool) -> None:
    case = Case(5, 4, 2, 8, stride=2)
    value, logits, kept = to("cuda", *make(case, dtype, mask=True))
    geometry = (case.heads, case.kernel_size, case.stride, case.pad, case.scale)
    arguments = (value.requires_grad_(requires_grad), logits.requires_grad_(requires_grad), kept, *geometry)
    torch.library.opcheck(torch.ops.mffpa_ext.outlook_attention, arguments)
    backward = (torch.ones_like(value), value.detach(), logits.detach(), kept, *geometry)
    torch.library.opcheck(torch.ops.mffpa_ext.outlook_attention_backward, backward)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_autocast_computes_in_its_dtype(dtype: torch.dtype) -> None:
    case = Case(6, 5, 2, 8)
    value, logits, _ = to("cuda", *make(case))
    with torch.autocast("cuda", dtype=dtype):
        y = ours(case, value, logits)
    assert y.dtype == dtype and torch.equal(y, ours(case, value.to(dtype), logits.to(dtype)))


def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()
    case = Case(6, 5, 2, 8, stride=2)
    arguments = to("cuda", *make(case, mask=True), gradient(case, torch.float32))
    compiled = with_gradients(torch.compile(ours, fullgraph=True, backend="aot_eager"), case, *arguments)
    for a, e in zip(compiled, with_gradients(ours, case, *arguments), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("head_dim", [16, 5], ids=["tiled", "general"])
def test_graph_capture_and_replay(head_dim: int) -> None:
    case = Case(19, 33, 2, head_dim)
    first, second = ([*make(case, seed=seed)[:2], gradient(case, torch.float32)] for seed in (0, 1))
    inputs = [x.cuda() for x in first]

    def step() -> tuple[torch.Tensor, ...]:
        geometry = (case.heads, case.kernel_size, case.stride, case.pad, case.scale)
        value, logits, dy = inputs
        y = torch.ops.mffpa_ext.outlook_attention(value, logits, None, *geometry)
        return y, *torch.ops.mffpa_ext.outlook_attention_backward(dy, value, logits, None, *geometry)

    check_capture(step, inputs, second, first)


def test_the_current_stream_is_used() -> None:
    case = Case(64, 64, 4, 64)
    value, logits, _ = to("cuda", *make(case))
    check_streams(lambda *inputs: ours(case, *inputs), value, logits)


def test_number_of_launches() -> None:
    case = Case(29, 80, 4, 64)
    value, logits, _ = to("cuda", *make(case))
    geometry = (case.heads, case.kernel_size, case.stride, case.pad, case.scale)
    operators = torch.ops.mffpa_ext
    assert count_launches(lambda: operators.outlook_attention(value, logits, None, *geometry)) == 1
    assert count_launches(lambda: operators.outlook_attention_backward(value, value, logits, None, *geometry)) == 2


@needs_two_devices
def test_a_device_that_is_not_the_current_one() -> None:
    case = Case(19, 33, 2, 16)
    arguments = (*make(case), gradient(case, torch.float32))
    expected = with_gradients(ours, case, *to("cuda:0", *arguments))
    with torch.cuda.device(0):
        actual = with_gradients(ours, case, *to("cuda:1", *arguments))
        assert torch.cuda.current_device() == 0
    for a, e in zip(actual, expected, strict=True):
        assert a.device.index == 1 and torch.equal(a.cpu(), e.cpu())
    value, logits, _ = make(case)
    with pytest.raises(ValueError, match="value is on cuda:0 but logits are on cuda:1"):
        ours(case, value.to("cuda:0"), logits.to("cuda:1"))
    with pytest.raises(ValueError, match="value and logits are on different devices"):
        torch.ops.mffpa_ext.outlook_attention(value.to("cuda:0"), logits.to("cuda:1"), None, 2, 3, 1, 1, 1.0)


def test_more_than_2_to_the_31_elements() -> None:
    """The last image of a batch whose logits need 64-bit offsets: 2.7e9 half-precision numbers."""
    skip_without_memory(24)
    case = Case(256, 256, 4, 8, batch=126)
    generator = torch.Generator("cuda").manual_seed(0)
    value = torch.randn(case.value_shape, device="cuda", dtype=torch.float16, generator=generator)
    logits = torch.randn(case.logits_shape, device="cuda", dtype=torch.float16, generator=generator)
    assert logits.numel() > 2**31
    whole = with_gradients(ours, case, value, logits, None, value)
    last = with_gradients(ours, case, value[-1:], logits[-1:], None, value[-1:])
    for a, e in zip(whole, last, strict=True):
        assert torch.equal(a[-1:], e)
