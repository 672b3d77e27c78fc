"""Inputs and comparisons that the tests of the pyramid's gate share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """columns: whether there are column_logits; whole: one row logit per channel instead of one per row."""

    batch: int
    branches: int
    channels: int  # of one branch
    height: int
    width: int
    softmax: bool = True
    columns: bool = True
    whole: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.branches * self.channels, self.height, self.width

    def __str__(self) -> str:
        kind = "softmax" if self.softmax else "gate"
        rows = "mean" if self.whole else "rows"
        size = f"{self.batch}x{self.branches}x{self.channels}x{self.height}x{self.width}"
        return f"{size} {kind} of {rows}{' and columns' if self.columns else ''}"


# Around the vector widths (4, 8, 16 floats), the chunks of 4 and more rows, and degenerate planes.
CASES = (
    Case(1, 4, 64, 40, 14),
    Case(2, 3, 5, 7, 9),
    Case(2, 1, 16, 1, 1, softmax=False),
    Case(1, 2, 33, 67, 31),
    Case(3, 16, 3, 5, 1),
    Case(2, 4, 8, 1, 17, softmax=False),
    Case(2, 4, 16, 6, 5, columns=False, whole=True),
    Case(1, 2, 7, 9, 19, columns=False),
    Case(2, 2, 4, 5, 3, whole=True),
    Case(1, 1, 24, 12, 13, softmax=False, columns=False, whole=True),
)


def make(case: Case, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> list[Tensor | None]:
    """x, row_logits, column_logits; logits in the dtype that the arithmetic is done in."""
    generator = torch.Generator().manual_seed(0)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    batch, channels, height, width = case.shape
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(dtype)
    rows = 2 * torch.randn(batch, channels, 1 if case.whole else height, generator=generator, dtype=torch.float64)
    columns = 2 * torch.randn(batch, channels, width, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    return [x, rows.to(accumulator), columns.to(accumulator) if case.columns else None]


def with_gradients(function: Callable, inputs: list[Tensor | None]) -> list[Tensor]:
    """The outputs, and the gradient of every input for a fixed gradient of the outputs."""
    leaves = [
        None if tensor is None else tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for tensor in inputs
    ]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    torch.autograd.backward(outputs, weights)
    return [y.detach() for y in outputs] + [leaf.grad for leaf in leaves if leaf is not None]


def double(inputs: list[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.double() for tensor in inputs]


def assert_as_exact_as_naive(actual: list[Tensor], naive: list[Tensor], exact: list[Tensor], what: object) -> None:
    """Error at most twice that of the naive expression of the same dtype, or a few roundings."""
    for index, (a, n, e) in enumerate(zip(actual, naive, exact, strict=True)):
        assert a.shape == e.shape
        if not a.numel():
            continue
        largest = e.abs().max().clamp_min(1)
        error, naive_error = ((t.double() - e).abs().max() / largest for t in (a, n))
        floor = {torch.float64: 1e-13, torch.float32: 2e-6}.get(a.dtype, torch.finfo(a.dtype).eps)
        assert error <= 2 * naive_error + floor, (what, index, error, naive_error)
