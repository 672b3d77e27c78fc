"""Convolution with large kernels as a module, a drop-in for torch.nn.Conv2d."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext.ops.large_kernel_conv2d import (
    DEFAULT_MEMORY_LIMIT,
    large_kernel_conv2d,
    large_kernel_spectrum,
    large_kernel_tile,
)


class _Spectrum(NamedTuple):
    """Of the weight that had this version and place, for this tile."""

    key: tuple
    tensor: Tensor


class LargeKernelConv2d(nn.Conv2d):
    """torch.nn.Conv2d of stride 1 that runs in the frequency domain where that is faster: large kernels on the CPU.

    Arguments, parameters and state dict are those of torch.nn.Conv2d; dilation and groups must be 1, padding must be
    zeros and smaller than the kernel. Everything else about it, and the source, in
    `mffpa_ext.ops.large_kernel_conv2d`. Under autocast, and where it is compiled, traced or exported, it is a direct
    convolution.

    Without gradients for the weight (inference), the spectrum of the weight is made once and kept, until the weight
    changes: by an optimiser, load_state_dict, or any other operation in place. Only what is written through
    `weight.data` cannot be noticed; call `forget_spectrum()` afterwards.

    Args:
        memory_limit: bytes that the kept spectrum may take, and that the work space of one call may take.

    Shape: [batch, in_channels, H, W] to [batch, out_channels, H + 2 * padding - kernel_size + 1, ...].
    """

    def __init__(self, *args, memory_limit: int = DEFAULT_MEMORY_LIMIT, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for name, needed in (("stride", (1, 1)), ("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != needed:
                raise ValueError(f"LargeKernelConv2d: {name} must be {needed}, got {getattr(self, name)}")
        if isinstance(self.padding, str):  # "same" and "valid", as Conv2d takes them
            same = self.padding == "same"
            if same and not all(k % 2 for k in self.kernel_size):
                raise ValueError(f"LargeKernelConv2d: padding 'same' needs odd kernels, got {self.kernel_size}")
            self.padding = tuple(k // 2 if same else 0 for k in self.kernel_size)
        self.memory_limit = memory_limit
        self._spectrum: _Spectrum | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return F.conv2d(x, self.weight, self.bias, padding=self.padding)
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        kept = not trained and not self.weight.is_inference()  # inference tensors do not count their changes
        tile = large_kernel_tile(x, self.weight.shape, self.padding, self.memory_limit, kept)
        if tile is None:
            return F.conv2d(x, self.weight, self.bias, padding=self.padding)
        spectrum = self._spectrum_for(tile) if kept else None
        return large_kernel_conv2d(x, self.weight, self.bias, self.padding, spectrum, tile, self.memory_limit)

    def forget_spectrum(self) -> None:
        """Frees what is kept of the weight; it is made again when it is next needed."""
        self._spectrum = None

    def _spectrum_for(self, tile: tuple[int, int]) -> Tensor:
        weight = self.weight
        key = (tile, weight.data_ptr(), weight._version, weight.dtype)
        if self._spectrum is None or self._spectrum.key != key:
            self._spectrum = None  # the old one's memory first
            self._spectrum = _Spectrum(key, large_kernel_spectrum(weight, tile))
        return self._spectrum.tensor

    def __getstate__(self) -> dict:
        """For copies and pickles: without the spectrum, which belongs to this weight's memory."""
        return {**super().__getstate__(), "_spectrum": None}
