"""Two-dimensional convolution in the frequency domain by overlap-save, from matrix products alone.

The image is cut into tiles that overlap by the kernel's size - 1. Per tile and channel the discrete Fourier transform
turns the convolution into one product per frequency, which over all tiles and channels is a matrix product; the parts
of a tile that wrapped around are left out when it is put back. At the sizes of tiles used here (up to about 100), a
transform as a product with the matrix of the DFT, on data that lie right for it, is faster than a library's FFT with
the rearranging it needs, and any tile size is as good as another.

Layouts, with F = (width_tile // 2 + 1) * height_tile frequencies (the transform of real data is symmetric):

    tiles       [width_tile, height_tile, tiles, channels]
    activations [F, 3, tiles, channels]     minus the imaginary part, real part, imaginary part, so that the two
                                            halves of a complex product are slices: (re, im) and (-im, re)
    kernels     [F, 2, out_channels, channels]   real and imaginary part of the conjugate, which makes it a correlation
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Transforms(NamedTuple):
    """DFT matrices, real and imaginary parts side by side. n, m: tile height and width; f = m // 2 + 1.

    columns: [f * 2, m], along the width. rows: [n * 3, 2 * n], along the height. kernel_columns, kernel_rows: the same
    for data as large as the kernel, conjugated. inverse_rows: [2 * valid, n * 2] and inverse_columns: [valid, f * 2]
    give the valid outputs only.
    """

    columns: Tensor
    rows: Tensor
    kernel_columns: Tensor
    kernel_rows: Tensor
    inverse_rows: Tensor
    inverse_columns: Tensor


class Grid(NamedTuple):
    """How an output of height x width pixels is covered by rows x columns tiles."""

    rows: int
    columns: int


def grid_of(size: tuple[int, int], kernel: tuple[int, int], tile: tuple[int, int]) -> Grid:
    """size: of the output."""
    return Grid(*(-(-s // (t - k + 1)) for s, k, t in zip(size, kernel, tile, strict=True)))


@functools.lru_cache(maxsize=64)
def transforms(tile: tuple[int, int], kernel: tuple[int, int], dtype: torch.dtype, flipped: bool = False) -> Transforms:
    """flipped: for a convolution instead of a correlation (the kernel conjugated), whose valid outputs end the tile."""
    (n, m), (kernel_height, kernel_width), f = tile, kernel, tile[1] // 2 + 1
    first_row, first_column = (kernel_height - 1, kernel_width - 1) if flipped else (0, 0)

    def waves(count: int, size: int) -> tuple[Tensor, Tensor]:
        angles = [[2 * math.pi * (i * j % size) / size for j in range(size)] for i in range(count)]
        angle = torch.tensor(angles, dtype=torch.float64, device="cpu")  # whatever the default is
        return angle.cos(), angle.sin()

    cos, sin = waves(f, m)
    columns = torch.stack([cos, -sin], 1).reshape(2 * f, m)
    weight = torch.full_like(cos[:, 0], 2.0)  # a frequency stands for its mirror image as well, but for
    weight[0] = 1  # the constant
    if m % 2 == 0:
        weight[-1] = 1  # and the highest of an even width
    inverse_columns = (torch.stack([cos, -sin], 1) * weight[:, None, None] / m).reshape(2 * f, m).T[first_column:]

    cos, sin = waves(n, n)
    real, imaginary = torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)  # each from (re, im)
    rows = torch.stack([-imaginary, real, imaginary], 1).reshape(3 * n, 2 * n)
    kernel_rows = torch.stack([real, -imaginary], 1).reshape(2 * n, 2, n)[:, :, :kernel_height]
    backwards = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)]) / n  # [2, out, in, 2]
    inverse_rows = backwards[:, first_row : first_row + n - kernel_height + 1]
    valid_columns = m - kernel_width + 1
    matrices = (
        columns,
        rows,
        columns[:, :kernel_width],
        kernel_rows.reshape(2 * n, 2 * kernel_height),
        inverse_rows.reshape(-1, 2 * n),
        inverse_columns[:valid_columns],
    )
    return Transforms(*(matrix.to(dtype).contiguous() for matrix in matrices))


def overlapping_tiles(x: Tensor, kernel: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """x [B, height, width, C], already padded, to tiles [tile width, tile height, B * rows * columns, C]."""
    batch, height, width, channels = x.shape
    grid = grid_of((height - kernel[0] + 1, width - kernel[1] + 1), kernel, tile)
    step = tile[0] - kernel[0] + 1, tile[1] - kernel[1] + 1
    bottom, right = grid.rows * step[0] + kernel[0] - 1 - height, grid.columns * step[1] + kernel[1] - 1 - width
    x = F.pad(x, (0, 0, 0, right, 0, bottom)).contiguous()
    image, line, pixel, channel = x.stride()
    strides = (pixel, line, image, step[0] * line, step[1] * pixel, channel)
    tiles = x.as_strided((tile[1], tile[0], batch, *grid, channels), strides)
    return tiles.reshape(tile[1], tile[0], batch * grid.rows * grid.columns, channels)


def separate_tiles(y: Tensor, kernel: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """y [B, height, width, C] to its valid parts of the tiles, [valid width, valid height, B * rows * columns, C]."""
    batch, height, width, channels = y.shape
    grid = grid_of((height, width), kernel, tile)
    valid = tile[0] - kernel[0] + 1, tile[1] - kernel[1] + 1
    y = F.pad(y, (0, 0, 0, grid.columns * valid[1] - width, 0, grid.rows * valid[0] - height))
    y = y.reshape(batch, grid.rows, valid[0], grid.columns, valid[1], channels)
    return y.permute(4, 2, 0, 1, 3, 5).reshape(valid[1], valid[0], -1, channels)


def join_tiles(valid: Tensor, y: Tensor, kernel: tuple[int, int], tile: tuple[int, int]) -> None:
    """The inverse of `separate_tiles`: writes y, [B, height, width, C] of any strides."""
    width, height, _, channels = valid.shape
    batch, *size, _ = y.shape
    grid = grid_of(tuple(size), kernel, tile)
    valid = valid.view(width, height, batch, *grid, channels).permute(2, 3, 1, 4, 0, 5)
    y.copy_(valid.reshape(batch, grid.rows * height, grid.columns * width, channels)[:, : size[0], : size[1]])


def activation_spectrum(tiles: Tensor, t: Transforms) -> Tensor:
    """tiles [m, n, tiles, C] to [F, 3, tiles, C]."""
    m, n, count, channels = tiles.shape
    by_column = (t.columns @ tiles.reshape(m, -1)).view(-1, 2 * n, count * channels)
    spectrum = torch.bmm(t.rows.expand(len(by_column), -1, -1), by_column)
    return spectrum.view(-1, 3, count, channels)


def kernel_spectrum(weight: Tensor, tile: tuple[int, int], memory: Tensor | None = None) -> Tensor:
    """weight [out, in, kernel height, kernel width] to [F, 2, out, in], a view of `memory` where that is given."""
    out_channels, channels, *kernel = weight.shape
    t = transforms(tile, tuple(kernel), weight.dtype)
    taps = weight.permute(3, 2, 0, 1).reshape(kernel[1], -1)
    by_column = (t.kernel_columns @ taps).view(-1, 2 * kernel[0], out_channels * channels)
    shape = len(by_column), 2 * tile[0], out_channels * channels
    spectrum = weight.new_empty(shape) if memory is None else memory[: math.prod(shape)].view(shape)
    torch.bmm(t.kernel_rows.expand(len(by_column), -1, -1), by_column, out=spectrum)
    return spectrum.view(-1, 2, out_channels, channels)


def kernel_gradient(grad_spectrum: Tensor, kernel: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """The adjoint of `kernel_spectrum`: [F, 2, out, in] to [out, in, kernel height, kernel width]."""
    _, _, out_channels, channels = grad_spectrum.shape
    t = transforms(tile, kernel, grad_spectrum.dtype)
    by_row = grad_spectrum.view(-1, 2 * tile[0], out_channels * channels)
    by_column = torch.bmm(t.kernel_rows.T.expand(len(by_row), -1, -1), by_row)
    taps = t.kernel_columns.T @ by_column.view(len(t.kernel_columns), -1)
    return taps.view(kernel[1], kernel[0], out_channels, channels).permute(2, 3, 1, 0)


def correlate(x: Tensor, kernels: Tensor) -> Tensor:
    """Products per frequency: x [F, 3, tiles, C] and kernels [F, 2, out, C] to [F, 2, tiles, out]."""
    frequencies, _, count, channels = x.shape
    real_part, turned = _halves(x)
    y = torch.bmm(real_part, kernels[:, 0].mT)
    torch.baddbmm(y, turned, kernels[:, 1].mT, out=y)
    return y.view(frequencies, 2, count, -1)


def add_convolved(total: Tensor, dy: Tensor, kernels: Tensor) -> None:
    """Adds the products with the conjugate kernels to total [F, 2, tiles, C]: dy [F, 3, tiles, out], kernels as above."""
    real_part, turned = _halves(dy)
    flat = total.view(len(total), -1, total.shape[-1])
    torch.baddbmm(flat, real_part, kernels[:, 0], out=flat)
    torch.baddbmm(flat, turned, kernels[:, 1], alpha=-1, out=flat)


def spectrum_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """The gradient of `correlate` by its kernels: x [F, 3, tiles, C], dy [F, 2, tiles, out] to [F, 2, out, C]."""
    frequencies, _, count, channels = x.shape
    dy = dy.view(frequencies, 2 * count, -1).mT
    return torch.stack([torch.bmm(dy, half) for half in _halves(x)], 1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """(re, im) and (-im, re), each [F, 2 * tiles, C]; views."""
    frequencies, _, count, channels = x.shape
    flat = x.view(frequencies, 3 * count, channels)
    return flat[:, count:], flat[:, : 2 * count]


def inverse_transform(y: Tensor, t: Transforms) -> Tensor:
    """y [F, 2, tiles, C] to the valid parts of the tiles, [valid width, valid height, tiles, C]."""
    _, _, count, channels = y.shape
    by_column = y.view(-1, t.rows.shape[1], count * channels)
    by_column = torch.bmm(t.inverse_rows.expand(len(by_column), -1, -1), by_column)
    valid = t.inverse_columns @ by_column.view(2 * len(by_column), -1)
    return valid.view(len(valid), -1, count, channels)


def inverse_gradient(valid: Tensor, t: Transforms) -> Tensor:
    """The adjoint of `inverse_transform`: [valid width, valid height, tiles, C] to [F, 2, tiles, C]."""
    width, height, count, channels = valid.shape
    by_column = (t.inverse_columns.T @ valid.reshape(width, -1)).view(-1, 2 * height, count * channels)
    spectrum = torch.bmm(t.inverse_rows.T.expand(len(by_column), -1, -1), by_column)
    return spectrum.view(-1, 2, count, channels)
