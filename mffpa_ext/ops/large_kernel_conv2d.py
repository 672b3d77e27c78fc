"""Convolution with large kernels on the CPU: in the frequency domain where that is faster, else directly.

A direct K x K convolution costs K^2 multiply-adds per output and pair of channels; overlap-save (see
`mffpa_ext.ops.overlap_save`) about 8 * tile^2 / (tile - K + 1)^2 or so, whatever K is: a tenth for 15 x 15. Results do
not depend on the number of threads beyond what the BLAS library's do.

Errors are those of float32's rounding, relative to the largest values of a tile and not to each output's own: on
images of one scale it is closer to the float64 result than the direct sum of K^2 * channels products, but beside a
pixel that outshines its neighbours a millionfold they are lost. A pixel that is not finite spoils the tiles it lies in,
where the direct convolution spoils the window around it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext.ops import large_kernel_operators as large_kernel_operators  # registers them
from mffpa_ext.ops import overlap_save
from mffpa_ext.ops.backend import is_transformed
from mffpa_ext.ops.layout import is_channels_last
from mffpa_ext.ops.tile_choice import Shape, choose_tile, direct_speed

DEFAULT_MEMORY_LIMIT = 256 * 2**20
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def large_kernel_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: int | tuple[int, int] = 0,
    spectrum: Tensor | None = None,
    tile: tuple[int, int] | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> Tensor:
    """`torch.nn.functional.conv2d` with stride 1 for large kernels.

    Args:
        x: [batch, channels, height, width], contiguous or channels last.
        weight: [out_channels, channels, kernel_height, kernel_width].
        bias: [out_channels] or None.
        padding: zeros around the image, 0 to kernel size - 1.
        spectrum: `large_kernel_spectrum(weight, tile)`, where the same weight is used many times. Without it the
            spectrum is made in small parts on the way and never held as a whole.
        tile: height and width of the tiles, at least the kernel's; None chooses them, or the direct convolution where
            that is estimated to be faster.
        memory_limit: bytes of work space; larger inputs are worked on in strips.

    float32 or float64; bfloat16 and float16 are computed in float32 and rounded once, unless the direct convolution is
    chosen. Without a tile it is direct, whatever the size, under autocast, in transforms of torch.func, on other
    devices than the CPU, and where the call is compiled, traced or exported. Differentiable once in x, weight and bias.
    Returns [batch, out_channels, height + 2 * padding - K + 1, ...], in x's memory format.
    Raises ValueError with what was expected and what came.
    """
    padding = (padding, padding) if isinstance(padding, int) else tuple(padding)
    _check(x, weight, bias, padding)
    if tile is None:
        if spectrum is not None:
            raise ValueError("large_kernel_conv2d: a spectrum needs the tile that it was made for")
        tile = large_kernel_tile(x, weight.shape, padding, memory_limit, cached=False)
        if tile is None:
            return direct_conv2d(x, weight, bias, padding)
    wide = torch.promote_types(x.dtype, torch.float32)
    _check_tile(tile, x, weight, spectrum, wide)
    if spectrum is None or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        weight = weight.to(wide)
    with torch.autocast("cpu", enabled=False):
        y = torch.ops.mffpa_ext.large_kernel_conv2d(
            x.to(wide), weight, spectrum, list(padding), list(tile), memory_limit
        )
    if bias is not None:
        y = y + bias.to(wide)[:, None, None]
    return (y if is_channels_last(x) else y.contiguous()).to(x.dtype)


def direct_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """`F.conv2d` with stride 1, without the outer taps of a kernel that meet nothing but padding in so small an image.

    They change no output, and their gradient is 0. oneDNN (of torch 2.13, on CPUs with AVX512-BF16) leaves that
    gradient unwritten in bfloat16: whatever was in the memory, often NaN.
    """
    if x.is_cpu and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        for dim in (2, 3):
            size, kernel, pad = x.shape[dim - 4], weight.shape[dim], padding[dim - 2]  # x may lack the batch
            out = size + 2 * pad - kernel + 1
            first, last = max(0, pad - out + 1), min(kernel - 1, pad + size - 1)
            if first > 0 and first == kernel - 1 - last:  # the same on both sides, as where sizes are kept
                weight = weight.narrow(dim, first, last - first + 1)
                padding = tuple(p - first if d == dim - 2 else p for d, p in enumerate(padding))
    return F.conv2d(x, weight, bias, padding=padding)


def large_kernel_tile(
    x: Tensor,
    weight_shape: tuple[int, ...],
    padding: tuple[int, int],
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    cached: bool = True,
) -> tuple[int, int] | None:
    """The tiles that `large_kernel_conv2d` is fastest with, or None where the direct convolution is, or must do.

    cached: the spectrum is at hand (and must fit in memory_limit).
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # graphs get the convolution that everyone knows
        return None
    if is_transformed() or type(x) not in (Tensor, torch.nn.Parameter):  # neither have other kinds of tensors ours
        return None
    kernel = tuple(weight_shape[2:])
    height, width = (x.shape[2 + i] + 2 * padding[i] - kernel[i] + 1 for i in range(2))
    if height < 1 or width < 1 or not all(0 <= p < k for p, k in zip(padding, kernel, strict=True)):
        return None
    # A kept spectrum is for tiles that suit one image, so that another batch size needs no other.
    batch = min(x.shape[0], 1) if cached else x.shape[0]
    element = torch.promote_types(x.dtype, torch.float32).itemsize
    shape = Shape(batch, x.shape[1], weight_shape[0], height, width, kernel, element)
    return choose_tile(shape, memory_limit, cached, direct_speed(x.dtype))


def large_kernel_spectrum(weight: Tensor, tile: tuple[int, int]) -> Tensor:
    """What `large_kernel_conv2d` needs of a weight [out, in, height, width]; see `overlap_save` for the layout."""
    with torch.no_grad():
        return overlap_save.kernel_spectrum(weight.to(torch.promote_types(weight.dtype, torch.float32)), tuple(tile))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> None:
    def fail(text: str) -> None:
        raise ValueError(f"large_kernel_conv2d: {text}")

    if x.dim() != 4:
        fail(f"x must be 4-D [batch, channels, height, width], got shape {tuple(x.shape)}")
    if weight.dim() != 4 or weight.shape[1] != x.shape[1]:
        fail(f"weight must be [out_channels, {x.shape[1]}, kernel_height, kernel_width], got {tuple(weight.shape)}")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype not in _DTYPES:
            fail(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
    autocast = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    if weight.dtype != x.dtype and not autocast:
        fail(f"x is {x.dtype} but weight is {weight.dtype}; use one dtype")
    if weight.device != x.device:
        fail(f"x is on {x.device} but weight is on {weight.device}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        fail(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    kernel = tuple(weight.shape[2:])
    if len(padding) != 2 or not all(0 <= p < k for p, k in zip(padding, kernel, strict=True)):
        fail(f"padding must be 0 to kernel size - 1, for the kernel {kernel}, got {padding}")
    if any(x.shape[2 + i] + 2 * padding[i] < kernel[i] for i in range(2)):
        fail(f"a {x.shape[2]}x{x.shape[3]} image padded by {padding} is smaller than the kernel {kernel}")


def _check_tile(
    tile: tuple[int, int], x: Tensor, weight: Tensor, spectrum: Tensor | None, wide: torch.dtype
) -> None:
    out_channels, channels, *kernel = weight.shape
    if x.device.type not in ("cpu", "meta"):
        raise ValueError(f"large_kernel_conv2d: tiles are for the CPU, got x on {x.device}; leave out the tile")
    if len(tile) != 2 or tile[0] < kernel[0] or tile[1] < kernel[1]:
        raise ValueError(f"large_kernel_conv2d: tile must be at least the kernel {tuple(kernel)}, got {tuple(tile)}")
    expected = (tile[0] * (tile[1] // 2 + 1), 2, out_channels, channels)
    if spectrum is not None and (tuple(spectrum.shape) != expected or spectrum.dtype != wide):
        raise ValueError(
            f"large_kernel_conv2d: spectrum must have shape {expected} for tile {tuple(tile)} and dtype {wide}, got "
            f"{tuple(spectrum.shape)}, {spectrum.dtype}; make it with large_kernel_spectrum(weight, tile)"
        )
