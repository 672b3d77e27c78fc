"""Shapes, inputs and the tolerance that the tests of outlook attention share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.ops.support import DTYPES


@dataclass(frozen=True)
class Case:
    height: int
    width: int
    heads: int
    head_dim: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    batch: int = 1

    def __str__(self) -> str:
        text = f"{self.batch}x{self.height}x{self.width}-{self.heads}x{self.head_dim}-k{self.kernel_size}"
        return f"{text}s{self.stride}p{self.pad}"

    @property
    def pad(self) -> int:
        return self.kernel_size // 2 if self.padding is None else self.padding

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def value_shape(self) -> tuple[int, ...]:
        return self.batch, self.height, self.width, self.heads * self.head_dim

    @property
    def logits_shape(self) -> tuple[int, ...]:
        grid = [(n + 2 * self.pad - self.kernel_size) // self.stride + 1 for n in (self.height, self.width)]
        return self.batch, *grid, self.heads * self.kernel_size**4


# Every stride and kernel size, head sizes on both sides of the vector widths (16, 8 and 4 floats), odd images.
CASES = (
    Case(7, 5, 2, 8),
    Case(9, 11, 3, 20, batch=2),
    Case(6, 7, 1, 67),
    Case(4, 4, 4, 1),
    Case(5, 9, 2, 64, stride=2),
    Case(8, 8, 1, 16, stride=3),
    Case(7, 6, 2, 5, kernel_size=5),
    Case(8, 5, 1, 33, kernel_size=5, stride=2),
    Case(9, 8, 2, 4, kernel_size=7),
    Case(11, 7, 1, 9, kernel_size=7, stride=3),
    Case(5, 4, 3, 7, kernel_size=1),
    Case(6, 5, 2, 17, kernel_size=1, stride=2),
    Case(1, 1, 2, 8),
    Case(1, 1, 1, 8, kernel_size=5, stride=2),
    Case(2, 9, 1, 8, kernel_size=5),  # height below K
    Case(6, 1, 2, 3, kernel_size=7, stride=2),  # width below K
    Case(5, 6, 1, 8, kernel_size=2, padding=0),
    Case(5, 6, 2, 8, kernel_size=2, padding=1),
    Case(5, 5, 1, 8, kernel_size=4, stride=2, padding=3),  # windows that touch the image with one element only
    Case(6, 7, 1, 8, kernel_size=3, padding=0),
    # Pixels that no window covers: behind the last window, and between windows.
    Case(5, 8, 2, 8, kernel_size=3, stride=3, padding=0),
    Case(12, 9, 1, 8, kernel_size=7, stride=6, padding=0),
    Case(11, 14, 1, 8, kernel_size=3, stride=6),
    Case(3, 4, 1, 8, batch=0),
)


def make(case: Case, dtype: torch.dtype = torch.float32, mask: bool = False, seed: int = 0) -> list[Tensor | None]:
    """Value, logits and, if asked for, a dropout mask with p = 0.25. The logits are large enough to make peaks."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(case.value_shape, generator=generator, dtype=torch.float64).to(dtype)
    logits = (3 * torch.randn(case.logits_shape, generator=generator, dtype=torch.float64)).to(dtype)
    if not mask:
        return [value, logits, None]
    kept = torch.rand(case.logits_shape, generator=generator) >= 0.25
    return [value, logits, (kept / 0.75).to(dtype)]


def ours(case: Case, value: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    return ops.outlook_attention(
        value, logits, case.heads, case.kernel_size, case.stride, case.padding, dropout_mask=mask
    )


def textbook(case: Case, value: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Unfold, softmax, matmul, fold in the dtype of its arguments."""
    return reference.outlook_attention(
        value, logits, mask, case.heads, case.kernel_size, case.stride, case.pad, case.scale
    )


def with_gradients(function, case: Case, value: Tensor, logits: Tensor, mask: Tensor | None, dy: Tensor):
    """Output, gradient of the value, gradient of the logits."""
    value, logits = value.detach().requires_grad_(), logits.detach().requires_grad_()
    y = function(case, value, logits, mask)
    return y.detach(), *torch.autograd.grad(y, (value, logits), dy)


def error(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact.double()).abs().max().item() if actual.numel() else 0.0


def tolerance(naive: Tensor, exact: Tensor) -> float:
    """Relative to the largest value 1e-5 for float32 and 1e-13 for float64.

    Half types: twice the error of the naive expression in the same dtype, and the rounding of the result.
    """
    magnitude = exact.abs().max().item() if exact.numel() else 0.0
    if naive.dtype in (torch.float32, torch.float64):
        return magnitude * (1e-5 if naive.dtype == torch.float32 else 1e-13)
    return 2 * error(naive, exact) + torch.finfo(naive.dtype).eps * magnitude

