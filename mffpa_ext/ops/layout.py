"""How the kernels allocate what they return: channels last where x is, contiguous for any other layout."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """What is contiguous as well is taken as contiguous."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def empty_image(x: Tensor, height: int, width: int) -> Tensor:
    """[batch, channels, height, width]"""
    batch, channels = x.shape[:2]
    if is_channels_last(x):
        return x.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)
    return x.new_empty((batch, channels, height, width))


def empty_lines(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """[batch, channels, size], in memory [batch, size, channels] where x is channels last."""
    batch, channels = x.shape[:2]
    if is_channels_last(x):
        return x.new_empty((batch, size, channels), dtype=dtype).transpose(1, 2)
    return x.new_empty((batch, channels, size), dtype=dtype)


def accumulator(x: Tensor) -> torch.dtype:
    """The dtype that the arithmetic is done in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
