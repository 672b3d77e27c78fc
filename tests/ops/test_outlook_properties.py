"""Outlook attention on shapes and layouts that nobody chose, and the memory that its forward pass takes."""

import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.outlook_cases import Case, error, make, ours, textbook, tolerance, with_gradients
from tests.ops.support import DTYPES, needs_kernels, run_python


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def every_other(x: Tensor) -> Tensor:
    buffer = torch.full((*x.shape[:3], 2 * x.shape[3] + 1), torch.nan, dtype=x.dtype)
    buffer[..., 1::2] = x
    return buffer[..., 1::2]


layouts = st.sampled_from((contiguous, channels_first, transposed, every_other))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel_size = draw(st.sampled_from((1, 2, 3, 3, 3, 4, 5, 7)))
    case = Case(
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 9)),
        heads=draw(st.sampled_from((1, 2, 3, 9))),
        head_dim=draw(st.sampled_from((1, 2, 7, 16, 19, 32, 37))),
        kernel_size=kernel_size,
        stride=draw(st.integers(1, kernel_size + 1)),
        padding=draw(st.integers(0, kernel_size - 1)),
        batch=draw(st.sampled_from((0, 1, 1, 2))),
    )
    assume(min(case.height, case.width) + 2 * case.pad >= kernel_size)
    return case


@settings(max_examples=100, derandomize=True, deadline=None)
@given(cases(), st.sampled_from(DTYPES), st.booleans(), layouts, layouts)
@example(Case(1, 1, 2, 8), torch.float32, True, contiguous, every_other)
@example(Case(2, 1, 1, 3, kernel_size=7, padding=6, stride=2), torch.float32, False, transposed, contiguous)
@example(Case(3, 4, 2, 5, batch=0), torch.bfloat16, True, contiguous, contiguous)
def test_any_shape_and_layout(case: Case, dtype: torch.dtype, mask: bool, layout, logits_layout) -> None:
    inputs = make(case, dtype, mask)
    dy = torch.randn(case.value_shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = with_gradients(textbook, case, *(x if x is None else x.double() for x in (*inputs, dy)))
    naive = with_gradients(textbook, case, *inputs, dy)
    value, logits, kept = inputs
    kept = kept if kept is None else layout(kept)
    actual = with_gradients(ours, case, layout(value), logits_layout(logits), kept, logits_layout(dy))
    for name, a, n, e in zip(("output", "grad_value", "grad_logits"), actual, naive, exact, strict=True):
        assert a.dtype == dtype and a.shape == e.shape
        assert error(a, e) <= tolerance(n, e), f"{name}: {error(a, e):.3g} against {error(n, e):.3g} of the textbook"


PEAK_CODE = """
import sys, torch
from mffpa_ext import ops
from mffpa_ext.ops import reference

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

def run(size):
    value, logits = torch.ones(1, size, size, 64), torch.ones(1, size, size, 2 * 81)
    with torch.no_grad():
        if sys.argv[1] == "ours":
            y = ops.outlook_attention(value, logits, 2)
        else:
            y = reference.outlook_attention(value, logits, None, 2, 3, 1, 1, 0.2)
    return 4 * sum(x.numel() for x in (value, logits, y))

run(8)  # what libraries set up at their first call is no part of the figure
before = peak()
ideal = run(192)
print((peak() - before) / ideal)
"""


@needs_kernels
def test_forward_takes_little_memory() -> None:
    """Peak resident memory over inputs and output: no unfolded values, no softmax of the logits, no window sums."""
    ours_takes, eager_takes = (float(run_python(PEAK_CODE, name)) for name in ("ours", "eager"))
    print(f"peak memory over inputs and output: {ours_takes:.2f} times, eager {eager_takes:.2f} times")
    assert 0.9 < ours_takes < 2 < eager_takes
