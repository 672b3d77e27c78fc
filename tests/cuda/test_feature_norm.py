"""The CUDA kernels of feature normalisation, run on the CPU, against the float64 reference."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext.ops import reference
from tests.cuda.harness import FeatureNormOptions, Kernels, PlaneShape, poisoned
from tests.ops.support import DTYPES

EPS = 1e-3
RESULTS = ("output", "grad_x", "grad_weight", "grad_bias")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Planes of whole vectors and others, one chunk and several, tiles of channels that are cut, more pixels than a thread
# takes in one run, and degenerate planes.
SHAPES = (
    (1, 1, 1, 1), (2, 3, 5, 7), (1, 24, 4, 6), (1, 65, 6, 3), (1, 8, 40, 39), (1, 131, 2, 2), (1, 1, 96, 95),
    (1, 2, 64, 40), (1, 72, 3, 8), (1, 5, 1, 9),
)  # fmt: skip


def as_stored(x: Tensor, layout: str) -> Tensor:
    """The elements in the order of memory."""
    return (x.permute(0, 2, 3, 1) if layout == "channels_last" else x).contiguous()


def as_image(x: Tensor, layout: str) -> Tensor:
    return x.permute(0, 3, 1, 2) if layout == "channels_last" else x


class Operator:
    """The operator's launch functions on one tensor; every result and the workspace start as NaN."""

    def __init__(
        self, kernels: Kernels, x: Tensor, weight: Tensor | None, bias: Tensor | None, layout: str, relu: bool
    ) -> None:
        self._kernels, self._x, self._parameters, self._layout, self._relu = kernels, x, (weight, bias), layout, relu
        self._shape = PlaneShape(*as_image(x, layout).shape, layout == "channels_last")
        self.accumulator = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.statistics = poisoned((*as_image(x, layout).shape[:2], 3), self.accumulator)

    def _workspace(self) -> Tensor:
        count = torch.zeros(1, dtype=torch.int64)
        self._kernels("feature_norm_workspace", self._x.dtype, self._shape, count)
        return poisoned((count.item(),), self.accumulator)

    def forward(self, pool: bool = False) -> Tensor:
        channels, height, width = as_image(self._x, self._layout).shape[1:]
        height, width = (height // 2, width // 2) if pool else (height, width)
        size = (height, width, channels) if self._layout == "channels_last" else (channels, height, width)
        y = poisoned((self._x.shape[0], *size), self._x.dtype)
        options = FeatureNormOptions(EPS, self._relu, pool)
        self._kernels("feature_norm_forward", self._x.dtype, self._shape, options, self._x, *self._parameters, y,
                      self.statistics, self._workspace())  # fmt: skip
        return as_image(y, self._layout)

    def backward(self, grad_y: Tensor) -> list[Tensor]:
        grad_x = poisoned(self._x.shape, self._x.dtype)
        grad_weight, grad_bias = (poisoned(self.statistics.shape[:2], self.accumulator) for _ in range(2))
        options = FeatureNormOptions(EPS, self._relu, False)
        self._kernels("feature_norm_backward", self._x.dtype, self._shape, options, grad_y, self._x, *self._parameters,
                      self.statistics, grad_x, grad_weight, grad_bias, self._workspace())  # fmt: skip
        return [as_image(grad_x, self._layout), grad_weight.sum(0), grad_bias.sum(0)]


def make(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """x, weight, bias, grad_y"""
    generator = torch.Generator().manual_seed(0)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    x, dy = ((2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=accumulator) for _ in range(2))
    return [x, weight, bias, dy]


def with_gradients(relu: bool, x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight, bias)]
    y = reference.feature_norm(*leaves, EPS, relu)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def check_errors(actual: list[Tensor], relu: bool, inputs: list[Tensor]) -> None:
    """At most twice that of the naive same-dtype expression, or rounding: as for the CPU operator."""
    exact = with_gradients(relu, *(tensor.double() for tensor in inputs))
    naive = with_gradients(relu, *inputs)
    dtype = inputs[0].dtype
    for name, a, n, e in zip(RESULTS, actual, naive, exact, strict=True):
        largest = e.abs().max().clamp_min(1)
        error, naive_error = ((t.double() - e).abs().max() / largest for t in (a, n))
        floor = 1e-13 if dtype == torch.float64 else 2e-6 if a.dtype == torch.float32 else torch.finfo(dtype).eps
        assert error <= 2 * naive_error + floor, f"{name}: {error:.3g} against {naive_error:.3g}"


def run(kernels: Kernels, inputs: list[Tensor], layout: str, relu: bool, shift: bool = False) -> list[Tensor]:
    """All results, and the pooled output if there is one."""

    def stored(tensor: Tensor) -> Tensor:
        tensor = as_stored(tensor, layout)
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape) if shift else tensor

    x, weight, bias, dy = inputs
    operator = Operator(kernels, stored(x), weight, bias, layout, relu)
    results = [operator.forward(), *operator.backward(stored(dy))]
    return [*results, operator.forward(pool=True)] if min(x.shape[2:]) >= 2 else results


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    inputs = make(shape, dtype)
    for relu in (False, True) if shape[1] <= 8 else (True,):  # every plane costs a block's time
        results = run(kernels, inputs, layout, relu)
        check_errors(results[:4], relu, inputs)
        if len(results) == 5:
            # Two kernels, in which the compiler may contract a product and a sum differently.
            rounding = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(results[4], F.max_pool2d(results[0], 2), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_tensors_that_are_not_16_byte_aligned(kernels: Kernels, dtype: torch.dtype, layout: str) -> None:
    """Views into larger storages: 16-byte accesses would fault. Chunks are cut the same way: nothing else changes."""
    inputs = make((1, 16, 6, 8), dtype)
    results = run(kernels, inputs, layout, True, shift=True)
    check_errors(results[:4], True, inputs)
    assert torch.equal(results[4], F.max_pool2d(results[0], 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_parameters(kernels: Kernels, layout: str) -> None:
    x, _, _, dy = make((2, 8, 6, 5), torch.float32)
    operator = Operator(kernels, as_stored(x, layout), None, None, layout, True)
    y, (grad_x, *_) = operator.forward(), operator.backward(as_stored(dy, layout))
    leaf = x.double().requires_grad_()
    exact = reference.feature_norm(leaf, None, None, EPS, True)
    torch.testing.assert_close(y.double(), exact.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(grad_x.double(), torch.autograd.grad(exact, leaf, dy.double())[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plane_far_from_zero_does_not_cancel(kernels: Kernels, layout: str) -> None:
    """Mean 1e4, deviation 1e-2: closer than a float32 mean, whose rounding alone would cost 5e-3, allows."""
    generator = torch.Generator().manual_seed(0)
    x = (1e4 + 1e-2 * torch.randn(1, 8, 40, 30, generator=generator, dtype=torch.float64)).float()
    exact = reference.feature_norm(x.double(), None, None, EPS, False)
    y = Operator(kernels, as_stored(x, layout), None, None, layout, False).forward()
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_outlier_where_sums_start_does_not_cancel(kernels: Kernels, layout: str) -> None:
    """Differences from it are large; 64 elements to a run keep their rounding small."""
    x = torch.randn(1, 4, 40, 40, generator=torch.Generator().manual_seed(0))
    x[:, :, 0, 0] = 30
    exact = reference.feature_norm(x.double(), None, None, EPS, False)
    y = Operator(kernels, as_stored(x, layout), None, None, layout, False).forward()
    torch.testing.assert_close(y.double(), exact, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_constant_planes(kernels: Kernels, dtype: torch.dtype, layout: str) -> None:
    """The bias exactly, and the gradient of a layer with slope 1 / sqrt(eps) on the mean-free part."""
    _, weight, bias, dy = make((1, 3, 5, 6), dtype)
    x = torch.tensor([0.1, -7.5, 1e4], dtype=dtype)[:, None, None].expand(1, 3, 5, 6)
    operator = Operator(kernels, as_stored(x, layout), weight, bias, layout, False)
    y, (grad_x, *_) = operator.forward(), operator.backward(as_stored(dy, layout))
    assert torch.equal(y, bias.to(dtype)[:, None, None].expand_as(y))
    free = dy.double() - dy.double().mean((2, 3), keepdim=True)
    exact = free * weight.double()[:, None, None] / EPS**0.5
    torch.testing.assert_close(grad_x, exact.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_not_a_number_stays_in_its_plane(kernels: Kernels, value: float, layout: str) -> None:
    x, weight, bias, dy = make((1, 4, 4, 4), torch.float32)
    x[0, 1, 1, 1] = value
    y, _, _, _, pooled = run(kernels, [x, weight, bias, dy], layout, True)
    for result in (y, pooled):
        assert result[0, 1].isnan().all() and result[0, [0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_repetition_and_the_batch_do_not_change_a_bit(kernels: Kernels, layout: str) -> None:
    inputs = make((2, 8, 33, 32), torch.float32)
    first, second = (run(kernels, inputs, layout, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    x, weight, bias, dy = inputs
    alone = run(kernels, [x[1:], weight, bias, dy[1:]], layout, True)
    assert torch.equal(alone[0], first[0][1:]) and torch.equal(alone[1], first[1][1:])


def test_sizes_that_no_grid_holds_are_refused(kernels: Kernels) -> None:
    nothing, options = torch.empty(0), FeatureNormOptions(EPS, False, False)
    with pytest.raises(RuntimeError, match="needs 2147483648 blocks, expected 1 to 2147483647; call the operator on"):
        kernels("feature_norm_forward", torch.float32, PlaneShape(2**31, 1, 1, 1, 0), options, nothing, None, None,
                nothing, nothing, nothing)  # fmt: skip
