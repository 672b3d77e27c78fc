"""The CUDA kernels of the pyramid's gate and of its fused form, run on the CPU, against the float64 reference."""

import ctypes

import pytest
import torch
from torch import Tensor

from mffpa_ext.ops import reference
from tests.cuda.harness import CoordinateWeights, GateOptions, Kernels, PlaneShape, poisoned
from tests.ops import coordinate_cases as coordinate
from tests.ops.gate_cases import (
    CASES,
    LAYOUTS,
    Case,
    assert_as_exact_as_naive,
    double,
    make,
    with_gradients,
)
from tests.ops.support import DTYPES

NETWORK = Case(1, 4, 64, 40, 14)
# Whole vectors and others, cut tiles of rows, columns and channels, and planes that are not small.
TILED = (
    Case(1, 4, 8, 5, 8),
    Case(1, 2, 36, 6, 3),
    Case(1, 4, 1, 70, 72),
    Case(1, 3, 2, 33, 129, softmax=False),
    Case(1, 1, 4, 320, 13, columns=False),
    Case(1, 2, 1, 1, 4100, whole=True),
)


def few_blocks(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Those that an emulated GPU runs in less than a second: every plane costs a block's time."""
    return tuple(case for case in cases if case.batch * case.channels * case.height <= 400)


class Operator:
    """One case on the kernels. Tensors are [batch, channels, …]; they are stored in the layout, shifted if asked."""

    def __init__(self, kernels: Kernels, case: Case, dtype: torch.dtype, layout: str, shift: bool = False) -> None:
        self.kernels, self.dtype, self.last, self.shift = kernels, dtype, layout == "channels_last", shift
        self.accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        self.shape = PlaneShape(*case.shape, self.last)
        self.options = GateOptions(case.branches, case.softmax)
        self.row_size = ctypes.c_int64(1 if case.whole else case.height)

    def stored(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        tensor = (tensor.movedim(1, -1) if self.last else tensor).contiguous()
        if self.shift and tensor.dtype == self.dtype:
            return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
        return tensor

    def output(self, like: Tensor | None) -> Tensor | None:
        return None if like is None else poisoned(like.shape, like.dtype)

    def seen(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(-1, 1) if self.last else tensor

    def forward(self, x: Tensor, rows: Tensor, columns: Tensor | None) -> Tensor:
        x, rows, columns = map(self.stored, (x, rows, columns))
        y = self.output(x)
        self.kernels(
            "pyramid_gate_forward", self.dtype, self.shape, self.options, x, rows, self.row_size, columns, y
        )
        return self.seen(y)

    def backward(self, grad_y: Tensor, x: Tensor, rows: Tensor, columns: Tensor | None) -> list[Tensor]:
        """The gradients of x, rows and, where there are some, columns."""
        elements = ctypes.c_int64()
        self.kernels(
            "pyramid_gate_backward_workspace", self.dtype, self.shape, self.options, self.row_size, elements
        )
        grad_y, *inputs = map(self.stored, (grad_y, x, rows, columns))
        grads = [self.output(tensor) for tensor in inputs]
        workspace = poisoned((elements.value,), self.accumulator)
        x, rows, columns = inputs
        self.kernels(
            "pyramid_gate_backward", self.dtype, self.shape, self.options, grad_y, x, rows, self.row_size, columns,
            *grads, workspace,
        )  # fmt: skip
        return [self.seen(grad) for grad in grads if grad is not None]


def grad_of(y: Tensor) -> Tensor:
    """The gradient that `with_gradients` takes."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)


def run(kernels: Kernels, case: Case, dtype: torch.dtype, layout: str, shift: bool = False) -> list[Tensor]:
    inputs = make(case, dtype, layout)
    operator = Operator(kernels, case, dtype, layout, shift)
    return [operator.forward(*inputs), *operator.backward(grad_of(inputs[0]), *inputs)]


def check(kernels: Kernels, case: Case, dtype: torch.dtype, layout: str, shift: bool = False) -> None:
    inputs = make(case, dtype)

    def by_reference(*arguments: Tensor | None) -> Tensor:
        return reference.pyramid_gate(*arguments, case.branches, case.softmax)

    naive, exact = (with_gradients(by_reference, values) for values in (inputs, double(inputs)))
    assert_as_exact_as_naive(run(kernels, case, dtype, layout, shift), naive, exact, (case, dtype, layout, shift))


ALL = (*few_blocks(CASES), *TILED)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for dtype in DTYPES for case in (ALL if dtype == torch.float32 else ALL[::2])],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_against_float64(kernels: Kernels, case: Case, dtype: torch.dtype, layout: str) -> None:
    check(kernels, case, dtype, layout)


def test_the_shape_of_the_network(kernels: Kernels) -> None:
    check(kernels, NETWORK, torch.float32, "channels_last")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_tensors_that_are_not_16_byte_aligned(kernels: Kernels, dtype: torch.dtype, layout: str) -> None:
    check(kernels, TILED[0], dtype, layout, shift=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "gate"])
def test_not_a_number_stays_where_it_belongs(kernels: Kernels, softmax: bool, layout: str) -> None:
    """A logit spoils its row, with a softmax in every branch; an element of x itself and, backward, its lines."""
    case = Case(1, 2, 4, 5, 6, softmax=softmax)
    inputs = make(case)
    inputs[1][0, 3, 2] = torch.nan
    inputs[0][0, 1, 4, 5] = torch.nan
    expected = reference.pyramid_gate(*inputs, case.branches, case.softmax).isnan()
    y = Operator(kernels, case, torch.float32, layout).forward(*inputs)
    assert torch.equal(y.isnan(), expected) and expected.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saturated_logits(kernels: Kernels, layout: str) -> None:
    """Sigmoids of exactly 0 and 1: exponentials that overflow must not become NaN."""
    case = Case(1, 3, 4, 3, 4)
    x, rows, columns = make(case)
    rows, columns = rows.sign() * 1e4, columns.sign() * torch.inf
    operator = Operator(kernels, case, torch.float32, layout)
    exact = reference.pyramid_gate(x.double(), rows.double(), columns.double(), case.branches, case.softmax)
    torch.testing.assert_close(operator.forward(x, rows, columns).double(), exact, rtol=1e-6, atol=1e-6)
    _, grad_rows, grad_columns = operator.backward(grad_of(x), x, rows, columns)
    assert torch.equal(grad_rows, torch.zeros_like(rows)) and torch.equal(grad_columns, torch.zeros_like(columns))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repetition_and_the_batch_do_not_change_a_bit(kernels: Kernels, layout: str) -> None:
    case = Case(2, 4, 8, 9, 12)
    first, second = (run(kernels, case, torch.float32, layout) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    inputs = [tensor[1:] for tensor in make(case)]
    operator = Operator(kernels, Case(1, 4, 8, 9, 12), torch.float32, layout)
    dy = grad_of(make(case)[0])[1:]
    for a, b in zip([operator.forward(*inputs), *operator.backward(dy, *inputs)], first, strict=True):
        assert torch.equal(a, b[1:])


# ---- the fused weight computation ------------------------------------------------------------------------------------


def attention(
    kernels: Kernels, case: Case, x: Tensor, parameters: dict[str, Tensor], layout: str, shift: bool = False
) -> Tensor:
    operator = Operator(kernels, case, x.dtype, layout, shift)
    stored = operator.stored(x)
    y = operator.output(stored)
    workspace = poisoned((x.shape[0] * x.shape[1] * sum(x.shape[2:]),), operator.accumulator)
    tensors = {name: tensor.to(operator.accumulator).contiguous() for name, tensor in parameters.items()}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    weights = CoordinateWeights(hidden=len(tensors["conv1_bias"]), bn_eps=coordinate.EPS, **pointers)
    kernels(
        "pyramid_coordinate_attention", x.dtype, operator.shape, operator.options, stored, weights, y, workspace
    )
    return operator.seen(y)


# With hidden channels. The first in whole vectors; then more channels than a block takes the means of at once, more
# lines, and more hidden channels than warps.
FUSED = (
    (Case(1, 4, 64, 5, 3), 8),
    (Case(1, 2, 140, 2, 3), 3),
    (Case(1, 2, 8, 19, 9), 1),
    (Case(1, 2, 5, 9, 3), 300),
    (Case(2, 3, 5, 4, 3), 17),
    (Case(1, 16, 3, 2, 1), 2),
    (Case(1, 4, 8, 1, 5, softmax=False), 8),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("case", "hidden"), FUSED, ids=str)
def test_attention_against_float64(
    kernels: Kernels, case: Case, dtype: torch.dtype, layout: str, hidden: int
) -> None:
    x, p = make(case, dtype)[0], coordinate.parameters(case.channels, hidden, dtype)
    exact = coordinate.by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    naive = coordinate.by_formula(x, case, p)
    for shift in (False, True) if case == FUSED[0][0] else (False,):
        y = attention(kernels, case, x, p, layout, shift)
        assert_as_exact_as_naive([y], [naive], [exact], (case, dtype, layout, hidden, shift))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_keeps_not_a_number(kernels: Kernels, layout: str) -> None:
    """In its row and column of all branches, whose weights it takes part in."""
    case, p = Case(1, 2, 4, 5, 6), coordinate.parameters(4, 3)
    x = make(case)[0]
    x[0, 1, 2, 3] = torch.nan
    expected = coordinate.by_formula(x, case, p).isnan()
    assert torch.equal(attention(kernels, case, x, p, layout).isnan(), expected) and expected.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_with_the_most_hidden_channels(kernels: Kernels, layout: str) -> None:
    case, p = Case(1, 1, 2, 1, 1), coordinate.parameters(2, 2048)
    x = make(case)[0]
    exact = coordinate.by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    naive = coordinate.by_formula(x, case, p)
    assert_as_exact_as_naive([attention(kernels, case, x, p, layout)], [naive], [exact], layout)
