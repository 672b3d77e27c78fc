"""The attentions' fused path at inference equals the layers' path, and is left where the layers have to run."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mffpa_ext import CoordinateAttention, PyramidSplitAttention, ops

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every call of the fused operator."""
    calls, operator = [], ops.pyramid_coordinate_attention

    def counting(*arguments: object) -> Tensor:
        calls.append(None)
        return operator(*arguments)

    monkeypatch.setattr(ops, "pyramid_coordinate_attention", counting)
    return calls


def trained(module: nn.Module) -> nn.Module:
    """Running statistics as after training, so that BatchNorm is not the identity by accident."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return module


MODULES = {
    "alone": lambda: CoordinateAttention(16),
    "pyramid": lambda: PyramidSplitAttention(16),
    "reversed pyramid": lambda: PyramidSplitAttention(16, branch_order="reversed"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", MODULES)
def test_inference_equals_the_layers(kind: str, layout: str, fused_calls: list[None]) -> None:
    torch.manual_seed(0)
    module = trained(MODULES[kind]()).eval()
    x = torch.randn(2, 16, 9, 7).contiguous(memory_format=LAYOUTS[layout])
    expected = module(x)
    assert not fused_calls
    with torch.no_grad():
        y = module(x)
    assert len(fused_calls) == 1
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    assert y.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_modules_of_other_dtypes(dtype: torch.dtype, fused_calls: list[None]) -> None:
    torch.manual_seed(0)
    module, x = trained(PyramidSplitAttention(16)).eval(), torch.randn(1, 16, 6, 5)
    with torch.no_grad():
        expected, y = module(x), copy.deepcopy(module).to(dtype)(x.to(dtype))
    assert y.dtype == dtype and len(fused_calls) == 2
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=1e-5 if dtype == torch.float64 else 0.03)


def test_statistics_are_kept_in_training_without_gradients(fused_calls: list[None]) -> None:
    module = PyramidSplitAttention(16).train()
    with torch.no_grad():
        module(torch.randn(2, 16, 5, 6))
    assert module.attention.bn1.num_batches_tracked == 4 and not fused_calls


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("layer", ["conv1", "bn1", "act", "conv_h", "conv_w"])
def test_hooks_on_layers_are_called(layer: str, register: str, fused_calls: list[None]) -> None:
    module, seen = PyramidSplitAttention(16).eval(), []
    handle = getattr(getattr(module.attention, layer), register)(lambda *arguments: seen.append(layer))
    with torch.no_grad():
        module(torch.randn(1, 16, 4, 5))
        assert len(seen) == 4 and not fused_calls
        handle.remove()
        module(torch.randn(1, 16, 4, 5))
    assert len(seen) == 4 and len(fused_calls) == 1


def test_a_gradient_of_the_input_alone(fused_calls: list[None]) -> None:
    torch.manual_seed(0)
    module = trained(PyramidSplitAttention(16)).eval().requires_grad_(False)
    x = torch.randn(1, 16, 4, 5, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and not fused_calls
    module(x.detach())
    assert len(fused_calls) == 1, "nothing asks for a gradient"


@pytest.mark.parametrize("attention", ["coordinate", "se"])
def test_reversed_order_keeps_batch_norm_in_kernel_order(attention: str) -> None:
    """The gradients and running statistics are those of the kernel order; only the output is turned around."""
    torch.manual_seed(0)
    kernel = PyramidSplitAttention(64, attention=attention).double().train()
    turned = copy.deepcopy(kernel)
    turned.branch_order = "reversed"
    x = torch.randn(2, 64, 5, 6, dtype=torch.float64)
    y, mirrored = kernel(x), turned(x)
    torch.testing.assert_close(torch.cat(mirrored.chunk(4, 1)[::-1], 1), y)
    y.square().sum().backward(), mirrored.square().sum().backward()
    for (name, ours), theirs in zip(kernel.named_parameters(), turned.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, ours), theirs in zip(kernel.named_buffers(), turned.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("attention", ["coordinate", "se"])
def test_autocast(attention: str, training: bool) -> None:
    torch.manual_seed(0)
    module, x = trained(PyramidSplitAttention(64, attention=attention)).train(training), torch.randn(2, 64, 6, 5)
    expected = copy.deepcopy(module)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.05)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())
