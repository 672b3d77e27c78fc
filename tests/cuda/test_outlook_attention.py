"""The CUDA kernels of outlook attention, run on the CPU, against the float64 reference."""

import pytest
import torch
from torch import Tensor

from tests.cuda.harness import Kernels, OutlookShape, poisoned
from tests.ops.outlook_cases import CASES, Case, error, make, textbook, tolerance, with_gradients
from tests.ops.support import DTYPES

RESULTS = ("output", "grad_value", "grad_logits")

# K = 3 with heads of whole 16-byte vectors: tiles of 8 x 16 pixels, 4 vectors at a time. Cut tiles, several tiles in
# each direction, one vector and five, every padding, and grids that leave pixels behind the last window uncovered.
TILED = (
    Case(17, 33, 1, 8, batch=2),
    Case(8, 16, 3, 8),
    Case(9, 17, 2, 40, padding=2),
    Case(18, 35, 1, 16, stride=2),
    Case(17, 34, 2, 8, stride=2, padding=0),
    Case(9, 18, 1, 8, stride=2, padding=2, batch=2),
    Case(1, 21, 1, 64),
    Case(6, 3, 1, 64, stride=2),
)
GENERAL = tuple(case for case in CASES if case.batch)


def run(kernels: Kernels, case: Case, value: Tensor, logits: Tensor, mask: Tensor | None, dy: Tensor) -> list[Tensor]:
    """Output, gradient of the value, gradient of the logits."""
    shape = OutlookShape(
        case.batch, case.height, case.width, case.heads, case.head_dim, case.kernel_size, case.stride, case.pad,
        *logits.shape[1:3],
    )  # fmt: skip
    output, grad_value, grad_logits = (poisoned(x.shape, x.dtype) for x in (value, value, logits))
    side = 2 * case.kernel_size - 1
    workspace_shape = (case.batch, case.heads, side, side, case.height, case.width)
    workspace = poisoned(workspace_shape, torch.float64 if value.dtype == torch.float64 else torch.float32)
    inputs = (shape, case.scale, value, logits, mask)
    kernels("outlook_attention_forward", value.dtype, *inputs, output)
    kernels("outlook_attention_backward", value.dtype, *inputs, dy, grad_value, grad_logits, workspace)
    return [output, grad_value, grad_logits]


def gradient(case: Case, dtype: torch.dtype) -> Tensor:
    return torch.randn(case.value_shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def check(kernels: Kernels, case: Case, inputs: list[Tensor | None], dy: Tensor) -> None:
    exact = with_gradients(textbook, case, *(x if x is None else x.double() for x in (*inputs, dy)))
    naive = with_gradients(textbook, case, *inputs, dy)
    actual = run(kernels, case, *inputs, dy)
    for name, a, n, e in zip(RESULTS, actual, naive, exact, strict=True):
        assert error(a, e) <= tolerance(n, e), f"{name}: {error(a, e):.3g} against {error(n, e):.3g} of the textbook"


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", TILED, ids=str)
def test_tiled_kernels(kernels: Kernels, case: Case, dtype: torch.dtype, mask: bool) -> None:
    check(kernels, case, make(case, dtype, mask), gradient(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", GENERAL, ids=str)
def test_cases_of_the_cpu_operator(kernels: Kernels, case: Case, dtype: torch.dtype) -> None:
    check(kernels, case, make(case, dtype, mask=case.stride == 2), gradient(case, dtype))


def test_largest_kernel(kernels: Kernels) -> None:
    case = Case(4, 5, 1, 3, kernel_size=15, stride=4)
    for dtype in (torch.float32, torch.float64):  # accumulators of float64 leave room for fewer warps in a block
        check(kernels, case, make(case, dtype, mask=True), gradient(case, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_tensors_that_are_not_16_byte_aligned(kernels: Kernels, dtype: torch.dtype) -> None:
    """Views into larger storages: 16-byte accesses would fault."""

    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    case = Case(5, 6, 2, 8)
    value, logits, mask = make(case, dtype)
    assert shifted(value).data_ptr() % 16 and shifted(value).is_contiguous()
    check(kernels, case, [shifted(value), shifted(logits), mask], shifted(gradient(case, dtype)))


@pytest.mark.parametrize("head_dim", [8, 7], ids=["tiled", "general"])
def test_pixels_that_no_window_covers_are_not_read(kernels: Kernels, head_dim: int) -> None:
    case = Case(6, 8, 1, head_dim, stride=2, padding=0)  # the last row and column lie behind the last window
    value, logits, _ = make(case)
    value[0, 5], value[0, :, 7] = torch.inf, torch.inf
    y, *_ = run(kernels, case, value, logits, None, gradient(case, torch.float32))
    assert y.isfinite().all()
    assert not y[0, 5].any() and not y[0, :, 7].any() and y[0, :5, :7].all()


@pytest.mark.parametrize("head_dim", [8, 7], ids=["tiled", "general"])
def test_rows_outside_the_image_are_not_used(kernels: Kernels, head_dim: int) -> None:
    case = Case(4, 4, 1, head_dim)
    value, logits, _ = make(case)
    dy = gradient(case, torch.float32)
    clean = run(kernels, case, value, logits, None, dy)
    logits[0, 0, 0, : 3 * 9] = torch.nan  # window (0, 0) starts above the image
    y, grad_value, grad_logits = run(kernels, case, value, logits, None, dy)
    assert torch.equal(y, clean[0]) and torch.equal(grad_value, clean[1])
    assert not grad_logits[0, 0, 0, : 3 * 9].any()


@pytest.mark.parametrize("head_dim", [8, 7], ids=["tiled", "general"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("logit", [torch.nan, torch.inf, -torch.inf, "all -inf", 1e4], ids=str)
def test_special_logits_act_as_in_softmax(
    kernels: Kernels, dtype: torch.dtype, logit: float | str, head_dim: int
) -> None:
    case = Case(4, 4, 1, head_dim)
    value, logits, _ = make(case, dtype)
    if logit == "all -inf":
        logits[0, 1, 2, 9 * 4: 9 * 5] = -torch.inf
    else:
        logits[0, 1, 2, 9 * 4 + 5] = logit
    exact, naive = textbook(case, value.double(), logits.double()), textbook(case, value, logits)
    actual, *_ = run(kernels, case, value, logits, None, gradient(case, dtype))
    assert torch.equal(actual.isnan(), exact.isnan())
    known = ~exact.isnan()
    assert error(actual[known], exact[known]) <= tolerance(naive[known], exact[known])


@pytest.mark.parametrize("head_dim", [16, 5], ids=["tiled", "general"])
def test_repetition_gives_the_same_bits(kernels: Kernels, head_dim: int) -> None:
    case = Case(9, 18, 2, head_dim, stride=2)
    arguments = (*make(case, mask=True), gradient(case, torch.float32))
    first, second = (run(kernels, case, *arguments) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_sizes_that_no_grid_holds_are_refused(kernels: Kernels) -> None:
    shape = OutlookShape(2**31, 1, 1, 1, 8, 3, 1, 1, 1, 1)
    nothing = torch.empty(0)
    with pytest.raises(RuntimeError, match="needs 2147483648 blocks, expected 1 to 2147483647; call the operator on"):
        kernels("outlook_attention_forward", torch.float32, shape, 1.0, nothing, nothing, None, nothing)
