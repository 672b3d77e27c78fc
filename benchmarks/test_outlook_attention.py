"""Outlook attention: the compiled kernel against unfold-softmax-matmul-fold, forward and forward plus backward."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from benchmarks.contenders import DIRECTIONS, DTYPES, Operator, measure
from mffpa_ext import ops
from mffpa_ext.ops import reference

KERNEL_SIZE, PADDING = 3, 1


@dataclass(frozen=True)
class Shape:
    batch: int
    height: int
    width: int
    channels: int
    heads: int
    stride: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}x{self.channels} {self.heads} heads stride {self.stride}"


SHAPES = (
    Shape(1, 29, 80, 256, heads=4, stride=1),  # the fusion of MFFPA for a KSDD2 image, at 1/8
    Shape(8, 28, 28, 192, heads=6, stride=2),  # the first stage of VOLO-D1
)


def ours(shape: Shape, value: Tensor, logits: Tensor) -> Tensor:
    return ops.outlook_attention(value, logits, shape.heads, KERNEL_SIZE, shape.stride, PADDING)


def eager(shape: Shape, value: Tensor, logits: Tensor) -> Tensor:
    scale = (shape.channels // shape.heads) ** -0.5
    return reference.outlook_attention(value, logits, None, shape.heads, KERNEL_SIZE, shape.stride, PADDING, scale)


def make_inputs(shape: Shape, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    """Value and logits; the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    grid = [-(-size // shape.stride) for size in (shape.height, shape.width)]
    image = (shape.batch, shape.height, shape.width, shape.channels)
    sizes = (image, (shape.batch, *grid, shape.heads * KERNEL_SIZE**4), image)
    value, logits, grad = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return (value, logits), grad


OPERATOR = Operator("outlook attention", make_inputs, {"eager": eager, "ours": ours})


@pytest.mark.parametrize("contender", OPERATOR.contender_params())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outlook_attention(benchmark, shape: Shape, direction: str, dtype: str, contender: str) -> None:
    measure(benchmark, OPERATOR, shape, direction, dtype, contender)
