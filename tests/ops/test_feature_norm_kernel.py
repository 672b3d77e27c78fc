"""The compiled feature normalisation: dtypes, layouts and instruction sets against float64, and torch's machinery."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.ops.support import DTYPES, needs_kernels, run_with_isa

# Around the vector widths (4, 8, 16 floats, four vectors at once), the chunk of 8192 elements, and degenerate planes.
SHAPES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 64, 12, 11), (2, 65, 6, 3), (1, 16, 40, 39), (3, 131, 2, 2), (1, 1, 96, 95))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def check(shape: tuple[int, ...], dtype: torch.dtype, layout: str, relu: bool) -> None:
    """Output, pooled output and all gradients: error at most that of the naive same-dtype expression, or rounding."""
    generator = torch.Generator().manual_seed(0)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    x, dy = ((2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1).to(dtype) for _ in range(2))
    x = x.contiguous(memory_format=LAYOUTS[layout])
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=accumulator) for _ in range(2))

    def run(operator, *inputs: Tensor) -> list[Tensor]:
        leaves = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in inputs]
        y = operator(*leaves, 1e-3, relu)
        y.backward(dy.to(y.dtype))
        return [y.detach(), *(leaf.grad for leaf in leaves)]

    exact = run(reference.feature_norm, x.double(), weight.double(), bias.double())
    naive = run(reference.feature_norm, x, weight, bias)
    actual = run(ops.feature_norm, x, weight, bias)
    if min(shape[2:]) >= 2:
        with torch.no_grad():
            pooled = ops.feature_norm_pool(x, weight, bias, 1e-3, relu)
        assert torch.equal(pooled, F.max_pool2d(actual[0], 2)), (shape, dtype, layout)
    assert actual[0].stride() == x.stride()
    for a, n, e in zip(actual, naive, exact, strict=True):
        largest = e.abs().max().clamp_min(1)
        error, naive_error = ((t.double() - e).abs().max() / largest for t in (a, n))
        floor = 1e-13 if dtype == torch.float64 else 2e-6 if a.dtype == torch.float32 else torch.finfo(dtype).eps
        assert error <= 2 * naive_error + floor, (shape, dtype, layout, relu, error, naive_error)


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    for relu in (False, True):
        check(shape, dtype, layout, relu)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    run_with_isa(isa, "from tests.ops import test_feature_norm_kernel as t; t.check_all()")


def check_all() -> None:
    """Runs in the child."""
    for arguments in itertools.product(SHAPES, DTYPES, LAYOUTS, (False, True)):
        check(*arguments)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_large_results_are_those_of_their_samples(isa: str) -> None:
    """Results of 4 MiB and more are stored past the cache."""
    run_with_isa(isa, "from tests.ops import test_feature_norm_kernel as t; t.check_large()")


def check_large() -> None:
    """Runs in the child."""
    generator = torch.Generator().manual_seed(0)
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), LAYOUTS.values()):
        x, dy = torch.randn(2, 4, 16, 144, 256, generator=generator).to(dtype)

        def run(rows: slice) -> list[Tensor]:
            part = x[rows].contiguous(memory_format=layout).requires_grad_()
            y = ops.feature_norm(part, relu=True)
            return [y.detach(), *torch.autograd.grad(y, part, dy[rows])]

        samples = [run(slice(i, i + 1)) for i in range(4)]
        for together, parts in zip(run(slice(4)), zip(*samples, strict=True), strict=True):
            assert torch.equal(together, torch.cat(parts)), (dtype, layout)


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plane_far_from_zero_does_not_cancel(layout: str) -> None:
    """Mean 1e4, deviation 1e-2: closer than a float32 mean, whose rounding alone would cost 5e-3, allows."""
    generator = torch.Generator().manual_seed(0)
    x = (1e4 + 1e-2 * torch.randn(1, 8, 40, 30, generator=generator, dtype=torch.float64)).float()
    exact = reference.feature_norm(x.double(), None, None, 1e-3, False)
    y = ops.feature_norm(x.contiguous(memory_format=LAYOUTS[layout]))
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_number_of_threads(layout: str) -> None:
    x = torch.randn(2, 24, 70, 50, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    weight = torch.linspace(-1, 1, 24).requires_grad_()
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.feature_norm(x, weight, relu=True)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
def test_not_a_number_stays_in_its_plane() -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0, 1, 1] = torch.nan
    for y in (ops.feature_norm(x, relu=True), ops.feature_norm_pool(x, relu=True)):
        assert y[0, 0].isnan().all() and y[0, 1].isfinite().all()


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_gradcheck(layout: str) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    weight = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    operators = torch.ops.mffpa_ext
    torch.library.opcheck(operators.feature_norm, (x, weight, None, 1e-3, True))
    torch.library.opcheck(operators.feature_norm_pool, (x, weight, weight, 1e-3, True))
    x.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(operators.feature_norm, (x, weight, weight, 1e-3, True))
    assert torch.autograd.gradcheck(lambda x, w, b: ops.feature_norm(x, w, b, relu=True), (x, weight, weight))


ODD_LAYOUTS = {
    "permuted": lambda: torch.randn(2, 3, 5, 4).permute(0, 1, 3, 2),
    "channel slice": lambda: torch.randn(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)[:, 1:4],
    "column slice": lambda: torch.randn(2, 3, 4, 9).contiguous(memory_format=torch.channels_last)[..., ::2],
    "one image, pixel by pixel": lambda: torch.randn(4, 5, 3).permute(2, 0, 1)[None],
    "expanded": lambda: torch.randn(1, 3, 4, 5).expand(2, 3, 4, 5),
    "one pixel": lambda: torch.randn(2, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "one column": lambda: torch.randn(2, 3, 4, 1).contiguous(memory_format=torch.channels_last),
    "one channel": lambda: torch.randn(2, 1, 4, 5).contiguous(memory_format=torch.channels_last),
}


@needs_kernels
@pytest.mark.parametrize("layout", ODD_LAYOUTS)
def test_odd_layouts(layout: str) -> None:
    """Values as for the contiguous tensor; the fake kernels predict the strides that the real ones make."""
    torch.manual_seed(0)
    x = ODD_LAYOUTS[layout]()
    torch.testing.assert_close(ops.feature_norm(x), ops.feature_norm(x.contiguous()))
    torch.library.opcheck(torch.ops.mffpa_ext.feature_norm, (x, None, None, 1e-3, True))
    torch.library.opcheck(torch.ops.mffpa_ext.feature_norm, (x.requires_grad_(), None, None, 1e-3, True))
    x = x.detach()
    if min(x.shape[2:]) >= 2:
        torch.library.opcheck(torch.ops.mffpa_ext.feature_norm_pool, (x, None, None, 1e-3, True))


@needs_kernels
def test_compiles_in_one_graph() -> None:
    x = torch.randn(1, 8, 6, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    compiled = torch.compile(ops.feature_norm, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(ops.feature_norm(x, relu=True).square().sum(), x)
    (actual,) = torch.autograd.grad(compiled(x, relu=True).square().sum(), x)
    torch.testing.assert_close(actual, expected)


@needs_kernels
def test_direct_calls_are_checked() -> None:
    operators, x = torch.ops.mffpa_ext, torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="4-D"):
        operators.feature_norm(x[0], None, None, 1e-3, False)
    with pytest.raises(ValueError, match="weight must have shape"):
        operators.feature_norm(x, torch.zeros(3), None, 1e-3, False)
    with pytest.raises(ValueError, match="float32"):
        operators.feature_norm(x.int(), None, None, 1e-3, False)
    with pytest.raises(ValueError, match="grad_y"):
        operators.feature_norm_backward(x[:, :, :3], x, None, None, torch.zeros(1, 2, 3), 1e-3, False)
    with pytest.raises(ValueError, match="statistics"):
        operators.feature_norm_backward(x, x, None, None, torch.zeros(1, 2, 2), 1e-3, False)


def test_pool_with_gradients_equals_two_operators() -> None:
    x = torch.randn(1, 3, 7, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = ops.feature_norm_pool(x, relu=True)
    assert y.shape == (1, 3, 3, 3)
    torch.testing.assert_close(y, F.max_pool2d(ops.feature_norm(x, relu=True), 2))
    y.sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="at least 2"):
        ops.feature_norm_pool(torch.zeros(1, 1, 1, 4))
