"""The four networks: shapes, sizes that they accept, initialisation, and what the paper's structure implies."""

import pytest
import torch
from torch import nn

from mffpa_ext import models
from mffpa_ext.models import create_model
from mffpa_ext.nn import CoordinateAttention, FeatureNorm2d, OutlookAttention, PyramidSplitAttention, SqueezeExcitation

NAMES = tuple(models.VARIANTS)
MIN_SIZES = {"baseline": 64, "mff": 64, "pa": 16, "mffpa": 16}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_output_shapes(name: str, in_channels: int) -> None:
    model = create_model(name, in_channels)
    with torch.no_grad():
        decision, mask = model(images(2, in_channels, 64, 72))
    assert decision.shape == (2, 1) and mask.shape == (2, 1, 8, 9)
    assert decision.isfinite().all() and mask.isfinite().all()


@pytest.mark.parametrize("attention", ["ca", "se"])
@pytest.mark.parametrize("name", ["pa", "mffpa"])
def test_attention_of_the_pyramid(name: str, attention: str) -> None:
    model = create_model(name, attention=attention)
    kind = {"ca": CoordinateAttention, "se": SqueezeExcitation}[attention]
    (pyramid,) = [module for module in model.modules() if isinstance(module, PyramidSplitAttention)]
    assert isinstance(pyramid.attention, kind) and model.attention == attention
    with torch.no_grad():
        decision, _ = model(images(1, 3, 32, 16))
    assert decision.shape == (1, 1) and decision.isfinite().all()


@pytest.mark.parametrize("name", ["baseline", "mff"])
def test_variants_without_a_pyramid_have_no_attention(name: str) -> None:
    assert create_model(name, attention="se").attention is None


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_each_variant(name: str) -> None:
    model = create_model(name)
    kinds = {type(module) for module in model.modules()}
    assert (OutlookAttention in kinds) == (name in ("mff", "mffpa"))
    assert (PyramidSplitAttention in kinds) == (name in ("pa", "mffpa"))
    largest = max(module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv2d))
    assert largest == 15


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_smallest_input(name: str, training: bool) -> None:
    model = create_model(name).train(training)
    smallest = MIN_SIZES[name]
    assert model.min_size == smallest
    decision, mask = model(images(1, 3, smallest, smallest))
    assert decision.isfinite().all() and mask.shape[2:] == (smallest // 8, smallest // 8)
    (decision.sum() + mask.square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for height, width in ((smallest - 8, smallest), (smallest, smallest - 8)):
        with pytest.raises(ValueError, match=f"at least {smallest}, got {height}x{width}"):
            model(images(1, 3, height, width))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 68, 64), "multiples of 8 .* got 68x64"),
        ((1, 3, 64, 65), "multiples of 8 .* got 64x65"),
        ((1, 1, 64, 64), "input must be \\[batch, 3, height, width\\], got \\(1, 1, 64, 64\\)"),
        ((3, 64, 64), "input must be \\[batch, 3, height, width\\], got \\(3, 64, 64\\)"),
    ],
)
def test_wrong_input(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^mffpa: .*{message}"):
        create_model("mffpa")(images(*shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="resnet"), "name must be one of \\['baseline', 'mff', 'pa', 'mffpa'\\], got 'resnet'"),
        (dict(attention="coordinate"), "attention must be one of \\['ca', 'se'\\], got 'coordinate'"),
        (dict(in_channels=0), "in_channels must be at least 1, got 0"),
    ],
)
def test_wrong_construction(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"create_model: {message}"):
        create_model(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_construction_follows_the_seed(name: str) -> None:
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(create_model(name).state_dict())
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert any(not torch.equal(tensor, states[2][key]) for key, tensor in states[0].items())


def test_convolution_blocks_start_xavier_normal_and_neutral() -> None:
    model = create_model("mffpa")
    conv = model.segmentation.large_kernel[0]
    deviation = (2 / ((128 + 256) * 15 * 15)) ** 0.5
    assert conv.bias is None
    assert conv.weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert conv.weight.abs().max() > 4 * deviation, "normal and not uniform"
    for norm in (module for module in model.modules() if isinstance(module, FeatureNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias is None or not norm.bias.any())


@pytest.mark.parametrize("name", NAMES)
def test_mask_logits_have_mean_zero(name: str) -> None:
    """The last normalisation has no bias, so the mean over the image carries nothing."""
    _, mask = create_model(name)(images(2, 3, 64, 96))
    assert mask.abs().max() > 0.1
    torch.testing.assert_close(mask.mean((2, 3)), torch.zeros(2, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_are_independent_in_evaluation(name: str) -> None:
    model, x = create_model(name).eval(), images(3, 3, 64, 64)
    with torch.no_grad():
        decision, mask = model(x)
        decision_alone, mask_alone = model(x[1:2])
    torch.testing.assert_close(decision[1:2], decision_alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mask[1:2], mask_alone, rtol=1e-4, atol=1e-4)


def test_decision_sees_the_largest_mask_logit() -> None:
    """Features 65 and 66 of 66 are maximum and mean of the mask logits."""
    model, x = create_model("mffpa").eval(), images(1, 3, 32, 32)
    with torch.no_grad():
        model.decision.weight.zero_()
        model.decision.weight[0, 64] = 1
        model.decision.bias.fill_(2)
        decision, mask = model(x)
        assert decision.item() == pytest.approx(mask.max().item() + 2)
        model.decision.weight[0, 64], model.decision.weight[0, 65] = 0, 1
        assert model(x)[0].item() == pytest.approx(2, abs=1e-6)
