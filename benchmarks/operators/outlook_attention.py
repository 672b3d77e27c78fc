"""Outlook attention: the compiled kernel against unfold-softmax-matmul-fold, forward and forward plus backward."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import Inputs, Operator, normal
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
GPU_SHAPES = (SHAPES[0], replace(SHAPES[0], batch=64), SHAPES[1], replace(SHAPES[1], batch=128))


def ours(shape: Shape, value: Tensor, logits: Tensor) -> Tensor:
    return ops.outlook_attention(value, logits, shape.heads, KERNEL_SIZE, shape.stride, PADDING)


def eager(shape: Shape, value: Tensor, logits: Tensor) -> Tensor:
    scale = (shape.channels // shape.heads) ** -0.5
    return reference.outlook_attention(value, logits, None, shape.heads, KERNEL_SIZE, shape.stride, PADDING, scale)


def same_algorithm(shape: Shape, value: Tensor, logits: Tensor) -> Tensor:
    """One kernel of (2K-1)^2 offsets per pixel, as ours, in eager PyTorch."""
    k, s = KERNEL_SIZE, shape.stride
    batch, grid_height, grid_width = logits.shape[:3]
    scale = (shape.channels // shape.heads) ** -0.5
    rows = (logits * scale).view(batch, grid_height, grid_width, shape.heads, k * k, k * k).softmax(-1)
    rows = rows.view(batch, grid_height, grid_width, shape.heads, k, k, k, k)
    sizes = [max(s * n + k, PADDING + size) for n, size in ((grid_height, shape.height), (grid_width, shape.width))]
    kernels = value.new_zeros(batch, *sizes, shape.heads, 2 * k - 1, 2 * k - 1)
    for i in range(k):
        for j in range(k):
            pixels = kernels[:, i : i + s * grid_height : s, j : j + s * grid_width : s]
            pixels[..., k - 1 - i : 2 * k - 1 - i, k - 1 - j : 2 * k - 1 - j] += rows[..., i, j, :, :]
    kernels = kernels[:, PADDING : PADDING + shape.height, PADDING : PADDING + shape.width]
    padded = F.pad(value, (0, 0, k - 1, k - 1, k - 1, k - 1))
    y = torch.zeros_like(value).view(*value.shape[:3], shape.heads, -1)
    for i in range(2 * k - 1):
        for j in range(2 * k - 1):
            shifted = padded[:, i : i + shape.height, j : j + shape.width]
            y = y + kernels[..., i, j, None] * shifted.reshape(y.shape)
    return y.flatten(3)


def make_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Value and logits; the gradient of the output."""
    grid = [-(-size // shape.stride) for size in (shape.height, shape.width)]
    image = (shape.batch, shape.height, shape.width, shape.channels)
    sizes = (image, (shape.batch, *grid, shape.heads * KERNEL_SIZE**4), image)
    value, logits, grad = (
        normal(generator, *size).to(dtype) for size in sizes
    )
    return (value, logits), grad


OPERATORS = (
    Operator(
        "outlook attention",
        make_inputs,
        {"eager": eager, "same algorithm": same_algorithm, "ours": ours},
        SHAPES,
        GPU_SHAPES,
        small=(Shape(1, 6, 7, 8, heads=2, stride=1), Shape(32, 6, 7, 8, heads=2, stride=2)),
    ),
)
