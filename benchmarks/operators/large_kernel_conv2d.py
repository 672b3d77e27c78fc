"""Large-kernel convolution: overlap-save with a kept spectrum against the direct convolution."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import DIRECTIONS, Inputs, Operator, normal
from mffpa_ext import ops


@dataclass(frozen=True)
class Shape:
    batch: int
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: int

    def __str__(self) -> str:
        image = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{image} to {self.out_channels}, {self.kernel}x{self.kernel}"

    @property
    def padding(self) -> tuple[int, int]:
        return (self.kernel // 2,) * 2


SHAPES = (
    Shape(1, 128, 256, 80, 29, 15),  # the large kernel of mffpa for a KSDD2 image, at 1/8
    Shape(1, 256, 64, 40, 14, 9),  # the widest branch of the pyramid
    Shape(1, 64, 64, 160, 58, 7),
    Shape(1, 32, 32, 56, 56, 31),
    Shape(1, 64, 64, 56, 56, 5),  # left to the direct convolution
)
_kept: dict[Shape, tuple[Tensor, Tensor]] = {}


def eager(shape: Shape, x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=shape.padding)


def ours(shape: Shape, x: Tensor, weight: Tensor) -> Tensor:
    """As LargeKernelConv2d does it: the spectrum is kept while the weight is not trained."""
    tile = None if weight.requires_grad else ops.large_kernel_tile(x, weight.shape, shape.padding)
    if tile is None:
        return ops.large_kernel_conv2d(x, weight, None, shape.padding)
    if shape not in _kept or _kept[shape][0] is not weight:
        _kept.clear()
        _kept[shape] = weight, ops.large_kernel_spectrum(weight, tile)
    return ops.large_kernel_conv2d(x, weight, None, shape.padding, _kept[shape][1], tile)


def make_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Image and weight, channels last; the gradient of the output."""
    sizes = (
        (shape.batch, shape.channels, shape.height, shape.width),
        (shape.out_channels, shape.channels, shape.kernel, shape.kernel),
        (shape.batch, shape.out_channels, shape.height, shape.width),
    )
    x, weight, grad = (
        normal(generator, *size).to(dtype, memory_format=torch.channels_last)
        for size in sizes
    )
    return (x, weight), grad


def flops(shape: Shape) -> float:
    """Of the direct convolution, so that a rate above the machine's shows what the transform saves."""
    pixels = shape.batch * shape.height * shape.width
    return 2 * pixels * shape.channels * shape.out_channels * shape.kernel**2


def directions(shape: Shape) -> tuple[str, ...]:
    return ("forward",) if shape.kernel > 15 else tuple(DIRECTIONS)  # the direct backward pass takes ten seconds


OPERATORS = (
    Operator(
        "large kernel",
        make_inputs,
        {"eager": eager, "ours": ours},
        SHAPES,  # on a GPU it is torch's convolution that runs
        small=(Shape(1, 8, 8, 24, 20, 9),),
        directions=directions,
        dtypes=("float32",),  # half types are computed in float32, too
        flops=flops,
    ),
)
