"""Which part of the network each loss trains, with the gradient stop and without."""

import pytest
import torch

from mffpa_ext import models
from mffpa_ext.models import create_model

NAMES = tuple(models.VARIANTS)
SIZE = (128, 128)  # smaller, the last planes of Božič et al.'s classifier have one element, and no gradient


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def trained_parts(model: models.DefectNetwork, loss: torch.Tensor) -> set[str]:
    """The children of the model with a parameter that gets a gradient other than 0."""
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    parameters = model.named_parameters()
    return {name.split(".")[0] for name, p in parameters if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("stop", [True, False], ids=["stop", "no stop"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_stop(name: str, stop: bool) -> None:
    model = create_model(name, gradient_stop=stop)
    decision, mask = model(torch.rand(2, 3, *SIZE))
    # The weight's gradient of the decision needs no more than the pooled features: all parts on the way get one.
    reached = {"classifier", "decision"} if stop else {"segmentation", "classifier", "decision"}
    assert trained_parts(model, decision.square().sum()) == reached
    assert trained_parts(model, mask.square().sum()) == {"segmentation"}


def test_gradient_stop_covers_the_pooled_mask_values() -> None:
    """With a classifier that says nothing the decision still depends on the mask's maximum, but does not train it."""
    x = torch.rand(1, 3, 32, 32)
    for stop in (True, False):
        model = create_model("mffpa", gradient_stop=stop)
        with torch.no_grad():
            model.decision.weight[:, :64] = 0
        assert ("segmentation" in trained_parts(model, model(x)[0].sum())) is not stop


def test_gradient_stop_may_be_changed_later_and_changes_no_output() -> None:
    model, x = create_model("pa").eval(), torch.rand(1, 3, 32, 32)
    with_stop = model(x)
    model.gradient_stop = False
    without = model(x)
    assert all(torch.equal(a, b) for a, b in zip(with_stop, without, strict=True))
    assert "segmentation" in trained_parts(model, without[0].sum())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained_by_the_two_losses_together(name: str) -> None:
    model = create_model(name)
    decision, mask = model(torch.rand(2, 3, *SIZE))
    (decision.square().sum() + mask.square().sum()).backward()
    # The last feature of the decision is always 0, but its weight is one entry of a larger tensor.
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_one_step_of_gradient_descent_lowers_the_losses() -> None:
    model = create_model("mffpa").train()
    x, label, defect = torch.rand(2, 3, 32, 32), torch.tensor([[0.0], [1.0]]), torch.rand(2, 1, 4, 4).round()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    losses = []
    for _ in range(3):
        decision, mask = model(x)
        loss = bce(decision, label) + bce(mask, defect)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
