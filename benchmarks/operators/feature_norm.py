"""Feature normalisation with ReLU: the compiled kernel against the published code's expression, and a copy of x.

The shapes are the network's for a KSDD2 image. "same algorithm" is the fallback of the package, in eager PyTorch.
"""

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import DIRECTIONS, Inputs, Operator, normal
from mffpa_ext import ops
from mffpa_ext.ops import reference

EPS = 1e-3


@dataclass(frozen=True)
class Shape:
    batch: int
    channels: int
    height: int
    width: int
    channels_last: bool
    pool: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{self.batch}x{self.channels}x{self.height}x{self.width} {layout}{' pooled' if self.pool else ''}"


SHAPES = (
    *(Shape(1, 32, 640, 232, channels_last, pool) for pool in (False, True) for channels_last in (False, True)),
    *(Shape(1, *size, channels_last=True) for size in ((64, 320, 116), (64, 160, 58), (256, 80, 29))),
)
GPU_SHAPES = (*SHAPES[:4], *(replace(shape, batch=32) for shape in SHAPES[:4]))


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
    return torch.empty_like(make_inputs(shape, dtype, torch.Generator())[0][0])


def copy(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A copy into memory that is there."""
    return room_for(shape, x.dtype).copy_(x)


def make_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    x = (2 * normal(generator, shape.batch, shape.channels, shape.height, shape.width) + 1).to(dtype)
    weight, bias = normal(generator, 2, shape.channels).to(dtype)
    shrink = 2 if shape.pool else 1
    grad = normal(generator, shape.batch, shape.channels, shape.height // shrink, shape.width // shrink)
    return (x.to(memory_format=layout), weight, bias), grad.to(dtype, memory_format=layout)


def directions(shape: Shape) -> tuple[str, ...]:
    return ("forward",) if shape.pool else tuple(DIRECTIONS)  # the pooled form is for inference


OPERATORS = (
    Operator(
        "feature norm",
        make_inputs,
        {"eager": eager, "same algorithm": same_algorithm, "ours": ours},
        SHAPES,
        GPU_SHAPES,
        small=(Shape(1, 4, 8, 6, channels_last=False), Shape(32, 4, 8, 6, channels_last=True, pool=True)),
        directions=directions,
        limits={"clone": clone, "copy_": copy},
    ),
)
