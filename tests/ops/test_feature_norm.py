"""Feature normalisation: the formula of Božič et al.'s code, at ease and at its edges."""

import math

import pytest
import torch
from torch import Tensor

from mffpa_ext import FeatureNorm2d, ops

EPS = 1e-3


def textbook(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = EPS) -> Tensor:
    """As published: torch.std is unbiased, and the root is taken of std + eps."""
    mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
    y = (x - mean) / torch.sqrt(std + eps)
    y = y if weight is None else y * weight[:, None, None]
    return y if bias is None else y + bias[:, None, None]


def sample(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 2
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 1, 2), (3, 4, 1, 9), (1, 2, 64, 33)], ids=str)
def test_formula(shape: tuple[int, ...]) -> None:
    x, weight, bias = sample(*shape, dtype=torch.float64)
    for parameters in ((), (weight,), (None, bias), (weight, bias)):
        torch.testing.assert_close(ops.feature_norm(x, *parameters), textbook(x, *parameters))
    torch.testing.assert_close(ops.feature_norm(x, weight, bias, eps=0.5), textbook(x, weight, bias, eps=0.5))
    narrow = ops.feature_norm(x.float(), weight.float(), bias.float())
    torch.testing.assert_close(narrow, textbook(x, weight, bias).float(), rtol=1e-5, atol=1e-5)


def test_it_divides_by_the_root_of_the_unbiased_deviation() -> None:
    """By hand: 0 and 4 have mean 2 and unbiased deviation sqrt(8); a usual normalisation would give -1 and 1."""
    y = ops.feature_norm(torch.tensor([[[[0.0, 4.0]]]]))
    expected = 2 / math.sqrt(math.sqrt(8) + EPS)
    torch.testing.assert_close(y, torch.tensor([[[[-expected, expected]]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 0.1])
def test_constant_plane_gives_the_bias_and_a_finite_gradient(value: float, dtype: torch.dtype) -> None:
    x = torch.full((1, 2, 4, 4), value, dtype=dtype, requires_grad=True)
    weight, bias = torch.tensor([2.0, 3.0], dtype=dtype), torch.tensor([0.5, -1.0], dtype=dtype)
    y = ops.feature_norm(x, weight, bias)
    torch.testing.assert_close(y, bias[:, None, None].expand_as(y), atol=1e-4, rtol=0)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(dtype))
    assert x.grad.isfinite().all()
    # Near std 0 the layer is linear with slope 1 / sqrt(eps), on the mean-free part.
    assert x.grad.abs().max() > 1


def test_gradient_of_a_constant_plane_is_the_limit_of_small_deviations() -> None:
    dy = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ramp = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    gradients = []
    for deviation in (0.0, 1e-9):
        x = (1 + deviation * ramp).requires_grad_()
        gradients.append(torch.autograd.grad(ops.feature_norm(x), x, dy)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_plane_of_one_element_gives_the_bias() -> None:
    x, weight, bias = sample(3, 4, 1, 1)
    x.requires_grad_()
    y = ops.feature_norm(x, weight, bias)
    assert torch.equal(y, bias[:, None, None].expand_as(y))
    y.square().sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x)), "its mean moves with it"


def test_plane_far_from_zero() -> None:
    """Mean 1e4, deviation 1e-2 in float32: a variance as E[x^2] - E[x]^2 would be off by more than the deviation."""
    generator = torch.Generator().manual_seed(0)
    x = (1e4 + 1e-2 * torch.randn(1, 2, 40, 30, generator=generator, dtype=torch.float64)).float()
    exact = textbook(x.double())
    # What the operator cannot avoid: the mean is rounded to float32, half a unit in the last place of 1e4.
    rounding = 0.5 * (torch.tensor(1e4).nextafter(torch.tensor(torch.inf)).item() - 1e4) / math.sqrt(0.01 + EPS)
    error = (ops.feature_norm(x) - exact).abs().max().item()
    assert error <= 1.05 * rounding
    assert exact.abs().max() > 30 * rounding, "the result is larger than the tolerance"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_half_types_take_their_statistics_in_float32(dtype: torch.dtype) -> None:
    """4096 equal signs: a half sum stops growing long before; the result is rounded once."""
    x, weight, bias = sample(2, 3, 64, 64, dtype=dtype)
    exact = textbook(x.double(), weight.double(), bias.double())
    y = ops.feature_norm(x, weight, bias)
    assert y.dtype == dtype
    # Twice the rounding: 0.5 eps relative for the result itself, the rest for values next to a rounding boundary.
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs().clamp_min(1e-2)).all()


def test_half_input_keeps_parameters_in_float32() -> None:
    """What autocast makes: activations in bfloat16, parameters in float32, gradients in the dtype of each."""
    x, weight, bias = sample(1, 3, 8, 8)
    x, weight, bias = x.bfloat16().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    y = ops.feature_norm(x, weight, bias)
    y.float().square().sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype, bias.grad.dtype) == (torch.bfloat16,) * 2 + (torch.float32,) * 2


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 3, 1, 2)], ids=str)
def test_gradcheck(shape: tuple[int, ...]) -> None:
    inputs = [tensor.requires_grad_() for tensor in sample(*shape, dtype=torch.float64)]
    assert torch.autograd.gradcheck(ops.feature_norm, inputs)


def test_channels_last_gives_the_same() -> None:
    x, weight, bias = sample(2, 5, 6, 7)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ops.feature_norm(last, weight, bias), ops.feature_norm(x, weight, bias))
    crop = x[:, 1:4, ::2, 1:]
    torch.testing.assert_close(ops.feature_norm(crop), ops.feature_norm(crop.contiguous()))


def test_samples_and_channels_are_independent() -> None:
    x, weight, bias = sample(3, 4, 5, 6)
    together = ops.feature_norm(x, weight, bias)
    alone = ops.feature_norm(x[1:2, 2:3], weight[2:3], bias[2:3])
    torch.testing.assert_close(together[1:2, 2:3], alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4, 5),), "x must be 4-D .* got shape \\(3, 4, 5\\)"),
        ((torch.zeros(1, 3, 4, 5), torch.ones(4)), "weight must have shape \\(3,\\), got \\(4,\\)"),
        ((torch.zeros(1, 3, 4, 5), torch.ones(3), torch.ones(1)), "bias must have shape \\(3,\\), got \\(1,\\)"),
        ((torch.zeros(1, 3, 4, 5), None, torch.ones(3, 1, 1)), "bias must have shape \\(3,\\), got \\(3, 1, 1\\)"),
    ],
)
def test_wrong_argument(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^feature_norm: {message}"):
        ops.feature_norm(*arguments)


def test_module() -> None:
    x, weight, bias = sample(2, 3, 6, 5)
    module = FeatureNorm2d(3, eps=0.01)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"weight": (3,), "bias": (3,)}
    torch.testing.assert_close(module(x), textbook(x, eps=0.01))  # starts as weight 1, bias 0
    module.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(module(x), textbook(x, weight, bias, eps=0.01))
    assert torch.equal(module.eval()(x), module.train()(x))


def test_module_without_bias_has_planes_of_mean_zero() -> None:
    x, weight, _ = sample(2, 3, 6, 5)
    module = FeatureNorm2d(3, bias=False)
    assert module.bias is None and set(module.state_dict()) == {"weight"}
    torch.testing.assert_close(module(x).mean((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)
