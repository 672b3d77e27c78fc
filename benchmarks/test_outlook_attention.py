"""Outlook attention: the compiled kernel against unfold-softmax-matmul-fold, forward and forward plus backward.

    pytest benchmarks --benchmark-only

Both run in one process, on the same tensors and number of threads; results are compared before anything is timed. The
table at the end gives the ratio of the medians. A fair figure needs an idle machine: look at the quartiles above it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mffpa_ext import _extension, ops
from mffpa_ext.ops import reference

KERNEL_SIZE, PADDING = 3, 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALLOWED_ERROR = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # relative to the largest value, against float64


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


CONTENDERS = {"eager": eager, "ours": ours}


def make_inputs(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Value, logits and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    grid = [-(-size // shape.stride) for size in (shape.height, shape.width)]
    image = (shape.batch, shape.height, shape.width, shape.channels)
    sizes = (image, (shape.batch, *grid, shape.heads * KERNEL_SIZE**4), image)
    return tuple(torch.randn(size, generator=generator).to(dtype) for size in sizes)


def forward(function: Callable, shape: Shape, value: Tensor, logits: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (function(shape, value, logits),)


def forward_backward(
    function: Callable, shape: Shape, value: Tensor, logits: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    value, logits = value.detach().requires_grad_(), logits.detach().requires_grad_()
    y = function(shape, value, logits)
    return y, *torch.autograd.grad(y, (value, logits), grad)


DIRECTIONS = {"forward": forward, "forward plus backward": forward_backward}


def assert_right(results: tuple[Tensor, ...], exact: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for result, expected in zip(results, exact, strict=True):
        error = (result.double() - expected).abs().max() / expected.abs().max()
        assert error <= ALLOWED_ERROR[dtype], f"wrong result, so no time: relative error {error:.3g}"


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outlook_attention(benchmark, shape: Shape, direction: str, dtype: str, contender: str) -> None:
    if not _extension.is_compiled():
        pytest.skip(f"compiled kernels are missing: {_extension.missing_reason()}")
    run, function = DIRECTIONS[direction], CONTENDERS[contender]
    inputs = make_inputs(shape, DTYPES[dtype])
    exact = run(eager, shape, *(tensor.double() for tensor in inputs))
    assert_right(run(function, shape, *inputs), exact, DTYPES[dtype])
    benchmark.group = f"outlook attention, {shape}, {direction}, {dtype}"
    benchmark.extra_info.update(contender=contender, threads=torch.get_num_threads(), isa=_extension.cpu_isa())
    benchmark(run, function, shape, *inputs)
