"""LargeKernelConv2d: a drop-in for Conv2d whose kept spectrum is never that of an old weight."""

import copy
import io

import pytest
import torch
from torch import nn

from mffpa_ext.nn import LargeKernelConv2d


def pair(**settings) -> tuple[nn.Conv2d, LargeKernelConv2d]:
    torch.manual_seed(0)
    settings = {"in_channels": 48, "out_channels": 64, "kernel_size": 15, "padding": 7, **settings}
    plain, ours = nn.Conv2d(**settings), LargeKernelConv2d(**settings)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


X = torch.randn(2, 48, 48, 40, generator=torch.Generator().manual_seed(1))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"padding": 0}, {"padding": "same"}, {"padding": "valid"},
                                      {"kernel_size": (9, 13), "padding": (4, 6)}])
def test_outputs_and_gradients(settings: dict) -> None:
    plain, ours = pair(**settings)
    with torch.no_grad():
        close(ours(X), plain(X))
    assert ours._spectrum is not None
    ours.forget_spectrum()
    x, z = X.clone().requires_grad_(), X.clone().requires_grad_()
    expected, actual = plain(x), ours(z)
    assert ours._spectrum is None, "while training, a spectrum is used once and not kept"
    close(actual, expected)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    expected.backward(dy), actual.backward(dy)
    close(z.grad, x.grad)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        close(one.grad, other.grad)


@pytest.mark.parametrize("change", ["optimiser", "in place", "load_state_dict", "new parameter", "dtype"])
def test_a_changed_weight_is_noticed(change: str) -> None:
    plain, ours = pair()
    with torch.no_grad():
        ours(X)
    other = nn.Conv2d(48, 64, 15, padding=7)
    x = X
    if change == "optimiser":
        for module in (plain, ours):
            module(X).sum().backward()
            torch.optim.SGD(module.parameters(), 1e-3).step()
    elif change == "in place":
        with torch.no_grad():
            for module in (plain, ours):
                module.weight[0].zero_()
    elif change == "load_state_dict":
        plain, _ = other, ours.load_state_dict(other.state_dict())
    elif change == "new parameter":
        plain, ours.weight, ours.bias = other, other.weight, other.bias
    elif change == "dtype":
        plain, ours, x = plain.double(), ours.double(), X.double()
    with torch.no_grad():
        close(ours(x), plain(x))


def test_it_is_made_once() -> None:
    _, ours = pair()
    with torch.inference_mode():
        ours(X)
        kept = ours._spectrum.tensor
        ours(X[:1])
        ours(torch.cat([X, X]))
        assert ours._spectrum.tensor is kept, "whatever the batch size"
        ours(X[..., :20])
        assert ours._spectrum.tensor is not kept, "other tiles for another size"


def test_weights_created_in_inference_mode_are_never_kept() -> None:
    """They do not count their changes."""
    with torch.inference_mode():
        plain, ours = pair()
        ours(X)
        for module in (plain, ours):
            module.weight.mul_(2)
        close(ours(X), plain(X))
    assert ours._spectrum is None


def test_copies_and_pickles_leave_the_spectrum_behind() -> None:
    plain, ours = pair()
    with torch.no_grad():
        ours(X)
        twin = copy.deepcopy(ours)
        assert twin._spectrum is None and ours._spectrum is not None
        file = io.BytesIO()
        torch.save(ours, file)
        assert file.tell() < 2 * sum(p.numel() * 4 for p in ours.parameters())
        file.seek(0)
        close(torch.load(file, weights_only=False)(X), plain(X))
    assert set(ours.state_dict()) == {"weight", "bias"}


def test_memory_limit() -> None:
    plain, ours = pair()
    ours.memory_limit = 1000
    with torch.no_grad():
        assert torch.equal(ours(X), plain(X)), "direct"
    assert ours._spectrum is None


def test_compiled_and_exported_it_is_a_convolution() -> None:
    plain, ours = pair()
    ours.requires_grad_(False)
    graph = torch.export.export(ours, (X,)).graph
    assert any("conv2d" in str(node.target) for node in graph.nodes)
    assert torch.equal(torch.compile(ours, fullgraph=True, backend="eager")(X), plain(X))


@pytest.mark.parametrize("name, value", [("stride", 2), ("dilation", 2), ("groups", 2), ("padding_mode", "reflect")])
def test_what_it_cannot_do(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"LargeKernelConv2d: {name} must be .*, got .*{value}"):
        LargeKernelConv2d(32, 48, 15, **{name: value})


def test_same_needs_odd_kernels() -> None:
    with pytest.raises(ValueError, match="padding 'same' needs odd kernels"):
        LargeKernelConv2d(32, 48, 10, padding="same")
