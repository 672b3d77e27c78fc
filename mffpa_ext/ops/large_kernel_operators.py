"""The operators torch.ops.mffpa_ext.large_kernel_conv2d and its two gradients: the work cut into parts that fit.

They take and give [batch, channels, height, width] and work on [batch, height, width, channels]. Images and rows of
tiles are worked on in strips that keep within the memory limit; kernels whose spectrum is not at hand in parts of the
output channels, each made and used while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext.ops import overlap_save as frequency
from mffpa_ext.ops.tile_choice import activation_bytes, spectrum_bytes

_CHUNK_BYTES = 16 * 2**20  # of spectrum that is made and used while it is in the cache


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
    if not out_channels:
        return []
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
    grad_x = dy.new_zeros((len(dy), *size, weight.shape[1]))
    if not len(weight):
        return grad_x.permute(0, 3, 1, 2)
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
