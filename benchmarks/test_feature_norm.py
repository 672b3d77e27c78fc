"""Feature normalisation with ReLU: the compiled kernel against the published code's expression, and a copy of x.

The shapes are the network's for a KSDD2 image. "same algorithm" is the fallback of the package, in eager PyTorch.
"""

import functools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import DIRECTIONS, DTYPES, Operator, measure
from mffpa_ext import ops
from mffpa_ext.ops import reference

EPS = 1e-3


@dataclass(frozen=True)
class Shape:
    channels: int
    height: int
    width: int
    channels_last: bool
    pool: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"1x{self.channels}x{self.height}x{self.width} {layout}{' pooled' if self.pool else ''}"


SHAPES = (
    *(Shape(32, 640, 232, channels_last, pool) for pool in (False, True) for channels_last in (False, True)),
    *(Shape(*size, channels_last=True) for size in ((64, 320, 116), (64, 160, 58), (256, 80, 29))),
)


def eager(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As published (Božič et al. 2021), followed by the ReLU and the max-pool of the network."""
    mean, std = x.mean((2, 3), keepdim=True), torch.std(x, (2, 3), keepdim=True)
    y = (weight[:, None, None] * ((x - mean) / (std + EPS).sqrt()) + bias[:, None, None]).relu()
    return F.max_pool2d(y, 2) if shape.pool else y


def same_algorithm(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = reference.feature_norm(x, weight, bias, EPS, True)
    return F.max_pool2d(y, 2) if shape.pool else y


def ours(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (ops.feature_norm_pool if shape.pool else ops.feature_norm)(x, weight, bias, EPS, relu=True)


def clone(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A copy into new memory, as ours writes its result."""
    return x.clone()


@functools.lru_cache(maxsize=1)
def room_for(shape: Shape, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(make_inputs(shape, dtype)[0][0])


def copy(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A copy into memory that is there."""
    return room_for(shape, x.dtype).copy_(x)


def make_inputs(shape: Shape, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    x = (2 * torch.randn(1, shape.channels, shape.height, shape.width, generator=generator) + 1).to(dtype)
    weight, bias = torch.randn(2, shape.channels, generator=generator).to(dtype)
    shrink = 2 if shape.pool else 1
    grad = torch.randn(1, shape.channels, shape.height // shrink, shape.width // shrink, generator=generator)
    return (x.to(memory_format=layout), weight, bias), grad.to(dtype, memory_format=layout)


OPERATOR = Operator(
    "feature norm",
    make_inputs,
    {"eager": eager, "same algorithm": same_algorithm, "ours": ours},
    limits={"clone": clone, "copy_": copy},
)


@pytest.mark.parametrize("contender", OPERATOR.contender_params())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_feature_norm(benchmark, shape: Shape, direction: str, dtype: str, contender: str) -> None:
    if shape.pool and direction != "forward":
        pytest.skip("the pooled form is for inference")
    measure(benchmark, OPERATOR, shape, direction, dtype, contender)
