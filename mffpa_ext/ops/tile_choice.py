"""Whether a convolution is faster in the frequency domain, and with which tiles: a model of what both ways cost."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from mffpa_ext.ops.overlap_save import grid_of

MIN_KERNEL_SIZE = 3
MIN_CHANNELS = 3
MAX_TILE = 96  # the transforms' cost grows with it
MARGIN = 0.7  # what is estimated to take longer than this share of the direct convolution is left to that
FLOPS_PER_BYTE = 16  # that a core computes in float32 while it fetches a byte from memory
FLOPS_PER_CACHED_BYTE = 5  # while it writes or reads a byte of data as large as the tiles are


class Shape(NamedTuple):
    """Of a convolution with stride 1; height and width of the output."""

    batch: int
    channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int]


def spectrum_bytes(channels: int, out_channels: int, tile: tuple[int, int], element: int = 4) -> int:
    return 2 * element * tile[0] * (tile[1] // 2 + 1) * channels * out_channels


def activation_bytes(channels: int, out_channels: int, tile: tuple[int, int], element: int = 4) -> int:
    """Of one tile: its largest intermediate results."""
    frequencies = tile[0] * (tile[1] // 2 + 1)
    return element * (frequencies * (3 * channels + 2 * out_channels) + tile[0] * tile[1] * channels)


def direct_cost(s: Shape) -> float:
    """In multiply-adds, as all costs here."""
    return s.batch * s.height * s.width * s.channels * s.out_channels * s.kernel[0] * s.kernel[1]


def frequency_cost(s: Shape, tile: tuple[int, int], cached: bool) -> float:
    """cached: the kernels' spectrum exists already and is only read."""
    grid = grid_of((s.height, s.width), s.kernel, tile)
    tiles = s.batch * grid.rows * grid.columns
    n, m, f = *tile, tile[1] // 2 + 1
    valid = n - s.kernel[0] + 1, m - s.kernel[1] + 1
    product = 4 * n * f * tiles * s.channels * s.out_channels
    forward = tiles * s.channels * (2 * f * m * n + f * 6 * n * n)
    inverse = tiles * s.out_channels * (f * 4 * n * valid[0] + 2 * f * valid[0] * valid[1])
    passes = s.channels * (2 * m * n + 4 * f * n + 9 * f * n) + s.out_channels * (8 * f * n + 4 * f * valid[0])
    moved = 4 * tiles * passes * FLOPS_PER_CACHED_BYTE / 2
    kernels = s.channels * s.out_channels
    if cached:
        spectrum = 8 * n * f * kernels * FLOPS_PER_BYTE / 2
    else:
        kernel_height, kernel_width = s.kernel
        computed = 2 * f * kernel_width * kernel_height + f * 4 * n * kernel_height
        spectrum = kernels * (computed + 16 * n * f * FLOPS_PER_CACHED_BYTE / 2)
    return product + forward + inverse + moved + spectrum


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
            held = spectrum_bytes(shape.channels, shape.out_channels if cached else 1, (n, m))
            if max(n, m) > MAX_TILE or held > memory_limit:
                continue
            cost = frequency_cost(shape, (n, m), cached)
            if cost < best_cost:
                best, best_cost = (n, m), cost
    return best
