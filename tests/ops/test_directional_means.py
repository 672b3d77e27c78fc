"""Means over rows and columns in one pass: values, gradients, layouts, torch's machinery, wrong arguments."""

import itertools

import pytest
import torch
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.ops.gate_cases import LAYOUTS, assert_as_exact_as_naive, with_gradients
from tests.ops.support import DTYPES, needs_kernels, run_with_isa

# Around the vector widths, the blocks of 8 and 2 rows, the chunks of 4 to 32 rows, and degenerate planes.
SHAPES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 64, 40, 14), (2, 65, 9, 3), (1, 16, 41, 39), (3, 131, 2, 1), (1, 2, 300, 17))


def image(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    return x.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def check(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    x = image(shape, dtype, layout)
    actual = with_gradients(ops.directional_means, [x])
    assert actual[-1].is_contiguous(memory_format=LAYOUTS[layout]), "the gradient lies as x"
    naive, exact = (with_gradients(reference.directional_means, [t]) for t in (x, x.double()))
    assert_as_exact_as_naive(actual, naive, exact, (shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    by_row, by_column = ops.directional_means(image(shape, dtype, layout))
    assert by_row.shape == shape[:3] and by_column.shape == (*shape[:2], shape[3])
    assert by_row.dtype == by_column.dtype == dtype
    check(shape, dtype, layout)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    run_with_isa(isa, "from tests.ops import test_directional_means as t; t.check_all()")


def check_all() -> None:
    """Runs in the child."""
    for shape, dtype, layout in itertools.product(SHAPES, DTYPES, LAYOUTS):
        check(shape, dtype, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_types_are_summed_in_float32(layout: str, dtype: torch.dtype) -> None:
    """4096 times 1.5: a sum in half precision stops growing, or overflows, long before."""
    x = torch.full((1, 2, 4096, 3), 1.5, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    for means in (*ops.directional_means(x), *ops.directional_means(x.transpose(2, 3))):
        assert torch.equal(means, torch.full_like(means, 1.5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_not_a_number_stays_in_its_row_and_column(layout: str) -> None:
    x = image((2, 3, 5, 7), layout=layout)
    x[1, 2, 3, 4] = torch.nan
    by_row, by_column = ops.directional_means(x)
    assert by_row.isnan().nonzero().tolist() == [[1, 2, 3]]
    assert by_column.isnan().nonzero().tolist() == [[1, 2, 4]]


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_number_of_threads(layout: str) -> None:
    x = image((2, 70, 130, 50), layout=layout)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(ops.directional_means(x))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty(shape: tuple[int, ...], layout: str) -> None:
    x = torch.empty(shape).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    by_row, by_column = ops.directional_means(x)
    assert by_row.shape == (*shape[:2], 4) and by_column.shape == (*shape[:2], 5)
    (by_row.sum() + by_column.sum()).backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout: str) -> None:
    x = image((2, 3, 4, 5), torch.float64, layout).requires_grad_()
    assert torch.autograd.gradcheck(ops.directional_means, x)
    assert torch.autograd.gradgradcheck(ops.directional_means, x)  # linear: the second derivative is 0, and right


ODD_LAYOUTS = {
    "permuted": lambda: torch.randn(2, 3, 5, 4).permute(0, 1, 3, 2),
    "channel slice": lambda: torch.randn(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)[:, 1:4],
    "column slice": lambda: torch.randn(2, 3, 4, 9)[..., ::2],
    "expanded": lambda: torch.randn(1, 3, 4, 5).expand(2, 3, 4, 5),
    "one pixel": lambda: torch.randn(2, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "one column": lambda: torch.randn(2, 3, 4, 1).contiguous(memory_format=torch.channels_last),
    "one channel": lambda: torch.randn(2, 1, 4, 5).contiguous(memory_format=torch.channels_last),
}


@needs_kernels
@pytest.mark.parametrize("requires_grad", [False, True], ids=["", "requires_grad"])
@pytest.mark.parametrize("layout", [*LAYOUTS, *ODD_LAYOUTS])
def test_opcheck(layout: str, requires_grad: bool) -> None:
    """Among others, the fake kernel predicts the strides that the real one makes."""
    torch.manual_seed(0)
    x = ODD_LAYOUTS[layout]() if layout in ODD_LAYOUTS else image((2, 5, 6, 7), layout=layout)
    for actual, expected in zip(ops.directional_means(x), ops.directional_means(x.contiguous()), strict=True):
        torch.testing.assert_close(actual, expected)
    torch.library.opcheck(torch.ops.mffpa_ext.directional_means, (x.detach().requires_grad_(requires_grad),))


@needs_kernels
def test_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    x = image((2, 8, 6, 10))
    compiled = torch.compile(ops.directional_means, fullgraph=True, backend="aot_eager")
    for a, e in zip(with_gradients(compiled, [x]), with_gradients(ops.directional_means, [x]), strict=True):
        torch.testing.assert_close(a, e)


def test_autocast_keeps_the_dtype() -> None:
    x = image((1, 8, 4, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, e) for a, e in zip(ops.directional_means(x), ops.directional_means(x), strict=True))
        assert {means.dtype for means in ops.directional_means(x)} == {torch.float32}
        assert {means.dtype for means in ops.directional_means(x.bfloat16())} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 4, 5), "x must be 4-D .* got shape \\(3, 4, 5\\)"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.int32), "x must be float32, .* got torch.int32"),
        (torch.zeros(1, 3, 0, 5), "height and width must be at least 1, got \\(0, 5\\)"),
        (torch.zeros(1, 3, 4, 0), "height and width must be at least 1, got \\(4, 0\\)"),
    ],
)
def test_wrong_argument(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^directional_means: {message}"):
        ops.directional_means(x)


@needs_kernels
def test_direct_calls_are_checked() -> None:
    operator = torch.ops.mffpa_ext.directional_means
    for x, message in ((torch.zeros(3, 4, 5), "4-D"), (torch.zeros(1, 1, 0, 2), "at least 1")):
        with pytest.raises(ValueError, match=message):
            operator(x)
    with pytest.raises(ValueError, match="float32"):
        operator(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
