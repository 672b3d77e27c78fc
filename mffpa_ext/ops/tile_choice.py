"""Whether a convolution is faster in the frequency domain, and with which tiles: a model of what both ways cost."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from mffpa_ext.ops.overlap_save import grid_of

MIN_KERNEL_SIZE = 7  # below, and with fewer channels than that, it has won on no shape, or not by enough
MIN_CHANNELS = 16
MAX_TILE = 96  # the transforms' cost grows with it
FULL_WIDTH = 18  # from which on the direct convolution runs at full speed
MARGIN = 0.8  # what is estimated to take longer than this share of the direct convolution is left to that

# Fitted to the times of 26 shapes on two AVX-512 cores, within 25 % but for small 256-channel images (35 % too low);
# in multiply-adds of a direct convolution at its best, 170 billion a second.
TRANSFORM = 1.45  # a multiply-add of the transforms, products of narrow matrices
CACHED_BYTE = 8  # one that is written or read between two products
MEMORY_BYTE = 9.5  # one of the kept spectrum
MAKING = 2.6  # a multiply-add or cached byte of a spectrum that is made on the way, in small parts
CALL = 80e6  # a dozen calls of torch


class Shape(NamedTuple):
    """Of a convolution with stride 1; height and width of the output."""

    batch: int
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    element: int = 4  # bytes of a number


def spectrum_bytes(channels: int, out_channels: int, tile: tuple[int, int], element: int = 4) -> int:
    return 2 * element * tile[0] * (tile[1] // 2 + 1) * channels * out_channels


def activation_bytes(channels: int, out_channels: int, tile: tuple[int, int], element: int = 4) -> int:
    """Of one tile: its largest intermediate results."""
    frequencies = tile[0] * (tile[1] // 2 + 1)
    return element * (frequencies * (3 * channels + 2 * out_channels) + tile[0] * tile[1] * channels)


def direct_cost(s: Shape) -> float:
    """In multiply-adds, as all costs here; on narrow images it keeps the vector units half busy (measured)."""
    macs = s.batch * s.height * s.width * s.channels * s.out_channels * s.kernel[0] * s.kernel[1]
    return macs * max(1.0, FULL_WIDTH / s.width)


def frequency_cost(s: Shape, tile: tuple[int, int], cached: bool) -> float:
    """cached: the kernels' spectrum exists already and is only read."""
    grid = grid_of((s.height, s.width), s.kernel, tile)
    tiles = s.batch * grid.rows * grid.columns
    n, m, f = *tile, tile[1] // 2 + 1
    height, width = n - s.kernel[0] + 1, m - s.kernel[1] + 1  # of a tile's outputs
    product = 4 * n * f * tiles * s.channels * s.out_channels
    forward, inverse = 2 * f * m * n + 6 * f * n * n, 4 * f * n * height + 2 * f * height * width
    numbers_in, numbers_out = 3 * m * n + 13 * f * n, 6 * f * n + 4 * f * height + 4 * height * width
    kernels = s.channels * s.out_channels
    if cached:
        spectrum = MEMORY_BYTE * kernels * 8 * n * f
    else:
        kernel_height, kernel_width = s.kernel
        made = 2 * f * kernel_width * kernel_height + 4 * f * n * kernel_height
        spectrum = MAKING * kernels * (TRANSFORM * made + CACHED_BYTE * 8 * n * f)
    return (
        product
        + tiles * TRANSFORM * (s.channels * forward + s.out_channels * inverse)
        + tiles * CACHED_BYTE * 4 * (s.channels * numbers_in + s.out_channels * numbers_out)
        + spectrum
        + CALL
    )


@functools.cache
def direct_speed(dtype: torch.dtype) -> float:
    """How many times faster than in float32 this CPU convolves directly in `dtype`."""
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    has = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch
    if name and has.get(f"amx_{name}"):
        return 8.0
    return 2.0 if name and has.get(f"avx512_{name}") else 1.0


@functools.lru_cache(maxsize=1024)
def choose_tile(
    shape: Shape, memory_limit: int, cached: bool = True, direct_speed: float = 1.0
) -> tuple[int, int] | None:
    """Height and width of the tiles, or None where the direct convolution is at least as fast, or needs less memory.

    memory_limit: bytes that the spectrum of the kernels may take; where it is not cached, one output channel's.
    direct_speed: of the direct convolution in the tensors' dtype, float32's being 1.
    """
    kernel = shape.kernel
    if min(kernel) < MIN_KERNEL_SIZE or min(shape.channels, shape.out_channels) < MIN_CHANNELS or not shape.batch:
        return None

    def lengths(size: int, kernel_size: int) -> list[int]:
        """The shortest tile for each number of tiles along an axis."""
        return sorted({-(-size // count) + kernel_size - 1 for count in range(1, size + 1)})

    best, best_cost = None, MARGIN * direct_cost(shape) / direct_speed
    for n in lengths(shape.height, kernel[0]):
        for m in lengths(shape.width, kernel[1]):
            held = spectrum_bytes(shape.channels, shape.out_channels if cached else 1, (n, m), shape.element)
            if max(n, m) > MAX_TILE or held > memory_limit:
                continue
            cost = frequency_cost(shape, (n, m), cached)
            if cost < best_cost:
                best, best_cost = (n, m), cost
    return best
