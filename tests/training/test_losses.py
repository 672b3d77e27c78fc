"""The loss of Eq. 4 against values worked out by hand."""

import math

import pytest
import torch

from mffpa_ext.training.losses import LossTerms, LossWeights, loss_terms, loss_weights


def batch(labels: list[float], segmented: list[bool], target: float = 0.0, weight: float = 1.0) -> dict:
    shape = (len(labels), 1, 2, 2)
    return {
        "target": torch.full(shape, target),
        "weight": torch.full(shape, weight),
        "label": torch.tensor(labels),
        "segmented": torch.tensor(segmented),
    }


@pytest.mark.parametrize(
    "epoch, segmentation, classification",
    [(0, 1.0, 0.0), (1, 0.75, 0.25 * 0.1), (2, 0.5, 0.5 * 0.1), (3, 0.25, 0.75 * 0.1)],
)
def test_dynamic_weights_move_from_segmentation_to_classification(
    epoch: int, segmentation: float, classification: float
) -> None:
    weights = loss_weights("dynamic", 0.1, epoch, 4)
    assert weights.segmentation == pytest.approx(segmentation)
    assert weights.classification == pytest.approx(classification)


@pytest.mark.parametrize("epoch", [0, 3])
def test_constant_weights_are_one_and_theta(epoch: int) -> None:
    assert loss_weights("constant", 0.1, epoch, 4) == LossWeights(1.0, 0.1)


def test_terms_by_hand() -> None:
    mask_logits = torch.tensor([0.0, math.log(3), -math.log(3), 0.0]).reshape(1, 1, 2, 2)
    truth = batch([1.0], [True])
    truth["target"] = torch.tensor([1.0, 1.0, 0.5, 0.0]).reshape(1, 1, 2, 2)
    truth["weight"] = torch.tensor([1.0, 2.0, 4.0, 1.0]).reshape(1, 1, 2, 2)
    terms = loss_terms(torch.tensor([[math.log(4)]]), mask_logits, truth)
    # sigmoid(log 3) = 3/4: the logits say 1/2, 3/4, 1/4, 1/2
    pixels = [
        math.log(2),
        2 * -math.log(3 / 4),
        4 * -(0.5 * math.log(1 / 4) + 0.5 * math.log(3 / 4)),
        math.log(2),
    ]
    assert terms.segmentation.item() == pytest.approx(sum(pixels) / 4, rel=1e-6)
    assert terms.classification.item() == pytest.approx(-math.log(4 / 5), rel=1e-6)  # sigmoid(log 4) = 4/5


def test_total_weighs_both_terms_and_sums_over_the_images() -> None:
    terms = LossTerms(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]), torch.tensor([True, True]))
    assert terms.total(LossWeights(0.5, 0.1)).item() == pytest.approx(0.5 * 3 + 0.1 * 30)


def test_a_positive_without_mask_has_no_segmentation_loss_and_no_gradient() -> None:
    mask_logits = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    decision = torch.zeros(2, 1, requires_grad=True)
    terms = loss_terms(decision, mask_logits, batch([1.0, 0.0], [False, True]))
    terms.total(LossWeights(1.0, 1.0)).backward()
    assert terms.segmentation[0].item() == 0.0 and terms.segmentation[1].item() > 0.0
    assert mask_logits.grad[0].abs().max().item() == 0.0 and mask_logits.grad[1].abs().min().item() > 0.0
    assert decision.grad.flatten().tolist() == [-0.5, 0.5]  # gamma is for the segmentation alone


def test_even_infinite_logits_of_an_image_without_mask_do_no_harm() -> None:
    mask_logits = torch.tensor([math.inf, 0.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    truth = batch([1.0], [False], weight=0.0)  # what the data layer gives for an unknown mask
    terms = loss_terms(torch.zeros(1, 1), mask_logits, truth)
    assert terms.segmentation.tolist() == [0.0]


def test_a_batch_sums_the_gradients_of_its_images() -> None:
    generator = torch.Generator().manual_seed(1)
    slope = torch.tensor(0.7, requires_grad=True)
    inputs = torch.randn(3, 1, 2, 2, generator=generator)
    truth = batch([1.0, 0.0, 1.0], [True, True, False], target=0.25, weight=1.5)
    weights = LossWeights(0.6, 0.3)

    def gradient(which: slice) -> float:
        part = {key: value[which] for key, value in truth.items()}
        x = inputs[which] * slope
        loss = loss_terms(x.mean(dim=(2, 3)), x, part).total(weights)
        return torch.autograd.grad(loss, slope)[0].item()

    alone = sum(gradient(slice(i, i + 1)) for i in range(3))
    assert gradient(slice(0, 3)) == pytest.approx(alone, rel=1e-5)
    assert abs(alone) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_a_float32_loss(dtype: torch.dtype) -> None:
    terms = loss_terms(torch.zeros(1, 1, dtype=dtype), torch.zeros(1, 1, 2, 2, dtype=dtype), batch([0.0], [True]))
    assert terms.segmentation.dtype == terms.classification.dtype == torch.float32
    assert terms.segmentation.item() == pytest.approx(math.log(2), rel=1e-6)
