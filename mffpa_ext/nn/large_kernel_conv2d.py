"""Convolution with large kernels as a module, a drop-in for torch.nn.Conv2d."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext.ops.large_kernel_conv2d import (
    DEFAULT_MEMORY_LIMIT,
    direct_conv2d,
    large_kernel_conv2d,
    large_kernel_spectrum,
    large_kernel_tile,
)


@dataclass(frozen=True)
class _Spectra:
    """What is kept of one weight: its spectrum for the tiles of each image size, the latest used last.

    `weight` is held, so that no other tensor can come to lie at its address. A weight that may be trained is compared
    with a copy at each use: fused optimisers do not count their steps in `_version`, and the comparison costs a tenth
    of the convolution.
    """

    weight: nn.Parameter
    version: int
    values: Tensor | None
    of_tile: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, weight: nn.Parameter) -> _Spectra:
        return cls(weight, weight._version, weight.detach().clone() if weight.requires_grad else None)

    def hold(self, weight: nn.Parameter) -> bool:
        if weight is not self.weight or weight._version != self.version:
            return False
        if not weight.requires_grad:
            return True
        return self.values is not None and self.values.dtype == weight.dtype and torch.equal(self.values, weight)


class LargeKernelConv2d(nn.Conv2d):
    """torch.nn.Conv2d of stride 1 that runs in the frequency domain where that is faster: large kernels on the CPU.

    Arguments, parameters and state dict are those of torch.nn.Conv2d; stride, dilation and groups must be 1, padding
    zeros. Everything else about it, and the source, in `mffpa_ext.ops.large_kernel_conv2d`. Under autocast, in
    transforms of torch.func, and where it is compiled, traced or exported, it is a direct convolution.

    Without gradients for the weight (inference), the weight's spectrum is made once for each image size and kept until
    the weight changes. Of a frozen weight (`requires_grad_(False)`, as the Predictor's are), a change is noticed that
    counts in torch: any operation in place, load_state_dict, a new parameter; after one through `weight.data` call
    `forget_spectrum()`. Of any other weight every change is noticed, at the price of a comparison.

    Args:
        memory_limit: bytes that the kept spectra may take, and that the work space of one call may take.

    Shape: [batch, in_channels, H, W] to [batch, out_channels, H + 2 * padding - kernel_size + 1, ...]; unbatched
    images as torch.nn.Conv2d takes them.
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
        self._spectra: _Spectra | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return F.conv2d(x, self.weight, self.bias, padding=self.padding)
        weight = self.weight
        trained = torch.is_grad_enabled() and weight.requires_grad
        # Inference tensors do not count their changes; what stands in for a parameter may be another at each call.
        kept = not trained and isinstance(weight, nn.Parameter) and not weight.is_inference()
        tile = large_kernel_tile(x, weight.shape, self.padding, self.memory_limit, kept)
        if tile is None:
            return direct_conv2d(x, weight, self.bias, self.padding)
        spectrum = self._spectrum_for(weight, tile) if kept else None
        return large_kernel_conv2d(x, weight, self.bias, self.padding, spectrum, tile, self.memory_limit)

    def forget_spectrum(self) -> None:
        """Frees what is kept of the weight; it is made again when it is next needed."""
        self._spectra = None

    def _spectrum_for(self, weight: nn.Parameter, tile: tuple[int, int]) -> Tensor:
        # Several threads may be here: each works on what it took, and stores it whole.
        spectra = self._spectra
        if spectra is None or not spectra.hold(weight):
            spectra = self._spectra = None  # the old ones' memory first
            spectra = _Spectra.of(weight)
        spectrum = spectra.of_tile.get(tile)
        if spectrum is None:
            spectrum = large_kernel_spectrum(weight, tile)
        others = {other: held for other, held in spectra.of_tile.items() if other != tile}
        while others and sum(held.nbytes for held in (*others.values(), spectrum)) > self.memory_limit:
            others.pop(next(iter(others)))
        self._spectra = replace(spectra, of_tile={**others, tile: spectrum})
        return spectrum

    def __getstate__(self) -> dict:
        """For copies and pickles: without the spectra, which belong to this weight."""
        return {**super().__getstate__(), "_spectra": None}
