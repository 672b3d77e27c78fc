"""CoordinateAttention and SqueezeExcitation against their formulas, written in float64 without torch.nn."""

import pytest
import torch
from torch import Tensor, nn

from mffpa_ext import CoordinateAttention
from mffpa_ext.nn import SqueezeExcitation


def conv1x1(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """[batch, in, length] to [batch, out, length]."""
    return torch.einsum("oi,bil->bol", conv.weight[:, :, 0, 0].double(), x) + conv.bias.double()[:, None]


def hard_swish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def gate_by_formula(module: CoordinateAttention, x: Tensor, training: bool) -> Tensor:
    """Hou et al. 2021, eqs. 4-9; BatchNorm over the batch and both directions together."""
    height = x.shape[2]
    means = torch.cat([x.double().mean(3), x.double().mean(2)], dim=2)
    hidden = conv1x1(means, module.conv1)
    if training:
        mean, variance = hidden.mean((0, 2)), hidden.var((0, 2), correction=0)
    else:
        mean, variance = module.bn1.running_mean.double(), module.bn1.running_var.double()
    hidden = (hidden - mean[:, None]) / (variance[:, None] + module.bn1.eps).sqrt()
    hidden = hard_swish(hidden * module.bn1.weight.double()[:, None] + module.bn1.bias.double()[:, None])
    rows = conv1x1(hidden[:, :, :height], module.conv_h).sigmoid()
    columns = conv1x1(hidden[:, :, height:], module.conv_w).sigmoid()
    return rows[:, :, :, None] * columns[:, :, None, :]


def coordinate_attention(channels: int, **options: int) -> CoordinateAttention:
    torch.manual_seed(0)
    module = CoordinateAttention(channels, **options)
    with torch.no_grad():  # weights and statistics as after training, so that no factor is 1 by accident
        for tensor in (module.bn1.weight, module.bn1.bias, module.bn1.running_mean):
            tensor.normal_()
        module.bn1.running_var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (1, 64, 9, 4), (3, 8, 1, 6), (2, 8, 1, 1)], ids=str)
def test_coordinate_attention_formula(shape: tuple[int, ...], training: bool) -> None:
    module = coordinate_attention(shape[1]).train(training)
    x = torch.randn(shape)
    expected = gate_by_formula(module, x, training)
    torch.testing.assert_close(module.gate(x).double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(x).double(), x.double() * expected, rtol=1e-4, atol=1e-5)


def test_coordinate_attention_gradients() -> None:
    module = coordinate_attention(8).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    names, parameters = zip(*module.named_parameters(), strict=True)
    actual = torch.autograd.grad((module(x) * dy).sum(), (x, *parameters))
    expected = torch.autograd.grad((x * gate_by_formula(module, x, training=True) * dy).sum(), (x, *parameters))
    for name, a, e in zip(("x", *names), actual, expected, strict=True):
        torch.testing.assert_close(a, e, msg=name)


def test_coordinate_attention_state_dict_is_the_published_one() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in CoordinateAttention(64).state_dict().items()}
    assert shapes == {
        "conv1.weight": (8, 64, 1, 1), "conv1.bias": (8,),
        "bn1.weight": (8,), "bn1.bias": (8,), "bn1.running_mean": (8,), "bn1.running_var": (8,),
        "bn1.num_batches_tracked": (),
        "conv_h.weight": (64, 8, 1, 1), "conv_h.bias": (64,),
        "conv_w.weight": (64, 8, 1, 1), "conv_w.bias": (64,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"), [(64, 32, 8), (256, 32, 8), (512, 32, 16), (64, 4, 16), (3, 32, 8)]
)
def test_coordinate_attention_hidden_width(channels: int, reduction: int, hidden: int) -> None:
    assert CoordinateAttention(channels, reduction=reduction).conv1.out_channels == hidden


def test_coordinate_attention_gate_of_other_width() -> None:
    module = coordinate_attention(16, out_channels=5).eval()
    x = torch.randn(2, 16, 4, 6)
    torch.testing.assert_close(module.gate(x).double(), gate_by_formula(module, x, False), rtol=1e-4, atol=1e-5)
    assert module.gate(x).shape == (2, 5, 4, 6)


def test_coordinate_attention_tells_rows_from_columns() -> None:
    """A bright row changes the gate of its row in all columns; transposing image and weights transposes the gate."""
    module = coordinate_attention(8).eval()
    mirrored = coordinate_attention(8).eval()
    mirrored.conv_h, mirrored.conv_w = mirrored.conv_w, mirrored.conv_h
    x = torch.randn(1, 8, 5, 7)
    torch.testing.assert_close(mirrored.gate(x.transpose(2, 3)).transpose(2, 3), module.gate(x))
    assert not torch.allclose(module.gate(x.transpose(2, 3)).transpose(2, 3), module.gate(x))


def test_squeeze_excitation_formula() -> None:
    torch.manual_seed(0)
    module, x = SqueezeExcitation(32, reduction=8), torch.randn(3, 32, 4, 5)
    hidden = conv1x1(x.double().mean((2, 3))[:, :, None], module.fc1).clamp_min(0)
    expected = conv1x1(hidden, module.fc2).sigmoid()[..., None]
    torch.testing.assert_close(module.gate(x).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module(x).double(), x.double() * expected, rtol=1e-5, atol=1e-6)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "fc1.weight": (4, 32, 1, 1), "fc1.bias": (4,), "fc2.weight": (32, 4, 1, 1), "fc2.bias": (32,)
    }  # fmt: skip


def test_squeeze_excitation_refuses_fewer_channels_than_its_reduction() -> None:
    assert SqueezeExcitation(16).fc1.out_channels == 1
    with pytest.raises(ValueError, match="at least reduction=16 channels, got 15"):
        SqueezeExcitation(15)


def test_replaced_layers_are_used() -> None:
    """The fused operator knows the published layers alone."""
    x = torch.randn(2, 16, 7, 5, generator=torch.Generator().manual_seed(0))
    changes = {
        "act": torch.nn.ReLU(),
        "bn1": torch.nn.BatchNorm2d(8, affine=False),
        "conv_h": torch.nn.Conv2d(8, 16, 1, bias=False),
    }
    for name, layer in changes.items():
        module = CoordinateAttention(16).eval()
        setattr(module, name, layer.eval())
        expected = module(x).detach()
        with torch.no_grad():
            torch.testing.assert_close(module(x), expected)
    module = CoordinateAttention(16).eval()
    module.bn1 = torch.nn.BatchNorm2d(8, track_running_stats=False).eval()
    expected = module(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
