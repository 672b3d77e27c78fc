"""The networks as published code runs them: eager PyTorch, contiguous tensors, textbook expressions."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext.models import DefectNetwork
from mffpa_ext.nn import FeatureNorm2d, LargeKernelConv2d


class TextbookFeatureNorm(nn.Module):
    """`weight * (x - mean) / sqrt(std + eps) + bias`, operator by operator."""

    def __init__(self, norm: FeatureNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.relu, self.pool = norm.relu, norm.pool

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)
        y = self.weight[:, None, None] * ((x - mean) / torch.sqrt(std + self.eps))
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        y = y.relu() if self.relu else y
        return F.max_pool2d(y, 2) if self.pool else y


def as_published(network: DefectNetwork) -> DefectNetwork:
    """A copy with the same weights whose modules are torch's own; to be run inside `eager()`."""
    return _replace(copy.deepcopy(network)).to(memory_format=torch.contiguous_format)


def _replace(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, FeatureNorm2d):
            setattr(module, name, TextbookFeatureNorm(child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, _direct(child))
        else:
            _replace(child)
    return module


def _direct(conv: nn.Conv2d) -> nn.Conv2d:
    if not isinstance(conv, LargeKernelConv2d):
        return conv
    bias = conv.bias is not None
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=bias)
    plain.load_state_dict(conv.state_dict())
    return plain


@contextmanager
def eager() -> Iterator[None]:
    """The remaining operators of the package by their pure-PyTorch reference."""
    before = os.environ.get("MFFPA_BACKEND")
    os.environ["MFFPA_BACKEND"] = "reference"
    try:
        yield
    finally:
        os.environ.pop("MFFPA_BACKEND") if before is None else os.environ.update(MFFPA_BACKEND=before)
