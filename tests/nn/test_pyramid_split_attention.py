"""PyramidSplitAttention against its formula, and the order in which it calls the shared attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mffpa_ext import PyramidSplitAttention

EPSANET = dict(groups=(1, 4, 8, 16), attention="se", branch_order="reversed")


def by_formula(module: PyramidSplitAttention, x: Tensor, order: tuple[int, ...]) -> Tensor:
    """Branch s: F_s = conv_s(x); weights exp(Z_s) / sum_t exp(Z_t) with Z the shared attention; concatenated."""
    features = [F.conv2d(x, c.weight, None, c.stride, c.kernel_size[0] // 2, 1, c.groups) for c in module.branches]
    powers = [module.attention.gate(feature).exp() for feature in features]
    total = sum(powers)
    return torch.cat([features[s] * (powers[s] / total) for s in order], dim=1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("attention", ["coordinate", "se"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [(1, 1, 1, 1), (1, 4, 8, 16)], ids=str)
def test_formula(training: bool, attention: str, stride: int, groups: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = PyramidSplitAttention(64, groups=groups, stride=stride, attention=attention).train(training)
    x = torch.randn(2, 64, 7, 10)
    y = module(x)
    assert y.shape == (2, 64, -(-7 // stride), -(-10 // stride))
    torch.testing.assert_close(y, by_formula(module, x, (0, 1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_reversed_branch_order() -> None:
    """EPSANet's code concatenates the branches from the largest kernel to the smallest."""
    torch.manual_seed(0)
    module, x = PyramidSplitAttention(64, **EPSANET), torch.randn(1, 64, 5, 6)
    y = module(x)
    torch.testing.assert_close(y, by_formula(module, x, (3, 2, 1, 0)), rtol=1e-5, atol=1e-6)
    module.branch_order = "kernel"  # the same but for the order in which the softmax adds up
    torch.testing.assert_close(torch.cat(module(x).chunk(4, 1)[::-1], 1), y)


def test_weights_of_the_branches_add_up_to_one() -> None:
    """Equal branches share equally, whatever the attention says: every output branch is a quarter of the feature."""
    torch.manual_seed(0)
    module = PyramidSplitAttention(32, kernel_sizes=(3, 3, 3, 3)).eval()
    for branch in module.branches:
        branch.weight = module.branches[0].weight
    x = torch.randn(1, 32, 4, 4)
    quarter = module.branches[0](x) / 4
    torch.testing.assert_close(module(x), quarter.repeat(1, 4, 1, 1))


def test_other_widths_and_kernels() -> None:
    module = PyramidSplitAttention(24, 48, kernel_sizes=(1, 5, 11), groups=(1, 2, 4))
    assert [branch.kernel_size for branch in module.branches] == [(1, 1), (5, 5), (11, 11)]
    assert module(torch.randn(2, 24, 6, 3)).shape == (2, 48, 6, 3)


def test_batch_norm_runs_once_per_branch_in_kernel_order() -> None:
    """The running statistics depend on the order: with momentum 1 those of the last branch remain."""
    torch.manual_seed(0)
    module, x = PyramidSplitAttention(64).train(), torch.randn(2, 64, 6, 5)
    norm = module.attention.bn1
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    norm.momentum = 1.0
    module(x)
    assert norm.num_batches_tracked == 4
    for branch, hidden in zip(module.branches, seen, strict=True):
        feature = branch(x)
        means = torch.cat([feature.mean(3), feature.mean(2)], dim=2)[..., None]
        torch.testing.assert_close(hidden, module.attention.conv1(means))
    torch.testing.assert_close(norm.running_mean, seen[-1].mean((0, 2, 3)))


def test_every_parameter_gets_a_gradient_from_every_branch() -> None:
    torch.manual_seed(0)
    module = PyramidSplitAttention(32)
    for branch in module(torch.randn(2, 32, 5, 4)).chunk(4, dim=1):
        module.zero_grad()
        branch.square().sum().backward(retain_graph=True)
        # Through the softmax each branch's output depends on all convolutions and on the shared attention.
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_mffpa_pyramid_has_the_published_size() -> None:
    """Four ungrouped convolutions 256 -> 64 with kernels 3, 5, 7, 9, and one coordinate attention of 64 channels."""
    attention = (64 * 8 + 8) + 2 * 8 + 2 * (8 * 64 + 64)
    module = PyramidSplitAttention(256)
    assert sum(p.numel() for p in module.parameters()) == 256 * 64 * (9 + 25 + 49 + 81) + attention


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(groups=(1, 1)), "4 kernel_sizes but 2 groups"),
        (dict(out_channels=30), "out_channels 30 must divide by 4 branches"),
        (dict(kernel_sizes=(3, 4, 5, 7)), "kernel_sizes must be odd, got \\(3, 4, 5, 7\\)"),
        (dict(attention="cbam"), "attention must be one of \\['coordinate', 'se'\\], got 'cbam'"),
        (dict(branch_order="random"), "branch_order must be one of .* got 'random'"),
    ],
)
def test_wrong_argument(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"PyramidSplitAttention: {message}"):
        PyramidSplitAttention(64, **arguments)
