"""Convolution with large kernels on the CPU: in the frequency domain where that is faster, else directly.

A direct K x K convolution costs K^2 multiply-adds per output and pair of channels; overlap-save (see
`mffpa_ext.ops.overlap_save`) about 8 * tile^2 / (tile - K + 1)^2 or so, whatever K is: a tenth for 15 x 15. It is exact to
float32's rounding, and closer to the float64 result than the direct sum of K^2 * channels products. Results do not
depend on the number of threads beyond what the BLAS library's do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext.ops import overlap_save as frequency
from mffpa_ext.ops.tile_choice import Shape, activation_bytes, choose_tile, direct_speed, spectrum_bytes

DEFAULT_MEMORY_LIMIT = 256 * 2**20
_CHUNK_BYTES = 16 * 2**20  # of spectrum that is made and used while it is in the cache
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
    chosen. Direct, whatever the size, under autocast, on other devices than the CPU, and where the call is compiled,
    traced or exported. Differentiable once in x, weight and bias.
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
            return F.conv2d(x, weight, bias, padding=padding)
    _check_tile(tile, weight, spectrum)
    wide = torch.promote_types(x.dtype, torch.float32)
    if spectrum is None:
        weight = weight.to(wide)
    y = torch.ops.mffpa_ext.large_kernel_conv2d(x.to(wide), weight, spectrum, list(padding), list(tile), memory_limit)
    if bias is not None:
        y = y + bias.to(wide)[:, None, None]
    if x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
        y = y.contiguous()
    return y.to(x.dtype)


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
    if x.device.type != "cpu" or x.dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return None
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # graphs get the convolution that everyone knows
        return None
    kernel = tuple(weight_shape[2:])
    height, width = (x.shape[2 + i] + 2 * padding[i] - kernel[i] + 1 for i in range(2))
    if height < 1 or width < 1 or not all(0 <= p < k for p, k in zip(padding, kernel, strict=True)):
        return None
    # A kept spectrum is for tiles that suit one image, so that another batch size needs no other.
    batch = min(x.shape[0], 1) if cached else x.shape[0]
    shape = Shape(batch, x.shape[1], weight_shape[0], height, width, kernel)
    return choose_tile(shape, memory_limit, cached, direct_speed(x.dtype))


def large_kernel_spectrum(weight: Tensor, tile: tuple[int, int]) -> Tensor:
    """What `large_kernel_conv2d` needs of a weight [out, in, height, width]; see `overlap_save` for the layout."""
    with torch.no_grad():
        return frequency.kernel_spectrum(weight.to(torch.promote_types(weight.dtype, torch.float32)), tuple(tile))


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


def _check_tile(tile: tuple[int, int], weight: Tensor, spectrum: Tensor | None) -> None:
    out_channels, channels, *kernel = weight.shape
    if len(tile) != 2 or tile[0] < kernel[0] or tile[1] < kernel[1]:
        raise ValueError(f"large_kernel_conv2d: tile must be at least the kernel {tuple(kernel)}, got {tuple(tile)}")
    expected = (tile[0] * (tile[1] // 2 + 1), 2, out_channels, channels)
    if spectrum is not None and tuple(spectrum.shape) != expected:
        raise ValueError(
            f"large_kernel_conv2d: spectrum must have shape {expected} for tile {tuple(tile)}, got "
            f"{tuple(spectrum.shape)}; make it with large_kernel_spectrum(weight, tile)"
        )


def _chunks(weight: Tensor, spectrum: Tensor | None, tile: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Output channels and their kernels' spectrum: the whole one, or parts that are made one after the other."""
    out_channels, channels = weight.shape[:2]
    if spectrum is not None:
        yield slice(0, out_channels), spectrum
        return
    memory = None  # fresh pages for each part would cost as much as the arithmetic
    for part in _channel_parts(weight.shape, tile, weight.element_size()):
        spectrum = frequency.kernel_spectrum(weight[part], tile, memory)
        yield part, spectrum
        memory = spectrum.view(-1) if memory is None else memory


def _channel_parts(weight_shape: torch.Size, tile: tuple[int, int], element: int) -> list[slice]:
    """Of the output channels, as even as can be in multiples of 16, the first the largest."""
    out_channels, channels = weight_shape[:2]
    most = max(16, _CHUNK_BYTES // spectrum_bytes(channels, 1, tile, element))
    size = -(-out_channels // -(-out_channels // most))
    size = -(-size // 16) * 16
    return [slice(first, min(first + size, out_channels)) for first in range(0, out_channels, size)]


def _strips(
    batch: int, size: tuple[int, int], channels: tuple[int, int], kernel: tuple[int, int], tile: tuple[int, int],
    memory_limit: int, element: int,
) -> Iterator[tuple[slice, int, int]]:
    """Images, first and last + 1 row of the output: parts whose work space, if possible, is below memory_limit bytes."""
    grid = frequency.grid_of(size, kernel, tile)
    rows = max(1, memory_limit // (grid.columns * activation_bytes(*channels, tile, element)))
    images, rows = (rows // grid.rows, grid.rows) if rows >= grid.rows else (1, rows)
    step = rows * (tile[0] - kernel[0] + 1)
    for image in range(0, batch, images):
        for first in range(0, size[0], step):
            yield slice(image, min(image + images, batch)), first, min(first + step, size[0])


# The operators take and give [batch, channels, height, width] and work on [batch, height, width, channels].


@torch.library.custom_op("mffpa_ext::large_kernel_conv2d", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, weight: Tensor, spectrum: Tensor | None, padding: list[int], tile: list[int], memory_limit: int
) -> Tensor:
    kernel, tile = tuple(weight.shape[2:]), tuple(tile)
    x = _padded(x.permute(0, 2, 3, 1), padding)
    size = x.shape[1] - kernel[0] + 1, x.shape[2] - kernel[1] + 1
    y = x.new_empty((len(x), *size, len(weight)))
    t = frequency.transforms(tile, kernel, x.dtype)
    strips = _strips(len(x), size, weight.shape[1::-1], kernel, tile, memory_limit, x.element_size())
    for images, first, last in strips:
        tiles = frequency.overlapping_tiles(x[images, first : last + kernel[0] - 1], kernel, tile)
        activations = frequency.activation_spectrum(tiles, t)
        for channels, kernels in _chunks(weight, spectrum, tile):
            valid = frequency.inverse_transform(frequency.correlate(activations, kernels), t)
            frequency.join_tiles(valid, y[images, first:last, :, channels], kernel, tile)
    return y.permute(0, 3, 1, 2)


@torch.library.custom_op("mffpa_ext::large_kernel_conv2d_input_gradient", mutates_args=(), device_types="cpu")
def _input_gradient(
    grad_y: Tensor, weight: Tensor, padding: list[int], tile: list[int], memory_limit: int
) -> Tensor:
    """The convolution of grad_y with the flipped kernels: the forward pass with conjugate kernels."""
    kernel, tile = tuple(weight.shape[2:]), tuple(tile)
    dy = _padded(grad_y.permute(0, 2, 3, 1), [k - 1 - p for k, p in zip(kernel, padding, strict=True)])
    size = dy.shape[1] - kernel[0] + 1, dy.shape[2] - kernel[1] + 1
    grad_x = dy.new_empty((len(dy), *size, weight.shape[1]))
    forward, backward = (frequency.transforms(tile, kernel, dy.dtype, flipped) for flipped in (False, True))
    strips = _strips(len(dy), size, weight.shape[:2], kernel, tile, memory_limit, dy.element_size())
    for images, first, last in strips:
        total = None
        for channels, kernels in _chunks(weight, None, tile):
            tiles = frequency.overlapping_tiles(dy[images, first : last + kernel[0] - 1, :, channels], kernel, tile)
            products = frequency.activation_spectrum(tiles, forward)
            if total is None:
                total = dy.new_zeros((len(products), 2, tiles.shape[2], weight.shape[1]))
            frequency.add_convolved(total, products, kernels)
        frequency.join_tiles(frequency.inverse_transform(total, backward), grad_x[images, first:last], kernel, tile)
    return grad_x.permute(0, 3, 1, 2)


@torch.library.custom_op("mffpa_ext::large_kernel_conv2d_weight_gradient", mutates_args=(), device_types="cpu")
def _weight_gradient(
    grad_y: Tensor, x: Tensor, kernel: list[int], padding: list[int], tile: list[int], memory_limit: int
) -> Tensor:
    kernel, tile = tuple(kernel), tuple(tile)
    dy, x = grad_y.permute(0, 2, 3, 1), _padded(x.permute(0, 2, 3, 1), padding)
    out_channels, channels = dy.shape[3], x.shape[3]
    grad_weight = x.new_zeros((kernel[1], kernel[0], out_channels, channels)).permute(2, 3, 1, 0)
    t = frequency.transforms(tile, kernel, x.dtype)
    strips = _strips(len(x), dy.shape[1:3], (channels, out_channels), kernel, tile, memory_limit, x.element_size())
    for images, first, last in strips:
        tiles = frequency.overlapping_tiles(x[images, first : last + kernel[0] - 1], kernel, tile)
        activations = frequency.activation_spectrum(tiles, t)
        for part in _channel_parts((out_channels, channels), tile, x.element_size()):
            valid = frequency.separate_tiles(dy[images, first:last, :, part], kernel, tile)
            gradient = frequency.spectrum_gradient(activations, frequency.inverse_gradient(valid, t))
            grad_weight[part] += frequency.kernel_gradient(gradient, kernel, tile)
    return grad_weight


def _padded(x: Tensor, padding: list[int]) -> Tensor:
    """x [batch, height, width, channels] with zeros around the image."""
    return F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))


@_forward.register_fake
def _(x, weight, spectrum, padding, tile, memory_limit):
    height, width = (x.shape[2 + i] + 2 * padding[i] - weight.shape[2 + i] + 1 for i in range(2))
    return x.new_empty((x.shape[0], height, width, weight.shape[0])).permute(0, 3, 1, 2)


@_input_gradient.register_fake
def _(grad_y, weight, padding, tile, memory_limit):
    height, width = (grad_y.shape[2 + i] + weight.shape[2 + i] - 1 - 2 * padding[i] for i in range(2))
    return grad_y.new_empty((grad_y.shape[0], height, width, weight.shape[1])).permute(0, 3, 1, 2)


@_weight_gradient.register_fake
def _(grad_y, x, kernel, padding, tile, memory_limit):
    return x.new_empty((kernel[1], kernel[0], grad_y.shape[1], x.shape[1])).permute(2, 3, 1, 0)


def _setup_context(ctx, inputs, output):
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _gradients(ctx, grad_y):
    x, weight = ctx.saved_tensors
    operators = torch.ops.mffpa_ext
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = operators.large_kernel_conv2d_input_gradient(grad_y, weight, *ctx.settings)
    if ctx.needs_input_grad[1]:
        kernel = list(weight.shape[2:])
        grad_weight = operators.large_kernel_conv2d_weight_gradient(grad_y, x, kernel, *ctx.settings)
    return grad_x, grad_weight, None, None, None, None


def _second_derivative(ctx, *gradients):
    raise RuntimeError("large_kernel_conv2d has no second derivatives; torch.nn.functional.conv2d has them")


_forward.register_autograd(_gradients, setup_context=_setup_context)
for _operator in (_input_gradient, _weight_gradient):
    _operator.register_autograd(_second_derivative)
