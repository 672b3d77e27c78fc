"""Coordinate attention of a pyramid in one operator, against its formula in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mffpa_ext import ops
from tests.ops.coordinate_cases import CASES, EPS, HIDDEN, by_formula, ours, parameters
from tests.ops.gate_cases import LAYOUTS, Case, assert_as_exact_as_naive, make
from tests.ops.support import DTYPES, needs_kernels, run_with_isa


def check(case: Case, dtype: torch.dtype, layout: str, hidden: int) -> None:
    x = make(case, dtype, layout)[0]
    p = parameters(case.channels, hidden, dtype)
    y = ours(x, case, p)
    assert y.dtype == dtype and y.is_contiguous(memory_format=LAYOUTS[layout])
    exact = by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    assert_as_exact_as_naive([y], [by_formula(x, case, p)], [exact], (case, dtype, layout, hidden))


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: Case, dtype: torch.dtype, layout: str, hidden: int) -> None:
    check(case, dtype, layout, hidden)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa: str) -> None:
    run_with_isa(isa, "from tests.ops import test_pyramid_coordinate_attention as t; t.check_all()")


def check_all() -> None:
    """Runs in the child."""
    for case, dtype, layout, hidden in itertools.product(CASES, DTYPES, LAYOUTS, HIDDEN):
        check(case, dtype, layout, hidden)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(data=st.data())
def test_any_shape_and_layout(data: st.DataObject) -> None:
    size = st.integers(1, 21)
    case = Case(
        data.draw(st.integers(0, 3)), data.draw(st.integers(1, 5)), data.draw(size), data.draw(size), data.draw(size),
        data.draw(st.booleans()),
    )  # fmt: skip
    dtype, order = data.draw(st.sampled_from(DTYPES)), data.draw(st.permutations(range(4)))
    x = make(case, dtype)[0]
    x = x.permute(*order).contiguous().permute(*[order.index(d) for d in range(4)])
    p = parameters(case.channels, data.draw(st.integers(1, 12)), dtype)
    exact = by_formula(x.double(), case, {name: tensor.double() for name, tensor in p.items()})
    assert_as_exact_as_naive([ours(x, case, p)], [by_formula(x, case, p)], [exact], (case, dtype, order))


def test_gradcheck() -> None:
    case = Case(1, 2, 3, 4, 3)
    x, p = make(case, torch.float64)[0].requires_grad_(), parameters(3, 2, torch.float64)
    learned = [name for name in p if name not in ("bn_mean", "bn_var")]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return ours(x, case, {**p, **dict(zip(learned, values, strict=True))})

    assert torch.autograd.gradcheck(run, (x, *(p[name].requires_grad_() for name in learned)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_are_read_at_every_call(layout: str) -> None:
    case = CASES[1]
    x, p = make(case, layout=layout)[0], parameters(5, 8)
    before = ours(x, case, p)
    for tensor in p.values():
        tensor.mul_(1.5)
        after = ours(x, case, p)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, by_formula(x, case, p), rtol=1e-4, atol=1e-5)
        before = after


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_gradients_it_runs_as_several_operators(layout: str) -> None:
    case = CASES[1]
    x, p = make(case, torch.float64, layout)[0].requires_grad_(), parameters(5, 8, torch.float64)
    without = ours(x.detach(), case, p)
    for name in ("conv1_weight", "bn_weight", "conv_w_bias"):
        p[name].requires_grad_()
    leaves = [x, p["conv1_weight"], p["bn_weight"], p["conv_w_bias"]]
    y = ours(x, case, p)
    torch.testing.assert_close(y, without)
    gradients = [torch.autograd.grad(f(x, case, p).square().sum(), leaves) for f in (ours, by_formula)]
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@needs_kernels
def test_the_operator_itself_has_no_gradient() -> None:
    case = CASES[1]
    x, p = make(case)[0].requires_grad_(), parameters(5, 8)
    y = torch.ops.mffpa_ext.pyramid_coordinate_attention(x, case.branches, **p, bn_eps=EPS, softmax=True)
    with pytest.raises(RuntimeError, match="has no gradient; mffpa_ext.ops.pyramid_coordinate_attention has one"):
        y.sum().backward()


@needs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_number_of_threads(layout: str) -> None:
    case = Case(2, 3, 20, 70, 30)
    x, p = make(case, layout=layout)[0], parameters(20, 8)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(ours(x, case, p))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_kernels
@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced"])
def test_opcheck(layout: str) -> None:
    case, p = CASES[1], parameters(5, 8)
    x = make(case)[0].repeat(1, 1, 1, 2)[..., ::2] if layout == "sliced" else make(case, layout=layout)[0]
    torch.testing.assert_close(ours(x, case, p), ours(x.contiguous(), case, p))
    operator = torch.ops.mffpa_ext.pyramid_coordinate_attention
    torch.library.opcheck(operator, (x, case.branches), {**p, "bn_eps": EPS, "softmax": True})


@needs_kernels
def test_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    case, p = CASES[1], parameters(5, 8)
    x = make(case)[0]
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, case, p), ours(x, case, p))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(0, 2, 3), (2, 2, 0)], ids=["no sample", "no channel"])
def test_empty(sizes: tuple[int, int, int], layout: str) -> None:
    case = Case(*sizes, 4, 5)
    assert ours(make(case, layout=layout)[0], case, parameters(case.channels, 8)).shape == case.shape


@needs_kernels
def test_half_images_and_autocast_keep_parameters_in_float32() -> None:
    case, p = CASES[1], parameters(5, 8)
    x = make(case)[0].bfloat16()
    exact = by_formula(x.float(), case, p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ours(x, case, p)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=2**-8, atol=1e-6)  # one rounding, of the result


X = torch.zeros(1, 10, 4, 6)


@pytest.mark.parametrize(
    ("x", "branches", "changed", "message"),
    [
        (X[0], 2, {}, "x must be 4-D .* got shape \\(10, 4, 6\\)"),
        (X.int(), 2, {}, "x must be float32, .* got torch.int32"),
        (X[..., :0], 2, {}, "height and width must be at least 1, got \\(4, 0\\)"),
        (X, 3, {}, "branches must be 1 to 16 and divide the 10 channels of x, got 3"),
        (X, 1, {}, "conv1_weight must have shape \\(8, 10\\) for 10 channels per branch .* got \\(8, 5\\)"),
        (X, 2, {"bn_var": torch.ones(7)}, "bn_var must have shape \\(8,\\) .* got \\(7,\\)"),
        (X, 2, {"conv_h_weight": torch.ones(8, 5)}, "conv_h_weight must have shape \\(5, 8\\) .* got \\(8, 5\\)"),
        (X, 2, {"conv_w_bias": torch.ones(8)}, "conv_w_bias must have shape \\(5,\\) .* got \\(8,\\)"),
        (X, 2, {"bn_mean": torch.ones(8).long()}, "bn_mean must be floating point, got torch.int64"),
        (X, 2, {"bn_bias": torch.ones(8, device="meta")}, "x is on cpu but bn_bias is on meta"),
        (X, 2, {"conv1_bias": torch.ones(0), "conv1_weight": torch.ones(0, 5)}, "conv1_weight .* at least 1"),
    ],
)
def test_wrong_argument(x: Tensor, branches: int, changed: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=f"^pyramid_coordinate_attention: {message}"):
        ops.pyramid_coordinate_attention(x, branches, **{**parameters(5, 8), **changed}, bn_eps=EPS)


@needs_kernels
@pytest.mark.parametrize("name", parameters(5, 8))
def test_direct_calls_are_checked(name: str) -> None:
    operator = torch.ops.mffpa_ext.pyramid_coordinate_attention
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        operator(X, 2, **{**parameters(5, 8), name: torch.zeros(3)}, bn_eps=EPS, softmax=True)
    with pytest.raises(ValueError, match="accumulator's dtype"):
        operator(X, 2, **{**parameters(5, 8), name: parameters(5, 8)[name].double()}, bn_eps=EPS, softmax=True)
