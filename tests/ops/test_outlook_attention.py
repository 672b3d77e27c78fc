"""Outlook attention, values and gradients, against the float64 reference."""

import pytest
import torch

from mffpa_ext import ops
from tests.ops.outlook_cases import CASES, Case, error, make, ours, textbook, tolerance, with_gradients
from tests.ops.support import DTYPES, KERNELS, needs_kernels

RESULTS = ("output", "grad_value", "grad_logits")


def wide(tensors: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [tensor if tensor is None else tensor.double() for tensor in tensors]


def check(case: Case, dtype: torch.dtype, mask: bool) -> None:
    inputs = make(case, dtype, mask)
    dy = torch.randn(case.value_shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = with_gradients(textbook, case, *wide(inputs), dy.double())
    naive = with_gradients(textbook, case, *inputs, dy)
    actual = with_gradients(ours, case, *inputs, dy)
    for name, a, n, e in zip(RESULTS, actual, naive, exact, strict=True):
        assert a.dtype == dtype and a.shape == e.shape
        assert a.is_contiguous() or not KERNELS  # autograd's gradients of the fallback have the layout of a fold
        assert error(a, e) <= tolerance(n, e), f"{name}: {error(a, e):.3g} against {error(n, e):.3g} of the textbook"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, mask=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_values_and_gradients_with_dropout(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype, mask=True)


def test_largest_kernel() -> None:
    check(Case(16, 17, 1, 3, kernel_size=15, stride=4), torch.float32, mask=True)


def test_pixels_that_no_window_covers_are_zero() -> None:
    case = Case(11, 14, 1, 8, kernel_size=3, stride=6, padding=0)
    value, logits, _ = make(case)
    value[0, 4:6] = torch.inf  # between the windows: neither read nor multiplied by 0
    y = ours(case, value, logits)
    assert y[0, :3, :3].all() and y[0, 6:9, 6:9].all()
    assert not y[0, 3:6].any() and not y[0, 9:].any() and not y[0, :, 3:6].any()


def test_scale_multiplies_the_logits() -> None:
    case = Case(5, 4, 2, 8)
    value, logits, _ = make(case, torch.float64)
    scaled = ops.outlook_attention(value, logits, case.heads, scale=-1.75)
    torch.testing.assert_close(scaled, ops.outlook_attention(value, -1.75 * logits, case.heads, scale=1.0))
    by_default = ops.outlook_attention(value, logits, case.heads)
    assert torch.equal(by_default, ops.outlook_attention(value, logits, case.heads, scale=case.head_dim**-0.5))


@pytest.mark.parametrize("stride", [1, 2])
def test_layout_of_inputs_and_gradients_does_not_matter(stride: int) -> None:
    case = Case(6, 5, 2, 8, stride=stride, batch=2)
    value, logits, mask = make(case, mask=True)
    dy = torch.randn(case.value_shape)
    expected = with_gradients(ours, case, value, logits, mask, dy)

    def permuted(x: torch.Tensor) -> torch.Tensor:  # channels first in memory
        return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    def strided(x: torch.Tensor) -> torch.Tensor:  # every other element of a larger buffer, at an odd offset
        buffer = torch.full((*x.shape[:3], 2 * x.shape[3] + 1), torch.nan)
        buffer[..., 1::2] = x
        return buffer[..., 1::2]

    for view in (permuted, strided):
        assert not view(value).is_contiguous()
        actual = with_gradients(ours, case, view(value), view(logits), view(mask), view(dy))
        for name, a, e in zip(RESULTS, actual, expected, strict=True):
            assert torch.equal(a, e), f"{view.__name__}: {name}"


def test_expanded_inputs_and_gradients() -> None:
    """Stride-0 tensors: a batch by `expand`, and the gradient that `sum()` sends back."""
    case = Case(4, 5, 1, 8, batch=3)
    single = Case(4, 5, 1, 8)
    value, logits, _ = make(single)
    y = ours(case, value.expand(case.value_shape), logits.expand(case.logits_shape))
    assert torch.equal(y, ours(single, value, logits).expand_as(y))
    inputs = [x.clone().requires_grad_() for x in (value, logits)]
    ours(single, *inputs).sum().backward()
    expected = with_gradients(ours, single, value, logits, None, torch.ones(single.value_shape))[1:]
    assert all(torch.equal(x.grad, e) for x, e in zip(inputs, expected, strict=True))


@pytest.mark.parametrize("needed", ["value", "logits"])
def test_gradient_of_one_input_only(needed: str) -> None:
    case = Case(4, 5, 1, 8)
    value, logits, _ = make(case)
    expected = dict(zip(("value", "logits"), with_gradients(ours, case, value, logits, None, value)[1:], strict=True))
    inputs = {"value": value, "logits": logits}
    inputs[needed].requires_grad_()
    ours(case, **inputs).backward(value.detach())
    assert torch.equal(inputs[needed].grad, expected[needed])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("logit", [torch.nan, torch.inf, -torch.inf, "all -inf", 1e4], ids=str)
def test_special_logits_act_as_in_softmax(dtype: torch.dtype, logit: float | str) -> None:
    case = Case(4, 4, 2, 8)
    value, logits, _ = make(case, dtype)
    if logit == "all -inf":
        logits[0, 1, 2, 9 * 4: 9 * 5] = -torch.inf  # the row of the central element, head 0: softmax is NaN
    else:
        logits[0, 1, 2, 9 * 4 + 5] = logit
    exact, actual = textbook(case, value.double(), logits.double()), ours(case, value, logits)
    assert torch.equal(actual.isnan(), exact.isnan())
    assert exact.isnan().sum() in (0, 8), "only the head and pixel of that row"
    known = ~exact.isnan()
    assert error(actual[known], exact[known]) <= tolerance(textbook(case, value, logits)[known], exact[known])


@needs_kernels
def test_logits_of_rows_outside_the_image_are_not_used() -> None:
    """Window (0, 0) starts above and left of the image: its first row of elements feeds no pixel.

    The textbook form computes their softmax too, and makes NaN gradients of NaN logits.
    """
    case = Case(4, 4, 1, 8)
    value, logits, _ = make(case)
    clean = ours(case, value, logits)
    logits[0, 0, 0, : 3 * 9] = torch.nan
    y, _, grad_logits = with_gradients(ours, case, value, logits, None, torch.ones_like(clean))
    assert torch.equal(y, clean)
    assert not grad_logits[0, 0, 0, : 3 * 9].any()


@pytest.mark.parametrize("special", [torch.nan, torch.inf])
def test_special_values_spread_over_their_windows_only(special: float) -> None:
    case = Case(9, 9, 1, 8)
    value, logits, _ = make(case)
    value[0, 4, 4, 3] = special
    y = ours(case, value, logits)
    reached = torch.zeros_like(y, dtype=torch.bool)
    reached[0, 2:7, 2:7, 3] = True  # pixel and value share a window up to K - 1 apart
    assert torch.equal(~y.isfinite(), reached)
    assert torch.equal(y.isnan(), textbook(case, value, logits).isnan())


@needs_kernels
def test_results_do_not_depend_on_threads_or_repetition() -> None:
    case = Case(24, 23, 2, 20, stride=2, batch=2)  # enough pixels for several tasks of the kernel
    inputs = make(case, mask=True)
    dy = torch.randn(case.value_shape)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(with_gradients(ours, case, *inputs, dy))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for name, a, e in zip(RESULTS, other, results[0], strict=True):
            assert torch.equal(a, e), name


def test_inputs_are_left_alone() -> None:
    case = Case(5, 5, 1, 8)
    inputs = make(case, mask=True)
    before = [tensor.clone() for tensor in inputs]
    with_gradients(ours, case, *inputs, torch.ones(case.value_shape))
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))
