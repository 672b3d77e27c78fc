"""The pyramid's gate: the formula, every dtype, layout and instruction set against float64, wrong arguments."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mffpa_ext import ops
from mffpa_ext.ops import reference
from tests.ops.gate_cases import CASES, LAYOUTS, Case, assert_as_exact_as_naive, double, make, with_gradients
from tests.ops.support import DTYPES, needs_kernels, run_with_isa


def check(case: Case, dtype: torch.dtype, layout: str) -> None:
    inputs = make(case, dtype, layout)

    def run(operator, tensors: list[Tensor | None]) -> list[Tensor]:
        return with_gradients(lambda *leaves: operator(*leaves, case.branches, case.softmax), tensors)

    actual = run(ops.pyramid_gate, inputs)
    assert all(image.is_contiguous(memory_format=LAYOUTS[layout]) for image in actual[:2]), "they lie as x"
    assert actual[0].dtype == dtype
    naive, exact = run(reference.pyramid_gate, inputs), run(reference.pyramid_gate, double(inputs))
    assert_as_exact_as_naive(actual, naive, exact, (case, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: Case, dtype: torch.dtype, layout: str) -> None:
    check(case, dtype, layout)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    run_with_isa(isa, "from tests.ops import test_pyramid_gate as t; t.check_all()")


def check_all() -> None:
    """Runs in the child."""
    for case, dtype, layout in itertools.product(CASES, DTYPES, LAYOUTS):
        check(case, dtype, layout)


def test_by_hand() -> None:
    """Two branches of one pixel: gates 1/4 (both logits 0) and 9/16 (both log 3)."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1)
    x = torch.tensor([2.0, -4.0]).view(1, 2, 1, 1)
    y = ops.pyramid_gate(x, logits, logits, 2)
    share = math.exp(0.25) / (math.exp(0.25) + math.exp(0.5625))
    torch.testing.assert_close(y.flatten(), torch.tensor([2 * share, -4 * (1 - share)]))
    torch.testing.assert_close(ops.pyramid_gate(x, logits, logits, 2, False).flatten(), torch.tensor([0.5, -2.25]))
    torch.testing.assert_close(ops.pyramid_gate(x, logits, None, 2, False).flatten(), torch.tensor([1.0, -3.0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_the_branches_add_up_to_one(layout: str) -> None:
    case = Case(2, 4, 5, 6, 7)
    x, rows, columns = make(case, layout=layout)
    weights = ops.pyramid_gate(torch.ones_like(x), rows, columns, 4).unflatten(1, (4, 5))
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 5, 6, 7))
    assert weights.amin() > 0.25 * math.exp(-1) and weights.std() > 0.01


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("softmax", [False, True], ids=["gate", "softmax"])
def test_extreme_logits_saturate(softmax: bool, layout: str) -> None:
    case = Case(1, 2, 3, 4, 5)
    x, _, _ = make(case, layout=layout)
    for row, column in itertools.product((-torch.inf, -1e4, 1e4, torch.inf), repeat=2):
        inputs = [x, torch.full((1, 6, 4), row), torch.full((1, 6, 5), column)]
        y, *gradients = with_gradients(lambda *leaves: ops.pyramid_gate(*leaves, 2, softmax), inputs)
        expected = 0.5 if softmax else float(row > 0 and column > 0)
        torch.testing.assert_close(y, x * expected)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not gradients[1].any() and not gradients[2].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_not_a_number_stays_with_its_pixel(layout: str) -> None:
    """In x it is weighted as any number; in a row's logit it reaches that row, in all branches through the softmax."""
    case = Case(2, 2, 3, 4, 5)
    x, rows, columns = make(case, layout=layout)
    x[1, 4, 2, 3] = torch.nan
    y = ops.pyramid_gate(x, rows, columns, 2)
    assert y.isnan().nonzero().tolist() == [[1, 4, 2, 3]]
    rows[0, 1, 2] = torch.nan
    assert ops.pyramid_gate(x, rows, columns, 2)[0].isnan().nonzero().tolist() == [
        [channel, 2, column] for channel in (1, 4) for column in range(5)
    ]


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [True, False], ids=["rows and columns", "mean"])
def test_results_do_not_depend_on_the_number_of_threads(columns: bool, layout: str) -> None:
    case = Case(2, 3, 20, 70, 30, columns=columns, whole=not columns)
    inputs = make(case, layout=layout)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(with_gradients(lambda *leaves: ops.pyramid_gate(*leaves, 3), inputs))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("columns", [True, False], ids=["rows and columns", "rows"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(0, 2, 3), (2, 2, 0)], ids=["no sample", "no channel"])
def test_empty(sizes: tuple[int, int, int], layout: str, columns: bool) -> None:
    case = Case(*sizes, 4, 5, columns=columns)
    y, *gradients = with_gradients(lambda *leaves: ops.pyramid_gate(*leaves, 2), make(case, layout=layout))
    assert y.shape == gradients[0].shape == case.shape and gradients[1].shape == (*case.shape[:2], 4)


def test_images_of_a_batch_are_independent() -> None:
    x, rows, columns = make(Case(3, 2, 5, 6, 7))
    together = ops.pyramid_gate(x, rows, columns, 2)
    for index in range(3):
        part = slice(index, index + 1)
        torch.testing.assert_close(together[part], ops.pyramid_gate(x[part], rows[part], columns[part], 2))


@needs_kernels
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_shape_stride_and_dtype(data: st.DataObject) -> None:
    size = st.integers(1, 21)
    whole, columns, softmax = (data.draw(st.booleans()) for _ in range(3))
    case = Case(
        data.draw(st.integers(0, 3)), data.draw(st.integers(1, 5)), data.draw(size), data.draw(size), data.draw(size),
        softmax, columns, whole,
    )  # fmt: skip
    dtype = data.draw(st.sampled_from(DTYPES))
    inputs = make(case, dtype)
    # Any order of the dimensions in memory, with gaps after some of them.
    for index, tensor in enumerate(inputs):
        if tensor is not None:
            order = data.draw(st.permutations(range(tensor.dim())))
            steps = [data.draw(st.integers(1, 2)) for _ in order]
            strided = torch.empty([tensor.shape[d] * step for d, step in zip(order, steps)], dtype=tensor.dtype)
            strided = strided[tuple(slice(None, None, step) for step in steps)]
            inputs[index] = strided.permute(*[order.index(d) for d in range(tensor.dim())]).copy_(tensor)

    def run(operator, tensors: list[Tensor | None]) -> list[Tensor]:
        leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
        y = operator(*leaves, case.branches, softmax)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], weights)]

    actual = run(ops.pyramid_gate, inputs)
    assert_as_exact_as_naive(
        actual, run(reference.pyramid_gate, inputs), run(reference.pyramid_gate, double(inputs)), (case, dtype)
    )
    means = ops.directional_means(inputs[0])
    exact = reference.directional_means(inputs[0].double())
    assert_as_exact_as_naive(means, reference.directional_means(inputs[0]), exact, (case, dtype, "means"))


X, ROWS, COLUMNS = torch.zeros(1, 6, 4, 5), torch.zeros(1, 6, 4), torch.zeros(1, 6, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], ROWS, COLUMNS, 2), "x must be 4-D .* got shape \\(6, 4, 5\\)"),
        ((X.int(), ROWS, COLUMNS, 2), "x must be float32, .* got torch.int32"),
        ((X[:, :, :0], ROWS, COLUMNS, 2), "height and width must be at least 1, got \\(0, 5\\)"),
        ((X, ROWS, COLUMNS, 4), "branches must be 1 to 16 and divide the 6 channels of x, got 4"),
        ((X, ROWS, COLUMNS, 0), "branches must be 1 to 16 and divide the 6 channels of x, got 0"),
        ((torch.zeros(1, 17, 4, 5), ROWS, None, 17), "branches must be 1 to 16 .* got 17"),
        ((X, ROWS[:, :, :3], COLUMNS, 2), "row_logits must have shape \\(1, 6, 4\\) or 1 in .* got \\(1, 6, 3\\)"),
        ((X, ROWS[:, :5], COLUMNS, 2), "row_logits must have shape .* got \\(1, 5, 4\\)"),
        ((X, ROWS, ROWS, 2), "column_logits must have shape \\(1, 6, 5\\), got \\(1, 6, 4\\)"),
        ((X, ROWS, ROWS[..., :1], 2), "column_logits must have shape \\(1, 6, 5\\), got \\(1, 6, 1\\)"),
        ((X, ROWS[..., None], COLUMNS, 2), "row_logits must have shape .* got \\(1, 6, 4, 1\\)"),
        ((X, ROWS.long(), COLUMNS, 2), "row_logits must be floating point, got torch.int64"),
        ((X, ROWS, COLUMNS.to("meta"), 2), "x is on cpu but column_logits are on meta"),
    ],
)
def test_wrong_argument(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^pyramid_gate: {message}"):
        ops.pyramid_gate(*arguments)


@needs_kernels
def test_direct_calls_are_checked() -> None:
    operators = torch.ops.mffpa_ext
    with pytest.raises(ValueError, match="4-D"):
        operators.pyramid_gate(X[0], ROWS, COLUMNS, 2, True)
    with pytest.raises(ValueError, match="branches must be 1 to 16"):
        operators.pyramid_gate(X, ROWS, COLUMNS, 4, True)
    with pytest.raises(ValueError, match="row_logits must have shape"):
        operators.pyramid_gate(X, ROWS[:, :, :2], COLUMNS, 2, True)
    with pytest.raises(ValueError, match="accumulator's dtype"):
        operators.pyramid_gate(X.bfloat16(), ROWS.bfloat16(), None, 2, True)
    with pytest.raises(ValueError, match="column_logits must have shape"):
        operators.pyramid_gate(X, ROWS, COLUMNS[:, :3], 2, True)
    with pytest.raises(ValueError, match="grad_y must have the shape, dtype and device of x"):
        operators.pyramid_gate_backward(X[..., :4], X, ROWS, COLUMNS, 2, True)
