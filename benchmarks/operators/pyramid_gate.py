"""The pyramid's weights: compiled operators against the same in eager PyTorch, branch by branch as it is published."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders import Inputs, Operator, normal
from mffpa_ext import ops

BRANCHES, HIDDEN, EPS = 4, 8, 1e-5


@dataclass(frozen=True)
class Shape:
    batch: int
    channels: int  # of one branch
    height: int
    width: int
    channels_last: bool = True

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{self.batch}x{BRANCHES}x{self.channels}x{self.height}x{self.width} {layout}"


SHAPES = (
    Shape(1, 64, 40, 14),  # mffpa's pyramid for a KSDD2 image
    Shape(1, 64, 40, 14, channels_last=False),
    Shape(8, 64, 40, 14),
    Shape(1, 64, 160, 120),
)
GPU_SHAPES = (*SHAPES[:2], *(replace(shape, batch=64) for shape in SHAPES[:2]))
SMALL = (Shape(1, 8, 6, 7), Shape(32, 8, 6, 7, channels_last=False))


def make_image(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    image = normal(generator, shape.batch, BRANCHES * shape.channels, shape.height, shape.width)
    return image.to(dtype, memory_format=torch.channels_last if shape.channels_last else torch.contiguous_format)


# ---- directional means -----------------------------------------------------------------------------------------------


def eager_means(shape: Shape, x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2)


def our_means(shape: Shape, x: Tensor) -> Tensor:
    return torch.cat(ops.directional_means(x), dim=2)


def make_means_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    grad = normal(generator, shape.batch, BRANCHES * shape.channels, shape.height + shape.width)
    return (make_image(shape, dtype, generator),), grad.to(dtype)


# ---- gate ------------------------------------------------------------------------------------------------------------


def eager_gate(shape: Shape, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    gate = rows.sigmoid().unsqueeze(3) * columns.sigmoid().unsqueeze(2)
    weights = torch.stack(gate.chunk(BRANCHES, dim=1), dim=1).softmax(dim=1)
    return (torch.stack(x.chunk(BRANCHES, dim=1), dim=1) * weights).flatten(1, 2)


def our_gate(shape: Shape, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return ops.pyramid_gate(x, rows, columns, BRANCHES)


def make_gate_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    lines = (
        normal(generator, shape.batch, BRANCHES * shape.channels, n).to(dtype)
        for n in (shape.height, shape.width)
    )
    x, grad = make_image(shape, dtype, generator), make_image(shape, dtype, generator)
    return (x, *lines), grad


# ---- the whole weight computation at inference -----------------------------------------------------------------------


def eager_attention(shape: Shape, x: Tensor, *p: Tensor) -> Tensor:
    """p: conv1 weight and bias, BatchNorm weight, bias, mean and variance, conv_h and conv_w weight and bias."""

    def gate(feature: Tensor) -> Tensor:
        means = torch.cat([feature.mean(dim=3), feature.mean(dim=2)], dim=2).unsqueeze(3)
        hidden = F.conv2d(means, p[0][:, :, None, None], p[1])
        hidden = F.hardswish(F.batch_norm(hidden, p[4], p[5], p[2], p[3], eps=EPS))
        rows, columns = hidden.split([shape.height, shape.width], dim=2)
        row_gate = F.conv2d(rows, p[6][:, :, None, None], p[7]).sigmoid()
        return row_gate * F.conv2d(columns.transpose(2, 3), p[8][:, :, None, None], p[9]).sigmoid()

    features = x.chunk(BRANCHES, dim=1)
    weights = torch.stack([gate(feature) for feature in features], dim=1).softmax(dim=1)
    return (torch.stack(features, dim=1) * weights).flatten(1, 2)


def our_attention(shape: Shape, x: Tensor, *p: Tensor) -> Tensor:
    return ops.pyramid_coordinate_attention(x, BRANCHES, *p[:6], EPS, *p[6:])


def make_attention_inputs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    c = shape.channels
    sizes = ((HIDDEN, c), (HIDDEN,), (HIDDEN,), (HIDDEN,), (HIDDEN,), (HIDDEN,), (c, HIDDEN), (c,), (c, HIDDEN), (c,))
    p = [normal(generator, *size).to(dtype) for size in sizes]
    p[5] = p[5].abs() + 0.5
    x, grad = make_image(shape, dtype, generator), make_image(shape, dtype, generator)
    return (x, *p), grad


FORMS = {"shapes": SHAPES, "gpu_shapes": GPU_SHAPES, "small": SMALL, "dtypes": ("float32",)}
OPERATORS = (
    Operator("directional means", make_means_inputs, {"eager": eager_means, "ours": our_means}, **FORMS),
    Operator("pyramid gate", make_gate_inputs, {"eager": eager_gate, "ours": our_gate}, **FORMS),
    Operator(
        "pyramid attention",
        make_attention_inputs,
        {"eager": eager_attention, "ours": our_attention},
        **FORMS,
        directions=lambda shape: ("forward",),
    ),
)
