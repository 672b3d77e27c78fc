"""Large-kernel convolution against torch's in float64: values, gradients, layouts, dtypes, memory, wrong arguments."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import overlap_save, tile_choice
from mffpa_ext.ops.large_kernel_conv2d import direct_conv2d
from tests.ops.support import SANITIZED, run_python

# batch, channels, out_channels, (height, width), kernel, padding, tile
CASES = [
    (2, 3, 4, (20, 17), (5, 3), (2, 1), (9, 8)),
    (1, 2, 3, (7, 9), (3, 5), (0, 4), (5, 7)),
    (3, 3, 20, (12, 12), (7, 7), (3, 3), (18, 11)),  # several chunks of output channels
    (1, 2, 2, (40, 33), (15, 15), (7, 7), (24, 29)),
    (1, 2, 2, (15, 15), (15, 15), (0, 0), (15, 15)),  # one output
    (2, 2, 2, (3, 4), (7, 9), (5, 8), (8, 10)),  # smaller than the kernel
    (1, 1, 1, (1, 1), (3, 3), (1, 1), (3, 3)),
    (2, 2, 3, (6, 5), (1, 1), (0, 0), (2, 2)),
    (0, 2, 3, (12, 12), (5, 5), (2, 2), (8, 8)),
]


def make(case: tuple, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, out_channels, size, kernel, _, _ = case
    generator = torch.Generator().manual_seed(3)
    shapes = (batch, channels, *size), (out_channels, channels, *kernel), (out_channels,)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def with_gradients(function, x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def error(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact).abs().max().item() if exact.numel() else 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        ((2, 2), 9, 4), ((1, 1), 5, 2), ((3, 16), (7, 5), (3, 2)), ((2, 1), (7, 3), (5, 1)), ((3, 2), 7, 3),
        ((4, 9), 5, 2),
    ],
    ids=str,
)
def test_direct_convolution_of_images_that_the_kernel_outgrows(
    size: tuple[int, int], kernel: int | tuple[int, int], padding: int | tuple[int, int], dtype: torch.dtype
) -> None:
    kernel, padding = ((side, side) if isinstance(side, int) else side for side in (kernel, padding))
    inputs = [tensor.to(dtype) for tensor in make((2, 3, 4, size, kernel, padding, None))]
    dy = torch.randn(
        F.conv2d(*inputs, padding=padding).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    expected = with_gradients(lambda *t: F.conv2d(*t, padding=padding), *(t.double() for t in inputs), dy)
    actual = with_gradients(lambda *t: direct_conv2d(*t, padding), *inputs, dy.to(dtype))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=4 * torch.finfo(dtype).eps * e.abs().max().item())


def test_no_gradient_is_left_unwritten_in_bfloat16() -> None:
    """In a child whose fresh memory is full of large numbers."""
    code = """
import torch
from mffpa_ext.nn import LargeKernelConv2d
for kernel in (5, 7, 9, 15):
    for size in ((1, 1), (2, 2), (3, 3), (2, 16), (4, 5)):
        conv = LargeKernelConv2d(256, 64, kernel, padding=kernel // 2).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            conv(torch.rand(2, 256, *size)).float().sum().backward()
        assert conv.weight.grad.abs().max() < 1e4, (kernel, size)
"""
    run_python(code, MALLOC_PERTURB_="128")


@pytest.mark.parametrize("memory_limit", [1, 20_000, 2**30], ids="limit={}".format)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients(case: tuple, memory_limit: int) -> None:
    """In one go, and in strips of a few tiles."""
    x, weight, bias = make(case)
    *_, padding, tile = case
    exact = F.conv2d(x, weight, bias, padding=padding)
    dy = torch.randn(exact.shape, dtype=exact.dtype, generator=torch.Generator().manual_seed(4))

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.large_kernel_conv2d(x, weight, bias, padding, tile=tile, memory_limit=memory_limit)

    expected = with_gradients(lambda *t: F.conv2d(*t, padding=padding), x, weight, bias, dy)
    for actual, exact in zip(with_gradients(ours, x, weight, bias, dy), expected, strict=True):
        assert actual.shape == exact.shape
        assert error(actual, exact) <= 1e-12 * max(1.0, exact.abs().max().item() if exact.numel() else 0.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spectrum_made_before_gives_the_same(case: tuple) -> None:
    x, weight, bias = make(case)
    *_, padding, tile = case
    spectrum = ops.large_kernel_spectrum(weight, tile)
    y = ops.large_kernel_conv2d(x, weight, bias, padding, spectrum, tile)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=padding), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_is_at_most_twice_that_of_the_direct_convolution(dtype: torch.dtype) -> None:
    x, weight, bias = make((2, 32, 24, (40, 33), (15, 15), (7, 7), None), dtype)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=7)
    dy = torch.randn(exact.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    expected = with_gradients(
        lambda *t: F.conv2d(*t, padding=7), x.double(), weight.double(), bias.double(), dy.double()
    )
    naive = with_gradients(lambda *t: F.conv2d(*t, padding=7), x, weight, bias, dy)
    ours = with_gradients(lambda *t: ops.large_kernel_conv2d(*t, 7, tile=(24, 29)), x, weight, bias, dy)
    for name, a, n, e in zip(("y", "x", "weight", "bias"), ours, naive, expected, strict=True):
        assert a.dtype == dtype
        floor = torch.finfo(dtype).eps * e.abs().max().item()  # one rounding of the largest value
        assert error(a, e) <= 2 * error(n, e) + floor, name


def test_errors_are_relative_to_the_tiles_largest_value() -> None:
    """As any FFT's: a bright spot costs its tiles float32's rounding of itself, and what is not finite spoils them."""
    x = torch.zeros(1, 16, 64, 64)
    x[:, :, 30, 30] = 1e4
    weight = torch.randn(16, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    exact = F.conv2d(x.double(), weight.double(), padding=4)
    y = ops.large_kernel_conv2d(x, weight, None, 4, tile=(24, 24))
    assert error(y, exact) <= 1e-6 * exact.abs().max().item()
    assert not y[:, :, 50:].any(), "tiles without it are exactly 0"
    x[:, :, 30, 30] = float("inf")
    y = ops.large_kernel_conv2d(x, weight, None, 4, tile=(24, 24))
    assert not y[:, :, 26:35, 26:35].isfinite().any() and not y[:, :, 50:].any()


def test_half_weights_with_a_spectrum_have_gradients() -> None:
    x, weight, _ = make((1, 4, 4, (20, 20), (9, 9), (4, 4), None), torch.bfloat16)
    spectrum = ops.large_kernel_spectrum(weight, (16, 16))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    results = []
    for kernels in (None, spectrum):
        y = ops.large_kernel_conv2d(x, weight, None, 4, kernels, (16, 16))
        results.append((y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_explicit_tile_holds_under_autocast() -> None:
    x, weight, _ = make((1, 4, 4, (20, 20), (9, 9), (4, 4), None), torch.float32)
    expected = ops.large_kernel_conv2d(x, weight, None, 4, tile=(16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.large_kernel_conv2d(x, weight, None, 4, tile=(16, 16)), expected)


def test_no_output_channels() -> None:
    x = torch.randn(1, 3, 12, 12, requires_grad=True)
    y = ops.large_kernel_conv2d(x, torch.empty(0, 3, 5, 5), None, 2, tile=(8, 8))
    assert y.shape == (1, 0, 12, 12)
    y.sum().backward()
    assert not x.grad.any()


def test_transforms_are_made_for_the_cpu_whatever_the_default_device_is() -> None:
    overlap_save.transforms.cache_clear()
    with torch.device("meta"):
        made = overlap_save.transforms((11, 13), (5, 5), torch.float32)
    assert all(matrix.device.type == "cpu" for matrix in made)


def test_layout_follows_the_input() -> None:
    x, weight, _ = make(CASES[0], torch.float32)
    expected = ops.large_kernel_conv2d(x, weight, None, CASES[0][5], tile=(9, 8))
    assert expected.is_contiguous()
    last = ops.large_kernel_conv2d(x.contiguous(memory_format=torch.channels_last), weight, None, (2, 1), tile=(9, 8))
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, expected)
    strided = torch.stack([x, x], -1)[..., 0]
    assert torch.equal(ops.large_kernel_conv2d(strided, weight, None, (2, 1), tile=(9, 8)), expected)
    assert ops.large_kernel_conv2d(strided, weight, None, (2, 1), tile=(9, 8)).is_contiguous()
    flipped = weight.flip(0).contiguous().flip(0)
    assert torch.equal(ops.large_kernel_conv2d(x, flipped, None, (2, 1), tile=(9, 8)), expected)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    def whole(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    kernel = whole(1, 9), whole(1, 9)
    padding = tuple(whole(0, k - 1) for k in kernel)
    size = tuple(whole(max(1, k - 2 * p), 24) for k, p in zip(kernel, padding, strict=True))
    tile = tuple(whole(k, k + 12) for k in kernel)
    case = (whole(0, 3), whole(1, 5), whole(1, 40), size, kernel, padding, tile)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    x, weight, bias = make(case, dtype)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    if data.draw(st.booleans()):
        weight = weight.contiguous(memory_format=torch.channels_last)
    limit = data.draw(st.sampled_from([1, 10_000, 2**28]))
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    dy = torch.randn(exact.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = with_gradients(
        lambda *t: F.conv2d(*t, padding=padding), x.double(), weight.double(), bias.double(), dy
    )
    ours = with_gradients(
        lambda *t: ops.large_kernel_conv2d(*t, padding, tile=tile, memory_limit=limit), x, weight, bias, dy.to(dtype)
    )
    bound = 1e-12 if dtype == torch.float64 else 3e-6
    for actual, wanted in zip(ours, expected, strict=True):
        assert actual.shape == wanted.shape and actual.dtype == dtype
        assert error(actual, wanted) <= bound * max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0)


def test_gradcheck_and_no_second_derivative() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in make((1, 2, 2, (6, 5), (3, 3), (1, 1), None)))

    def ours(*tensors: Tensor) -> Tensor:
        return ops.large_kernel_conv2d(*tensors, 1, tile=(5, 4))

    assert torch.autograd.gradcheck(ours, (x, weight, bias))
    grad = torch.autograd.grad(ours(x, weight, bias).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(grad.sum(), weight)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    x, weight, _ = make((2, 3, 4, (12, 9), (5, 3), (2, 1), None), torch.float32)
    spectrum = ops.large_kernel_spectrum(weight, (9, 8))
    x, weight = x.requires_grad_(requires_grad), weight.requires_grad_(requires_grad)
    operators = torch.ops.mffpa_ext
    geometry = ([2, 1], [9, 8], 2**20)
    for kernels in (None, spectrum):
        torch.library.opcheck(operators.large_kernel_conv2d.default, (x, weight, kernels, *geometry))
    dy = torch.randn(2, 4, 12, 9)
    torch.library.opcheck(operators.large_kernel_conv2d_input_gradient.default, (dy, weight.detach(), *geometry))
    torch.library.opcheck(
        operators.large_kernel_conv2d_weight_gradient.default, (dy, x.detach(), [5, 3], *geometry)
    )


def test_repeated_runs_are_bitwise_equal_and_threads_agree() -> None:
    code = """
import sys, torch
from mffpa_ext import ops
torch.set_num_threads(int(sys.argv[1]))
g = torch.Generator().manual_seed(0)
x, w = torch.randn(2, 24, 40, 33, generator=g, requires_grad=True), torch.randn(32, 24, 9, 9, generator=g, requires_grad=True)
runs = []
for _ in range(2):
    y = ops.large_kernel_conv2d(x, w, None, 4, tile=(20, 22))
    runs.append([y.detach(), *torch.autograd.grad(y, (x, w), torch.ones_like(y))])
assert all(torch.equal(a, b) for a, b in zip(*runs))
torch.save(runs[0], sys.argv[2])
"""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        results = []
        for threads in (1, 2):
            run_python(code, str(threads), f"{folder}/{threads}.pt")
            results.append(torch.load(Path(folder) / f"{threads}.pt"))
    for one, two in zip(*results, strict=True):
        assert error(one, two.double()) <= 1e-6 * one.abs().max().item()


# choice of the tiles

def test_direct_where_that_is_faster_and_elsewhere_not() -> None:
    def tile(channels: int, out_channels: int, size: tuple[int, int], kernel: int, batch: int = 1, **more):
        x = torch.empty(batch, channels, *size)
        return ops.large_kernel_tile(x, (out_channels, channels, kernel, kernel), (kernel // 2,) * 2, **more)

    assert tile(128, 256, (80, 29), 15) is not None
    assert tile(128, 256, (80, 29), 15, cached=False) is not None
    assert tile(64, 64, (320, 116), 3) is None and tile(3, 32, (640, 232), 15) is None
    assert tile(256, 64, (8, 8), 9) is None
    assert tile(128, 256, (80, 29), 15, batch=0) is None
    assert tile(128, 256, (80, 29), 15, memory_limit=2**20) is None, "no room for the spectrum"
    big, small = tile(128, 256, (80, 29), 15), tile(128, 256, (80, 29), 15, memory_limit=90 * 2**20)
    assert tile_choice.spectrum_bytes(128, 256, small) <= 90 * 2**20 < tile_choice.spectrum_bytes(128, 256, big)
    assert tile(128, 256, (80, 29), 15, batch=8) == big, "one spectrum for all batch sizes"


def test_half_types_need_a_larger_gain_where_the_cpu_has_them(monkeypatch) -> None:
    shape = tile_choice.Shape(1, 256, 64, 40, 14, (9, 9))
    assert tile_choice.choose_tile(shape, 2**28, direct_speed=1.0) is not None
    assert tile_choice.choose_tile(shape, 2**28, direct_speed=8.0) is None


def test_direct_under_autocast_and_compilation() -> None:
    x, weight = torch.randn(1, 32, 40, 40), torch.randn(32, 32, 15, 15)
    assert ops.large_kernel_tile(x, weight.shape, (7, 7)) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.large_kernel_tile(x, weight.shape, (7, 7)) is None
        assert ops.large_kernel_conv2d(x, weight, None, 7).dtype == torch.bfloat16
    compiled = torch.compile(lambda x: ops.large_kernel_conv2d(x, weight, None, 7), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), F.conv2d(x, weight, padding=7))


def test_work_space_stays_below_the_limit() -> None:
    """Of the parts that the work is cut into; a row of tiles is the least."""
    from mffpa_ext.ops.large_kernel_operators import _strips

    tile, kernel, size = (24, 24), (9, 9), (200, 100)
    grid = overlap_save.grid_of(size, kernel, tile)
    each = tile_choice.activation_bytes(16, 32, tile)
    for limit in (1, 3 * grid.columns * each, 40 * grid.rows * grid.columns * each):
        covered = torch.zeros(5, *size)
        for images, first, last in _strips(5, size, (16, 32), kernel, tile, limit, 4):
            covered[images, first:last] += 1
            rows = -(-(last - first) // (tile[0] - kernel[0] + 1))
            used = len(range(5)[images]) * rows * grid.columns * each
            assert used <= max(limit, grid.columns * each)
        assert (covered == 1).all()


@pytest.mark.skipif(SANITIZED, reason="the sanitizers keep freed memory")
def test_measured_memory_stays_near_the_limit() -> None:
    """Peak resident memory of a call, beside its input and output, in a process of its own."""
    code = """
import re, sys, torch
from mffpa_ext import ops
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
x, w = torch.randn(1, 32, 1200, 256), torch.randn(32, 32, 9, 9)
ops.large_kernel_conv2d(x[:, :, :64], w, None, 4, tile=(32, 40))
before = peak()
y = ops.large_kernel_conv2d(x, w, None, 4, tile=(32, 40), memory_limit=int(sys.argv[1]))
print(peak() - before - 3 * y.nbytes)  # the output, in both layouts, and the padded input
"""
    small, large = (int(run_python(code, str(limit * 2**20))) for limit in (16, 160))
    assert small < 32 * 2**20 < large


# wrong arguments

@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3, 12, 12)}, r"x must be 4-D .*got shape \(3, 12, 12\)"),
        ({"weight": torch.zeros(4, 2, 5, 5)}, r"weight must be \[out_channels, 3, .*got \(4, 2, 5, 5\)"),
        ({"x": torch.zeros(1, 3, 12, 12, dtype=torch.int32)}, "x must be float32, .*got torch.int32"),
        ({"weight": torch.zeros(4, 3, 5, 5, dtype=torch.float64)}, "x is torch.float32 but weight is torch.float64"),
        ({"weight": torch.zeros(4, 3, 5, 5, device="meta")}, "x is on cpu but weight is on meta"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\), got \(3,\)"),
        ({"padding": 5}, r"padding must be 0 to kernel size - 1, for the kernel \(5, 5\), got \(5, 5\)"),
        ({"padding": (1, -1)}, r"padding must be .*got \(1, -1\)"),
        ({"x": torch.zeros(1, 3, 2, 12), "padding": 0}, r"a 2x12 image padded by \(0, 0\) is smaller than the kernel"),
        ({"tile": (4, 8)}, r"tile must be at least the kernel \(5, 5\), got \(4, 8\)"),
        ({"spectrum": torch.zeros(1)}, "a spectrum needs the tile"),
        ({"spectrum": torch.zeros(1), "tile": (8, 8)}, r"spectrum must have shape \(40, 2, 4, 3\).*got \(1,\), .*; make it"),
        ({"spectrum": torch.zeros(40, 2, 4, 3, dtype=torch.float64), "tile": (8, 8)}, "dtype torch.float32, got .*float64"),
    ],
)
def test_wrong_arguments(change: dict, message: str) -> None:
    arguments = {"x": torch.zeros(1, 3, 12, 12), "weight": torch.zeros(4, 3, 5, 5), "padding": 2, **change}
    with pytest.raises(ValueError, match=message):
        ops.large_kernel_conv2d(**arguments)
