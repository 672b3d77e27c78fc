"""The Predictor: what it computes, what it accepts, and that it is a snapshot."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from mffpa_ext import Predictor, UserError
from mffpa_ext.models import VARIANTS, DefectNetwork, create_model
from mffpa_ext.nn import CoordinateAttention, LargeKernelConv2d
from mffpa_ext.training.checkpoint import model_facts, save_checkpoint


def network(name: str = "mffpa", channels: int = 1, seed: int = 1) -> DefectNetwork:
    torch.manual_seed(seed)
    return create_model(name, channels)


def images(batch: int = 3, channels: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


def eager(model: DefectNetwork, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The network as it is, in float64."""
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(batch.double() / 255)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = network()
    state = {
        "config": {"seed": 0, "precision": "fp32"}, "notes": [], "epoch": 1, "best": {"epoch": 1}, "threshold": 0.25,
        "preprocessing": {"channels": 1, "height": 64, "width": 96, "scale": 1 / 255},
        "model_facts": model_facts(model), "model": model.state_dict(),
    }
    save_checkpoint(tmp_path / "best.pt", state)
    return tmp_path / "best.pt"


@pytest.mark.parametrize("name", VARIANTS)
def test_predictions_are_the_networks(name: str) -> None:
    model, batch = network(name), images(channels=1)
    decision, mask = eager(model, batch)
    prediction = Predictor(model, device="cpu")(batch)
    assert prediction.logit.shape == (3,) and prediction.mask_logits.shape == (3, 8, 12)
    torch.testing.assert_close(prediction.logit.double(), decision[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.mask_logits.double(), mask[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prediction.score, prediction.logit.double().sigmoid(), rtol=0, atol=0)
    assert torch.equal(prediction.mask_score, prediction.mask_logits.flatten(1).amax(1).double().sigmoid())
    assert torch.equal(prediction.mask, prediction.mask_logits.sigmoid())


def test_large_kernels_run_in_the_frequency_domain() -> None:
    """At a size where that is faster: otherwise the tests above would compare direct convolutions."""
    predictor, batch = Predictor(network(), device="cpu"), images(1, height=320, width=128)
    prediction = predictor(batch)
    large = [module for module in predictor.model.modules() if isinstance(module, LargeKernelConv2d)]
    assert any(module._spectra is not None for module in large)
    decision, mask = eager(network(), batch)
    assert abs(prediction.logit.double() / decision[:, 0] - 1) < 1e-4
    torch.testing.assert_close(prediction.mask_logits.double(), mask[:, 0], rtol=1e-4, atol=1e-4)
    bounded = Predictor(network(), device="cpu", memory_limit=1000)
    bounded(batch)
    assert all(module._spectra is None for module in bounded.model.modules() if isinstance(module, LargeKernelConv2d))


@pytest.mark.parametrize("precision, tolerance", [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_close(precision: str, tolerance: float) -> None:
    model, batch = network(), images()
    exact, low = (Predictor(model, p, "cpu")(batch) for p in ("fp32", precision))
    assert (exact.score - low.score).abs().max() < tolerance
    assert not torch.equal(exact.logit, low.logit)
    assert low.logit.dtype == low.mask_logits.dtype == torch.float32


def test_coordinate_attention_stays_in_float32() -> None:
    """Its operator computes in float32: it must not have to convert its parameters, in one piece or layer by layer."""
    predictor, batch = Predictor(network(), "bf16", "cpu"), images()
    attention = next(m for m in predictor.model.modules() if isinstance(m, CoordinateAttention))
    assert {parameter.dtype for parameter in attention.parameters()} == {torch.float32}
    fused = predictor(batch)
    attention.conv1.register_forward_hook(lambda *arguments: None)
    torch.testing.assert_close(predictor(batch).logit, fused.logit, rtol=0, atol=0.1)


def test_one_image_is_a_batch_of_one_without_its_dimension() -> None:
    predictor, batch = Predictor(network(), device="cpu"), images()
    one, all_of_them = predictor(batch[1]), predictor(batch)
    assert one.logit.shape == () and one.mask.shape == (8, 12) and one.mask_score.shape == ()
    torch.testing.assert_close(one.logit, all_of_them.logit[1], rtol=1e-5, atol=1e-6)


def test_pixels_may_be_bytes_or_numbers_in_any_layout() -> None:
    predictor, batch = Predictor(network(channels=3), device="cpu"), images(channels=3)
    expected = predictor(batch).logit
    for same in (batch.float() / 255, batch.double() / 255, batch.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(predictor(same).logit, expected)


def test_autocast_around_it_changes_nothing() -> None:
    predictor, batch = Predictor(network(), device="cpu"), images()
    expected = predictor(batch).logit
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(predictor(batch).logit, expected)


def test_half_networks_can_be_run_in_float32() -> None:
    predictor = Predictor(network().bfloat16(), "fp32", "cpu")
    assert all(parameter.dtype == torch.float32 for parameter in predictor.model.parameters())


def test_it_is_a_snapshot() -> None:
    model, batch = network(), images()
    model.train()
    predictor = Predictor(model, device="cpu")
    before = predictor(batch).logit
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(predictor(batch).logit, before)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in predictor.model.parameters())


def test_large_logits_do_not_tie() -> None:
    class Sure(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 20 + 10 * x.mean(dim=(1, 2, 3))[:, None], x[:, :, ::8, ::8]

    score = Predictor(Sure(), device="cpu")(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])).score
    assert score[0] < score[1] < 1


def test_of_a_checkpoint(checkpoint: Path) -> None:
    predictor = Predictor(checkpoint, device="cpu")
    assert predictor.threshold == 0.25 and predictor.preprocessing.image_size == (64, 96)
    assert torch.equal(predictor(images()).logit, Predictor(network(), device="cpu")(images()).logit)
    plain = Predictor(network(), device="cpu")
    assert plain.threshold is None and plain.preprocessing is None


def test_reading_an_image_file(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = images(1, 3, 128, 192)[0]
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "part.png")
    pixels = Predictor(checkpoint, device="cpu").preprocessing.read(tmp_path / "part.png")
    assert pixels.shape == (1, 64, 96) and pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    "batch, message",
    [
        (torch.zeros(8, 8), r"\[batch, channels, height, width\].*got shape \(8, 8\)"),
        (torch.zeros(1, 1, 64, 64, dtype=torch.int64), "uint8, or floating point in 0..1, got torch.int64"),
        (torch.full((1, 1, 64, 64), 255.0), "must be in 0..1, got 255 to 255"),
        (np.zeros((1, 64, 64), np.uint8), "must be a tensor .*got ndarray"),
        (torch.zeros(1, 3, 64, 64), r"must be \[batch, 1, height, width\], got \(1, 3, 64, 64\)"),
        (torch.zeros(1, 1, 60, 64), "multiples of 8 and at least 16, got 60x64"),
    ],
)
def test_wrong_images(batch: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(network(), device="cpu")(batch)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision must be one of .*'fp32'.*, got 'int8'"):
        Predictor(network(), "int8", "cpu")
    with pytest.raises(UserError, match="none.pt: expected a checkpoint"):
        Predictor(tmp_path / "none.pt")
    with pytest.raises(UserError, match="--device quantum"):
        Predictor(network(), device="quantum")
    with pytest.raises(TypeError, match="a checkpoint file or a network, got OrderedDict"):
        Predictor(network().state_dict())
