"""Every build of the outlook kernel that this CPU can run, and the number formats, which each one converts itself.

The instruction set is chosen once per process, so each one is tested in a child.
"""

import json

import pytest
import torch

from mffpa_ext import _extension, ops
from tests.ops.outlook_cases import CASES, error, make, ours, textbook, tolerance, with_gradients
from tests.ops.support import DTYPES, needs_kernels, run_python, run_with_isa

HALF_TYPES = (torch.float16, torch.bfloat16)


def check_isa(expected: str) -> None:
    """Runs in the child: everything that depends on the instruction set."""
    assert _extension.cpu_isa() == expected, _extension.cpu_isa()
    for case in CASES:
        for dtype in DTYPES:
            inputs = make(case, dtype, mask=case.stride == 2)
            dy = torch.randn(case.value_shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            exact = with_gradients(textbook, case, *(x if x is None else x.double() for x in (*inputs, dy)))
            naive = with_gradients(textbook, case, *inputs, dy)
            actual = with_gradients(ours, case, *inputs, dy)
            for a, n, e in zip(actual, naive, exact, strict=True):
                assert error(a, e) <= tolerance(n, e), (case, dtype, error(a, e), error(n, e))
    for dtype in HALF_TYPES:
        check_all_bit_patterns(dtype)
        check_rounding(dtype)
        check_rounding_of_all_bits(dtype)
    check_softmax_of_extreme_logits()


def every_number(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def pass_through(value: torch.Tensor, factor: float) -> torch.Tensor:
    """The kernel with K = 1 and a dropout mask of one factor: value * factor, rounded once.

    67 channels: full vectors, and a tail that is converted one by one.
    """
    padded = torch.zeros(-(-len(value) // 67) * 67, dtype=value.dtype)
    padded[: len(value)] = value
    image = padded.reshape(1, 1, -1, 67)
    logits = torch.zeros(1, 1, image.shape[2], 1, dtype=value.dtype)
    mask = None if factor == 1 else torch.full_like(logits, factor)
    return ops.outlook_attention(image, logits, 1, kernel_size=1, dropout_mask=mask).flatten()[: len(value)]


def check_all_bit_patterns(dtype: torch.dtype) -> None:
    numbers = every_number(dtype)
    y = pass_through(numbers, 1.0)
    known = ~numbers.isnan()
    assert torch.equal(y[known], numbers[known])
    assert y[~known].isnan().all(), "NaN must not turn into infinity"
    nonzero = known & (numbers != 0)  # a sum that starts at 0 makes 0 of -0
    assert torch.equal(y[nonzero].view(torch.int16), numbers[nonzero].view(torch.int16))


def check_rounding(dtype: torch.dtype) -> None:
    """Products of two half numbers are exact in float32, so what is left is one rounding: that of torch."""
    numbers = every_number(dtype)
    # Ties (1.5), inexact factors, down into the subnormals and up into overflow.
    for factor in (1.5, 1.0009765625, 0.7001953125, 3.0, 2.0**-13, 1.25 * 2.0**-12, -(2.0**-9), 1.3330078125 * 2.0**10):
        factor = torch.tensor(factor, dtype=dtype).item()
        expected = (numbers.float() * factor).to(dtype)
        y = pass_through(numbers, factor)
        known = ~expected.isnan()
        assert torch.equal(y[known], expected[known]), (dtype, factor)
        assert y[~known].isnan().all(), (dtype, factor)


def check_rounding_of_all_bits(dtype: torch.dtype) -> None:
    """Sums of three half numbers are floats that use all 24 bits: random ones, ties, and both neighbours of ties.

    With K = 2 and equal logits the weights are exactly 1/4, so that a pixel is the sum over its window of value * mask.
    """
    mantissas = torch.randint(2**23, 2**24, (2**14 + 5,), generator=torch.Generator().manual_seed(0))
    lost = 24 - (8 if dtype == torch.bfloat16 else 11)
    ties = (mantissas >> lost << lost) + 2 ** (lost - 1)
    numbers = torch.cat([mantissas, ties - 1, ties, ties + 1, -mantissas, -ties]).float() * 2.0**-24
    rest, parts = numbers, []
    for order in range(3):  # each takes the leading bits of what is left, scaled up to where float16 holds them
        parts.append((rest * 2.0 ** (8 * order)).to(dtype))
        rest = rest - parts[-1].float() * 2.0 ** (-8 * order)
    assert not rest.any(), "three parts hold every bit"
    value = 2.0**-8 * torch.stack([*parts, torch.zeros_like(parts[0])]).reshape(1, 2, 2, -1)  # numbers as channels
    for exponent in range(-18, 4):  # for float16 down to subnormal numbers
        factors = torch.tensor([4 * 2.0 ** (8 + exponent - 8 * order) for order in (0, 1, 2, 0)], dtype=dtype)
        mask = factors.repeat(4).reshape(1, 1, 1, 16)
        y = ops.outlook_attention(value, torch.zeros_like(mask), 1, 2, stride=2, padding=0, dropout_mask=mask)
        expected = (numbers * 2.0**exponent).to(dtype)
        assert torch.equal(y, expected.expand_as(y)), (dtype, exponent)


def check_softmax_of_extreme_logits() -> None:
    """Two competing elements: the weight is the sigmoid of their difference, to the last bits over the whole range."""
    for dtype in (torch.float32, torch.float64):
        difference = torch.linspace(-86, 86, 4801, dtype=dtype)
        # One pixel, K = 2, padding 1: in window (1, 1) it is element 0, and its row is the first of four.
        logits = torch.zeros(len(difference), 2, 2, 16, dtype=dtype)
        logits[..., 0] = difference[:, None, None]
        logits[..., 2:4] = -torch.inf
        first_row = torch.zeros_like(logits)
        first_row[..., :4] = 1  # the other windows' rows add nothing
        value = torch.ones(len(difference), 1, 1, 1, dtype=dtype)
        y = ops.outlook_attention(value, logits, 1, 2, padding=1, scale=1.0, dropout_mask=first_row).flatten()
        expected = torch.sigmoid(difference.double())
        assert ((y - expected).abs() / expected).max() <= 4 * torch.finfo(dtype).eps, dtype
        far = ops.outlook_attention(value[:1], logits[:1] * 1e4, 1, 2, padding=1, scale=1.0, dropout_mask=first_row[:1])
        assert far.item() == 0, "an exponential below the smallest number is 0"


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_set(isa: str) -> None:
    run_with_isa(isa, f"from tests.ops import test_outlook_attention_isa as t; t.check_isa('{isa}')")


@needs_kernels
def test_instruction_sets_agree() -> None:
    """A checkpoint gives the same numbers on another machine, to rounding."""
    code = (
        "import json, torch\n"
        "from tests.ops.outlook_cases import CASES, make, ours\n"
        "print(json.dumps([ours(c, *make(c, torch.float64)).flatten().tolist() for c in CASES[:8]]))"
    )
    outputs = [json.loads(run_python(code, MFFPA_CPU_ISA=isa)) for isa in ("baseline", "")]
    for baseline, best in zip(*outputs, strict=True):
        assert baseline == pytest.approx(best, rel=1e-12, abs=1e-13)
