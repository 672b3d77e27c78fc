"""LargeKernelConv2d: a drop-in for Conv2d whose kept spectrum is never that of an old weight."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

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


def kept_of(module: LargeKernelConv2d) -> torch.Tensor:
    return list(module._spectra.of_tile.values())[-1]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"padding": 0}, {"padding": "same"}, {"padding": "valid"},
                                      {"kernel_size": (9, 13), "padding": (4, 6)}])
def test_outputs_and_gradients(settings: dict) -> None:
    plain, ours = pair(**settings)
    with torch.no_grad():
        close(ours(X), plain(X))
    assert ours._spectra is not None
    ours.forget_spectrum()
    x, z = X.clone().requires_grad_(), X.clone().requires_grad_()
    expected, actual = plain(x), ours(z)
    assert ours._spectra is None, "while training, a spectrum is used once and not kept"
    close(actual, expected)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    expected.backward(dy), actual.backward(dy)
    close(z.grad, x.grad)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        close(one.grad, other.grad)


@pytest.mark.parametrize("change", ["optimiser", "fused optimiser", "in place", "data", "load_state_dict", "new parameter", "dtype"])
def test_a_changed_weight_is_noticed(change: str) -> None:
    plain, ours = pair()
    with torch.no_grad():
        ours(X)
    other = nn.Conv2d(48, 64, 15, padding=7)
    x = X
    if "optimiser" in change:
        for module in (plain, ours):
            module(X).sum().backward()
        with torch.no_grad():
            ours(X)  # between the gradient and the step
        for module in (plain, ours):  # fused, it does not count in the weight's version
            torch.optim.SGD(module.parameters(), 1e-3, fused=change.startswith("fused")).step()
    elif change == "data":
        for module in (plain, ours):
            module.weight.data[0] = 0
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


@torch.no_grad()
def test_a_frozen_weight_that_changes_is_noticed() -> None:
    plain, ours = pair()
    for module in (plain, ours):
        module.requires_grad_(False)
    close(ours(X), plain(X))
    for module in (plain, ours):
        module.weight[0] = 0
    close(ours(X), plain(X))
    for seed in range(3):  # a new parameter may lie where the old one lay
        torch.manual_seed(seed)
        ours.weight = None
        ours.weight = nn.Parameter(torch.randn(plain.weight.shape), requires_grad=False)
        plain.weight = ours.weight
        close(ours(X), plain(X))


@torch.no_grad()
def test_weights_that_are_computed_are_not_kept() -> None:
    plain, ours = pair()
    for seed in range(3):
        weight = torch.randn(plain.weight.shape, generator=torch.Generator().manual_seed(seed))
        values = {"weight": weight, "bias": plain.bias}
        close(torch.func.functional_call(ours, values, X), torch.func.functional_call(plain, values, X))
    for module in (plain, ours):
        nn.utils.parametrizations.weight_norm(module)
    for factor in (1, 2):
        for module in (plain, ours):
            module.parametrizations.weight.original0.mul_(factor)
        close(ours(X), plain(X))


def test_transforms_of_functions_see_a_direct_convolution() -> None:
    plain, ours = pair()
    ours.requires_grad_(False), plain.requires_grad_(False)
    for one, other in zip(torch.func.jvp(ours, (X,), (X,)), torch.func.jvp(plain, (X,), (X,)), strict=True):
        close(one, other)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, X)
        assert torch.autograd.forward_ad.unpack_dual(ours(dual)).tangent is not None
    close(torch.vmap(ours)(X[:, None])[:, 0], plain(X))
    close(torch.func.grad(lambda x: ours(x).sum())(X), torch.func.grad(lambda x: plain(x).sum())(X))


def test_threads_with_different_images() -> None:
    plain, ours = pair()
    ours.requires_grad_(False)
    images = [X, X[..., :20].contiguous()]
    expected = [plain(image).detach() for image in images]

    def work(index: int) -> None:
        for _ in range(10):
            close(ours(images[index]), expected[index])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, [0, 1]))


def test_unbatched_images() -> None:
    plain, ours = pair()
    with torch.no_grad():
        close(ours(X[0]), plain(X[0]))


def test_it_is_made_once() -> None:
    _, ours = pair()
    with torch.inference_mode():
        ours(X)
        kept = kept_of(ours)
        ours(X[:1])
        ours(torch.cat([X, X]))
        assert kept_of(ours) is kept, "whatever the batch size"
        ours(X[..., :20])
        assert kept_of(ours) is not kept, "other tiles for another size"
        ours(X)
        assert kept_of(ours) is kept, "both are kept"
        ours.memory_limit = kept.nbytes
        ours(X)
        assert list(ours._spectra.of_tile.values()) == [kept], "as many as there is room for, the latest"


def test_weights_created_in_inference_mode_are_never_kept() -> None:
    """They do not count their changes."""
    with torch.inference_mode():
        plain, ours = pair()
        ours(X)
        for module in (plain, ours):
            module.weight.mul_(2)
        close(ours(X), plain(X))
    assert ours._spectra is None


def test_copies_and_pickles_leave_the_spectrum_behind() -> None:
    plain, ours = pair()
    with torch.no_grad():
        ours(X)
        twin = copy.deepcopy(ours)
        assert twin._spectra is None and ours._spectra is not None
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
    assert ours._spectra is None


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
