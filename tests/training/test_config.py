"""Recipes as published, and how settings that are left out are filled in."""

import pytest
import torch

from mffpa_ext.data.facts import FACTS
from mffpa_ext.errors import UserError
from mffpa_ext.precision import precision_notes
from mffpa_ext.training.config import TrainConfig, pick_device, resolve
from mffpa_ext.training.recipes import RECIPES, find_recipe


@pytest.mark.parametrize(
    "recipe, dataset, masks_used, expected",
    [
        # epochs, lr, theta, batch, loss weights, gradient stop
        ("paper", "dagm", True, (70, 0.05, 1.0, 1, "dynamic", "on")),
        ("paper", "dagm", False, (70, 0.05, 1.0, 1, "dynamic", "off")),
        ("paper", "ksdd", True, (50, 0.01, 1.0, 1, "dynamic", "on")),
        ("paper", "ksdd", False, (50, 0.01, 1.0, 1, "dynamic", "off")),
        ("paper", "ksdd2", True, (50, 0.01, 1.0, 1, "dynamic", "on")),
        ("paper", "ksdd2", False, (50, 0.01, 1.0, 1, "dynamic", "off")),
        ("paper", "steel", True, (90, 0.1, 0.1, 10, "dynamic", "on")),
        ("paper", "steel", False, (90, 0.1, 0.1, 10, "dynamic", "off")),
        ("mixsup", "ksdd2", True, (50, 0.01, 1.0, 1, "dynamic", "on")),
        ("mixsup", "ksdd2", False, (50, 0.01, 1.0, 1, "constant", "on")),
        ("mixsup", "steel", True, (40, 0.1, 0.1, 10, "dynamic", "on")),
        ("mixsup", "steel", False, (40, 0.1, 0.1, 10, "constant", "on")),
        ("mixsup", "dagm", True, (70, 0.05, 1.0, 1, "dynamic", "on")),
        ("mixsup", "dagm", False, (70, 0.05, 1.0, 1, "constant", "on")),
        ("mixsup", "ksdd", True, (50, 1.0, 0.01, 1, "dynamic", "on")),
        ("mixsup", "ksdd", False, (50, 0.01, 1.0, 1, "constant", "on")),
    ],
)
def test_published_settings(recipe: str, dataset: str, masks_used: bool, expected: tuple) -> None:
    c = resolve(TrainConfig(recipe=recipe), dataset, masks_used)
    assert (c.epochs, c.lr, c.theta, c.batch_size, c.loss_weights, c.gradient_stop) == expected
    assert (c.grad_clip, c.augment, c.lr_schedule) == (0, "none", "constant")  # no such thing is published


@pytest.mark.parametrize("positives, epochs", [(1, 90), (300, 90), (301, 80), (750, 80), (1000, 60), (1500, 60),
                                               (3000, 40), (4000, 40), (None, 40)])
def test_mixsup_trains_steel_less_long_with_more_defects(positives: int | None, epochs: int) -> None:
    given = TrainConfig(recipe="mixsup")
    assert resolve(given, "steel", True, positives).epochs == resolve(given, "steel", False, positives).epochs == epochs
    assert resolve(TrainConfig(recipe="paper"), "steel", True, positives).epochs == 90
    assert resolve(TrainConfig(recipe="mixsup", epochs=7), "steel", True, positives).epochs == 7


@pytest.mark.parametrize("recipe", ["paper", "mixsup"])
def test_published_recipes_have_every_published_data_set(recipe: str) -> None:
    assert set(RECIPES[recipe]) == {name for name, facts in FACTS.items() if facts.num_segmented}


@pytest.mark.parametrize("dataset, recipe", [("dagm", "paper"), ("ksdd", "paper"), ("ksdd2", "paper"), ("steel", "paper"), ("synthetic", "quick")])
def test_default_recipe(dataset: str, recipe: str) -> None:
    assert resolve(TrainConfig(), dataset, True).recipe == recipe
    assert find_recipe(None, dataset, False)[0] == recipe


@pytest.mark.parametrize("recipe, dataset", [("paper", "synthetic"), ("mixsup", "synthetic"), ("quick", "dagm")])
def test_a_recipe_without_the_data_set_names_those_that_have_it(recipe: str, dataset: str) -> None:
    with pytest.raises(UserError, match=f"--recipe {recipe}: has no settings for {dataset}; use "):
        resolve(TrainConfig(recipe=recipe), dataset, True)


@pytest.mark.parametrize("masks_used", [True, False])
@pytest.mark.parametrize("given", ["on", "off"])
def test_a_gradient_stop_that_is_given_stays(given: str, masks_used: bool) -> None:
    assert resolve(TrainConfig(gradient_stop=given), "dagm", masks_used).gradient_stop == given


@pytest.mark.parametrize("masks_used, stop", [(True, "on"), (False, "off")])
def test_auto_overrides_even_mixsups_stop(masks_used: bool, stop: str) -> None:
    config = TrainConfig(recipe="mixsup", gradient_stop="auto")
    assert resolve(config, "ksdd", masks_used).gradient_stop == stop


def test_what_is_given_wins_over_the_recipe_even_where_it_is_zero() -> None:
    given = {"epochs": 3, "lr": 0.5, "theta": 0.0, "loss_weights": "constant", "batch_size": 2, "grad_clip": 0.0}
    resolved = resolve(TrainConfig(**given), "synthetic", True)
    assert {name: getattr(resolved, name) for name in given} == given


def test_resolving_twice_changes_nothing() -> None:
    once = resolve(TrainConfig(), "dagm", True)
    assert resolve(once, "dagm", True) == once
    assert None not in (once.recipe, once.epochs, once.lr, once.theta, once.loss_weights, once.gradient_stop)


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("epochs", 0, "1 or more"),
        ("epochs", -1, "1 or more"),
        ("lr", 0.0, "above 0"),
        ("lr", -0.1, "above 0"),
        ("lr", float("nan"), "above 0"),
        ("theta", -1.0, "0 or more"),
        ("batch_size", 0, "1 or more"),
        ("grad_clip", -1.0, "0 .off. or more"),
        ("eval_batch_size", 0, "1 or more"),
        ("timing_images", -1, "0 .off. or more"),
        ("seed", -1, "0 to 2.63 - 1"),
        ("seed", 2**63, "0 to 2.63 - 1"),
        ("output", "", "a folder"),
    ],
)
def test_out_of_range(name: str, value: object, expected: str) -> None:
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: expected {expected}, got "):
        resolve(TrainConfig(**{name: value}), "synthetic", True)


@pytest.mark.parametrize("name", ["tpu", "", "meta", "mps", "xpu", "cpu,cuda"])
def test_other_devices_are_refused_in_a_short_line(name: str) -> None:
    with pytest.raises(UserError, match=f"^--device {name}: expected auto, cpu, cuda") as error:
        pick_device(name)
    assert len(str(error.value)) < 120


def test_cuda_where_there_is_none() -> None:
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"^--device {missing}: expected a GPU that is there.*use cpu$"):
        pick_device(missing)


def test_auto_takes_what_is_there() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("has, notes", [({"avx512_bf16": True}, 0), ({"amx_bf16": True}, 0), ({}, 1)])
def test_emulated_half_precision_is_said(has: dict, notes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {"architecture": "x86_64", **has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert len(precision_notes("bf16", torch.device("cpu"))) == notes
    assert precision_notes("fp32", torch.device("cpu")) == []
    assert precision_notes("bf16", torch.device("cuda")) == []
