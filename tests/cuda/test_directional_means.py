"""The CUDA kernels of the directional means, run on the CPU, against the float64 reference."""

import pytest
import torch
from torch import Tensor

from mffpa_ext.ops import reference
from tests.cuda.harness import Kernels, PlaneShape, poisoned
from tests.ops.gate_cases import LAYOUTS, assert_as_exact_as_naive
from tests.ops.support import DTYPES

# Lines of whole vectors and others, more than a warp takes at once, cut tiles, and degenerate planes.
SHAPES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 4, 24), (1, 65, 3, 2), (1, 2, 9, 139), (1, 1, 70, 264), (1, 131, 2, 1))


def run(kernels: Kernels, x: Tensor, layout: str, shift: bool = False) -> list[Tensor]:
    """by_row and by_column, both [batch, channels, size]."""
    last = layout == "channels_last"
    stored = (x.permute(0, 2, 3, 1) if last else x).contiguous()
    if shift:
        stored = torch.cat([stored.new_zeros(1), stored.flatten()])[1:].view(stored.shape)
    batch, channels, *sizes = x.shape
    means = [poisoned((batch, size, channels) if last else (batch, channels, size), x.dtype) for size in sizes]
    kernels("directional_means", x.dtype, PlaneShape(*x.shape, last), stored, *means)
    return [mean.transpose(1, 2) if last else mean for mean in means]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5).to(dtype)
    naive, exact = ([*reference.directional_means(t)] for t in (x, x.double()))
    for shift in (False, True):  # 16-byte accesses would fault
        assert_as_exact_as_naive(run(kernels, x, layout, shift), naive, exact, (shape, dtype, layout, shift))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_types_are_summed_in_float32(kernels: Kernels, layout: str, dtype: torch.dtype) -> None:
    """4096 times 1.5: a sum in half precision stops growing, or overflows, long before."""
    for shape in ((1, 1, 4096, 2), (1, 1, 2, 4096)):
        for means in run(kernels, torch.full(shape, 1.5, dtype=dtype), layout):
            assert torch.equal(means, torch.full_like(means, 1.5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repetition_gives_the_same_bits(kernels: Kernels, layout: str) -> None:
    x = torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    for a, b in zip(run(kernels, x, layout), run(kernels, x, layout), strict=True):
        assert torch.equal(a, b)
