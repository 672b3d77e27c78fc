"""OutlookAttention as a drop-in for VOLO's module: state dict, outputs, every gradient, dropout."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mffpa_ext import OutlookAttention


class PaperOutlookAttention(nn.Module):
    """Written from the paper (Yuan et al. 2021, Algorithm 1): linear, unfold, softmax, matmul, fold."""

    def __init__(self, dim: int, num_heads: int, kernel_size: int = 3, padding: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.num_heads, self.kernel_size, self.padding, self.stride = num_heads, kernel_size, padding, stride
        self.v = nn.Linear(dim, dim, bias=False)
        self.attn = nn.Linear(dim, num_heads * kernel_size**4)
        self.proj = nn.Linear(dim, dim)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        grid_height, grid_width = -(-height // self.stride), -(-width // self.stride)
        windows, elements = grid_height * grid_width, self.kernel_size**2
        geometry = dict(kernel_size=self.kernel_size, padding=self.padding, stride=self.stride)
        v = F.unfold(self.v(x).permute(0, 3, 1, 2), **geometry)
        v = v.reshape(batch, self.num_heads, dim // self.num_heads, elements, windows).permute(0, 1, 4, 3, 2)
        a = self.attn(self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        a = a.reshape(batch, windows, self.num_heads, elements, elements).permute(0, 2, 1, 3, 4)
        a = (a * (dim // self.num_heads) ** -0.5).softmax(-1)
        y = (a @ v).permute(0, 1, 4, 3, 2).reshape(batch, dim * elements, windows)
        return self.proj(F.fold(y, (height, width), **geometry).permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("size", "heads", "kernel_size", "stride"),
    [
        ((7, 9), 4, 3, 1),
        ((8, 8), 2, 3, 2),
        ((7, 9), 4, 3, 2),
        ((6, 11), 1, 5, 1),
        ((9, 6), 2, 5, 2),
        ((7, 8), 2, 3, 3),
        ((1, 1), 2, 3, 1),
        ((1, 1), 2, 3, 2),
        ((1, 1), 1, 5, 2),
        ((1, 7), 2, 5, 1),
    ],
    ids=str,
)
def test_drop_in(size: tuple[int, int], heads: int, kernel_size: int, stride: int) -> None:
    torch.manual_seed(0)
    published = PaperOutlookAttention(24, heads, kernel_size, kernel_size // 2, stride)
    module = OutlookAttention(24, heads, kernel_size, kernel_size // 2, stride)
    module.load_state_dict(published.state_dict(), strict=True)
    x, dy = torch.randn(2, *size, 24), torch.randn(2, *size, 24)
    results = {}
    for name, net in (("published", published), ("ours", module)):
        seen = x.clone().requires_grad_()
        y = net(seen)
        y.backward(dy)
        gradients = {key: parameter.grad for key, parameter in net.named_parameters()}
        results[name] = {"output": y.detach(), "input": seen.grad, **gradients}
    assert results["ours"].keys() == results["published"].keys()
    for key, expected in results["published"].items():
        largest = expected.abs().max().item()
        torch.testing.assert_close(results["ours"][key], expected, rtol=1e-5, atol=1e-5 * max(1, largest), msg=key)


def test_options_of_the_published_module() -> None:
    module = OutlookAttention(16, 2, qkv_bias=True, qk_scale=0.3, proj_drop=0.5)
    assert set(module.state_dict()) == {"v.weight", "v.bias", "attn.weight", "attn.bias", "proj.weight", "proj.bias"}
    assert module.scale == 0.3 and module.proj_drop.p == 0.5
    assert OutlookAttention(16, 4).scale == 0.5  # (16 / 4) ** -0.5


def test_qk_scale_is_used() -> None:
    torch.manual_seed(0)
    module, x = OutlookAttention(8, 2, qk_scale=0.0), torch.randn(1, 5, 5, 8)
    # Scale 0: every window is its mean. Around the centre 9 windows cover all pixels: sum of 9 means of 9 pixels.
    means = F.avg_pool2d(module.v(x).permute(0, 3, 1, 2), 3, 1)
    torch.testing.assert_close(module(x)[0, 2, 2], module.proj(means.sum((2, 3)))[0])


def identity_projection(**options: float) -> OutlookAttention:
    """Values pass through `proj` unchanged, and the logits are those of the bias alone."""
    torch.manual_seed(0)
    module = OutlookAttention(4, 1, **options)
    with torch.no_grad():
        module.v.weight.copy_(torch.eye(4))
        module.proj.weight.copy_(torch.eye(4)), module.proj.bias.zero_()
        module.attn.weight.zero_(), module.attn.bias.normal_()
    return module


def test_attention_dropout_drops_weights_and_keeps_the_expectation() -> None:
    module = identity_projection(attn_drop=0.4)
    x = torch.ones(400, 5, 5, 4)
    expected = module.eval()(x[:1])
    y = module.train()(x)
    # The same mask for the channels of a head, another for every image.
    assert torch.equal(y, y[..., :1].expand_as(y))
    assert y[:, 2, 2, 0].unique().numel() > 390
    # One weight w of variance w^2 p/(1-p); 81 of them add up to 9, so the mean of 400 strays by far less than this.
    torch.testing.assert_close(y.mean(0, keepdim=True), expected, rtol=0.05, atol=0)


def test_attention_dropout_makes_zeros_at_its_rate_and_scales_the_rest() -> None:
    """K = 1: one weight of 1 per pixel and head, so the output shows the mask itself."""
    torch.manual_seed(0)
    module = OutlookAttention(2, 2, kernel_size=1, padding=0, attn_drop=0.25)
    with torch.no_grad():
        module.v.weight.copy_(torch.eye(2))
        module.proj.weight.copy_(torch.eye(2)), module.proj.bias.zero_()
    y = module(torch.ones(1, 60, 60, 2))
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.75))
    assert kept.float().mean((0, 1, 2)).tolist() == pytest.approx([0.75, 0.75], abs=0.04)  # 5 standard deviations
    assert (kept[..., 0] != kept[..., 1]).any(), "heads drop independently"


def test_attention_dropout_reaches_the_gradients() -> None:
    module = identity_projection(attn_drop=0.4)
    x = torch.randn(2, 4, 4, 4, requires_grad=True)
    torch.manual_seed(3)
    expected = module(x.detach())
    torch.manual_seed(3)
    y = module(x)
    assert torch.equal(y, expected), "the mask follows torch's generator"
    (gradient,) = torch.autograd.grad(y.sum(), x)
    # The output is linear in the values, which are x itself: <gradient of sum, x> is the sum.
    torch.testing.assert_close((gradient * x).sum(), y.sum(), rtol=1e-4, atol=1e-4)


def test_no_dropout_in_evaluation_or_at_zero() -> None:
    module = identity_projection(attn_drop=0.4)
    x = torch.randn(1, 4, 5, 4)
    without = identity_projection(attn_drop=0.0)
    assert torch.equal(module.eval()(x), without.eval()(x))
    assert torch.equal(without.train()(x), without.eval()(x))
    assert not identity_projection(attn_drop=1.0).train()(x).any()


def test_projection_dropout() -> None:
    module = identity_projection(proj_drop=0.5)
    x = torch.rand(1, 20, 20, 4) + 1
    assert (module.train()(x) == 0).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert (module.eval()(x) != 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_other_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, x = OutlookAttention(16, 2, stride=2), torch.randn(1, 6, 7, 16)
    y = copy.deepcopy(module).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), module(x), rtol=0, atol=1e-5 if dtype == torch.float64 else 0.05)


def test_autocast() -> None:
    torch.manual_seed(0)
    module, x = OutlookAttention(16, 2, stride=2, attn_drop=0.1), torch.randn(1, 6, 7, 16)
    expected = module.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
        module.train()(x).float().sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.05)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())
