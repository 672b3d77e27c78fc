"""The pyramid's gate: compiled operators against the same in eager PyTorch, alone and as whole attentions.

    pytest benchmarks --benchmark-only -k pyramid_gate

The attentions start from the branches' features as their convolutions leave them, one tensor each; ours concatenates
them first, and that is timed too. Results are compared before anything is timed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mffpa_ext import CoordinateAttention, _extension, ops
from mffpa_ext.nn import SqueezeExcitation

BRANCHES = 4
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
ALLOWED_ERROR = 1e-4  # relative to the largest value, against float64


@dataclass(frozen=True)
class Shape:
    batch: int
    channels: int  # of one branch
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{BRANCHES}x{self.channels}x{self.height}x{self.width}"


SHAPES = (
    Shape(1, 64, 40, 14),  # MFFPA's pyramid for a KSDD2 image
    Shape(8, 64, 40, 14),
    Shape(1, 64, 160, 120),
)


@dataclass(frozen=True)
class Inputs:
    """Tensors that gradients are taken for; what `features` are concatenated gives x."""

    features: list[Tensor]
    rows: Tensor
    columns: Tensor
    attention: nn.Module

    def leaves(self) -> list[Tensor]:
        return [*self.features, self.rows, self.columns, *self.attention.parameters()]


# ---- eager: branch by branch, as the published code ------------------------------------------------------------------


def eager_gate(attention: nn.Module, x: Tensor) -> Tensor:
    if isinstance(attention, SqueezeExcitation):
        means = x.mean(dim=(2, 3), keepdim=True)
        return attention.fc2(attention.relu(attention.fc1(means))).sigmoid()
    height, width = x.shape[2:]
    means = torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2).unsqueeze(-1)
    hidden = attention.act(attention.bn1(attention.conv1(means)))
    by_row, by_column = hidden.split([height, width], dim=2)
    return attention.conv_h(by_row).sigmoid() * attention.conv_w(by_column.transpose(2, 3)).sigmoid()


def eager_weighting(features: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
    weights = torch.stack(list(gates), dim=1).softmax(dim=1)
    return (torch.stack(list(features), dim=1) * weights).flatten(1, 2)


def eager_pyramid(inputs: Inputs) -> tuple[Tensor, ...]:
    return (eager_weighting(inputs.features, [eager_gate(inputs.attention, x) for x in inputs.features]),)


def eager_weights(inputs: Inputs) -> tuple[Tensor, ...]:
    rows, columns = (logits.sigmoid().chunk(BRANCHES, dim=1) for logits in (inputs.rows, inputs.columns))
    gates = [row.unsqueeze(3) * column.unsqueeze(2) for row, column in zip(rows, columns, strict=True)]
    return (eager_weighting(inputs.features, gates),)


def eager_means(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs.features[0].mean(dim=3), inputs.features[0].mean(dim=2)


# ---- ours ------------------------------------------------------------------------------------------------------------


def our_pyramid(inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs.attention.weigh_branches(torch.cat(inputs.features, dim=1), BRANCHES, last_first=False),)


def our_weights(inputs: Inputs) -> tuple[Tensor, ...]:
    return (ops.pyramid_gate(torch.cat(inputs.features, dim=1), inputs.rows, inputs.columns, BRANCHES),)


def our_means(inputs: Inputs) -> tuple[Tensor, ...]:
    return ops.directional_means(inputs.features[0])


OPERATORS = {
    "means": {"eager": eager_means, "ours": our_means},
    "gate": {"eager": eager_weights, "ours": our_weights},
    "coordinate": {"eager": eager_pyramid, "ours": our_pyramid},
    "se": {"eager": eager_pyramid, "ours": our_pyramid},
}


def make_inputs(operator: str, shape: Shape, memory_format: torch.memory_format, dtype: torch.dtype) -> Inputs:
    torch.manual_seed(0)
    attention = (SqueezeExcitation if operator == "se" else CoordinateAttention)(shape.channels).to(dtype)
    image = (shape.batch, shape.channels, shape.height, shape.width)
    if operator == "means":  # all branches at once
        image = (shape.batch, BRANCHES * shape.channels, shape.height, shape.width)
    features = [torch.randn(image).to(dtype).contiguous(memory_format=memory_format) for _ in range(BRANCHES)]
    lines = (torch.randn(shape.batch, BRANCHES * shape.channels, n).to(dtype) for n in (shape.height, shape.width))
    inputs = Inputs(features, *lines, attention)
    for leaf in inputs.leaves():
        leaf.requires_grad_()
    return inputs


def inference(function: Callable, inputs: Inputs) -> tuple[Tensor, ...]:
    inputs.attention.eval()
    with torch.no_grad():
        return function(inputs)


def forward(function: Callable, inputs: Inputs) -> tuple[Tensor, ...]:
    """In training mode, with what the backward pass needs."""
    return function(inputs)


def forward_backward(function: Callable, inputs: Inputs) -> tuple[Tensor, ...]:
    results = function(inputs)
    return *results, *torch.autograd.grad(results, inputs.leaves(), results, allow_unused=True)


DIRECTIONS = {"inference": inference, "forward": forward, "forward plus backward": forward_backward}


def assert_right(results: tuple[Tensor | None, ...], exact: tuple[Tensor | None, ...]) -> None:
    for result, expected in zip(results, exact, strict=True):
        if expected is not None:
            error = (result.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)
            assert error <= ALLOWED_ERROR, f"wrong result, so no time: relative error {error:.3g}"


@pytest.mark.parametrize("contender", ("eager", "ours"))
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_pyramid_gate(benchmark, operator: str, shape: Shape, direction: str, memory_format: str, contender: str):
    if not _extension.is_compiled():
        pytest.skip(f"compiled kernels are missing: {_extension.missing_reason()}")
    run, function = DIRECTIONS[direction], OPERATORS[operator][contender]
    inputs = make_inputs(operator, shape, FORMATS[memory_format], torch.float32)
    exact = make_inputs(operator, shape, FORMATS[memory_format], torch.float64)
    assert_right(run(function, inputs), run(OPERATORS[operator]["eager"], exact))
    benchmark.group = f"pyramid gate, {operator}, {shape}, {direction}, {memory_format}"
    benchmark.extra_info.update(contender=contender, threads=torch.get_num_threads(), isa=_extension.cpu_isa())
    benchmark(run, function, inputs)
