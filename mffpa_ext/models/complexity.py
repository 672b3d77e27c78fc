"""Parameters and multiply-accumulates of a network."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Complexity:
    """For one image. `macs` are multiply-accumulates of the convolutions and linear layers."""

    parameters: int
    macs: int


def complexity(model: nn.Module, in_channels: int, height: int, width: int) -> Complexity:
    """Counts what one image of [in_channels, height, width] costs, on the meta device: no arithmetic, no memory.

    Convolutions and linear layers count, as with the tool that the paper used; normalisation, pooling, activations and
    the attention's weighted sums do not.
    """
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()  # one output element takes one row of the weight

    shadow = copy.deepcopy(model).to("meta").eval()
    for module in shadow.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, in_channels, height, width, device="meta"))
    return Complexity(sum(parameter.numel() for parameter in model.parameters()), macs)
