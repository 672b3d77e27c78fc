"""Scores, inference time and the report of one evaluation, on a few synthetic images."""

import csv
import dataclasses
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.data.loading import load_splits
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import Report, Scores, evaluate_checkpoint, score_dataset, time_inference
from mffpa_ext.evaluation import timing as timing_module
from mffpa_ext.inference import Predictor
from mffpa_ext.models import DefectNetwork, create_model
from mffpa_ext.training.checkpoint import model_facts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset() -> DefectDataset:
    return load_splits(DataConfig(image_size=(32, 40), synthetic_train=4, synthetic_test=7, val_fraction=0.0), 0).test


@pytest.fixture(scope="module")
def network() -> DefectNetwork:
    torch.manual_seed(1)
    return create_model("mffpa", 1)


@pytest.fixture
def state(network: DefectNetwork) -> dict:
    best = {"epoch": 4, "ap": None, "auc": None}
    return {"model_facts": model_facts(network), "model": network.state_dict(), "epoch": 4, "best": best,
            "notes": ["of the training"]}


@pytest.fixture
def predictor(network: DefectNetwork) -> Predictor:
    return Predictor(network, device=CPU)


def evaluate(state: dict, dataset: DefectDataset, **settings) -> Report:
    settings = {"precision": "fp32", "batch_size": 4, "timing_images": 0, **settings}
    return evaluate_checkpoint(state, dataset, "test", True, CPU, **settings)


# scores

def test_scores_are_the_sigmoids_of_the_logits_in_the_order_of_the_data_set(network, predictor, dataset) -> None:
    scores = score_dataset(predictor, dataset, batch_size=3)
    assert scores.names == dataset.names and scores.labels.tolist() == dataset.labels.tolist()
    network.eval()
    for index in range(len(dataset)):
        with torch.no_grad():
            decision, mask = network(dataset.sample(index).image[None].float() / 255)
        assert scores.score[index] == pytest.approx(1 / (1 + math.exp(-decision.item())), abs=1e-5)
        assert scores.mask_score[index] == pytest.approx(1 / (1 + math.exp(-mask.max().item())), abs=1e-5)


def test_the_batch_size_does_not_matter(predictor, dataset) -> None:
    one, all_at_once = (score_dataset(predictor, dataset, batch_size=size) for size in (1, 100))
    np.testing.assert_allclose(one.score, all_at_once.score, atol=1e-5)
    np.testing.assert_allclose(one.mask_score, all_at_once.mask_score, atol=1e-5)


def test_predictions_with_names_that_need_care(tmp_path: Path) -> None:
    names = ['a,"b".png', "é.png", os.fsdecode(b"latin-\xe9.png")]
    scores = Scores(names, np.array([0, 1, 1]), np.array([0.1, 1 / 3, 0.9]), np.array([0.2, 0.3, 0.4]))
    scores.write_csv(tmp_path / "p.csv")
    with open(tmp_path / "p.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    assert float(rows[1]["score"]) == 1 / 3  # every digit


# inference time

def test_time_is_equation_8_and_says_what_it_covers(predictor, dataset, monkeypatch) -> None:
    ticks = iter(range(10_000))
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) ** 2 / 1000)
    monkeypatch.setattr(timing_module, "time", clock)  # this module's alone: others read the real one
    passes = []
    hook = predictor.model.register_forward_hook(lambda module, inputs, output: passes.append(inputs[0].shape))
    try:
        timings = time_inference(predictor, dataset, images=9)
    finally:
        hook.remove()
    assert [timing.scope for timing in timings] == ["model", "render + resize + copy + model"]
    assert passes == [(1, 1, 32, 40)] * 2 * (9 + timing_module.WARM_UP)  # single images; more than there are
    for number, timing in enumerate(timings):
        # The clock's n-th reading is n^2 ms; it is read twice a pass. Warm-up does not count.
        first = 2 * (number * (timing_module.WARM_UP + 9) + timing_module.WARM_UP)
        took = np.array([2 * (first + 2 * n) + 1 for n in range(9)], dtype=float)
        assert timing.images == 9
        assert timing.fps == pytest.approx(9 / (took.sum() / 1000))
        assert timing.mean_ms == pytest.approx(took.mean()) and timing.std_ms == pytest.approx(took.std())
        assert timing.p50_ms == pytest.approx(np.percentile(took, 50))
        assert timing.p95_ms == pytest.approx(np.percentile(took, 95))
        assert (timing.device, timing.precision, timing.threads) == ("cpu", "fp32", torch.get_num_threads())


def test_the_second_scope_reads_the_source_again(predictor, dataset, monkeypatch) -> None:
    decoded = []
    genuine = dataset.decode
    monkeypatch.setattr(dataset, "decode", lambda index: decoded.append(index) or genuine(index))
    time_inference(predictor, dataset, images=4)
    order = [step % len(dataset) for step in range(4 + timing_module.WARM_UP)]
    assert decoded == order * 2  # the images in turn, for the first scope outside the clock


# the report

def test_headline_keys_and_strict_json(state: dict, dataset) -> None:
    report = evaluate(state, dataset, timing_images=2)
    text = json.dumps(report.as_dict(), allow_nan=False)  # ValueError for NaN, TypeError for anything of numpy
    content = json.loads(text)
    assert content["ap"] == report.metrics.ap and content["auc"] == report.metrics.auc
    assert content["fps"] == report.timings[0].fps == content["timings"][0]["fps"]
    assert (content["part"], content["epoch"], content["official"]) == ("test", 4, True)
    assert (content["positives"], content["negatives"]) == (3, 4)
    assert len(content["timings"]) == 2


def test_without_timing_fps_is_null(state: dict, dataset) -> None:
    content = evaluate(state, dataset).as_dict()
    assert content["fps"] is None and content["timings"] == []


def test_a_stored_threshold_gives_the_confusion_at_it(state: dict, dataset) -> None:
    without = evaluate(state, dataset)
    assert without.at_threshold is None and any("no operating threshold" in line for line in without.lines())
    state["threshold"] = float(np.sort(without.scores.score)[3])
    report = evaluate(state, dataset)
    assert report.at_threshold.tp + report.at_threshold.fp == 4
    assert report.as_dict()["at_threshold"] == dataclasses.asdict(report.at_threshold)
    assert any("at the stored threshold" in line for line in report.lines())


def test_the_mask_has_an_ap_of_its_own(state: dict, dataset) -> None:
    report = evaluate(state, dataset)
    order = np.argsort(-report.scores.mask_score)
    hits = np.cumsum(dataset.labels[order])
    by_hand = np.mean([hits[i] / (i + 1) for i in range(len(order)) if dataset.labels[order][i]])
    assert report.mask_ap == pytest.approx(by_hand)


def test_notes_of_the_training_come_first_and_once(state: dict, dataset) -> None:
    report = evaluate(state, dataset, notes=["of the training", "of today"])
    assert report.notes == ["of the training", "of today"]
    assert report.lines()[-2:] == ["  note: of the training", "  note: of today"]
    assert state["notes"] == ["of the training"]


def test_an_unofficial_split_says_so(state: dict, dataset) -> None:
    assert "unofficial" not in evaluate(state, dataset).lines()[0]
    report = evaluate_checkpoint(state, dataset, "test", False, CPU, "fp32", 4, 0)
    assert report.lines()[0].endswith("unofficial split") and report.as_dict()["official"] is False


def test_files_are_written_to_a_new_folder(state: dict, dataset, tmp_path: Path) -> None:
    report = evaluate(state, dataset)
    report.write(tmp_path / "a" / "b")
    assert json.loads((tmp_path / "a" / "b" / "metrics.json").read_text()) == report.as_dict()
    assert len((tmp_path / "a" / "b" / "predictions.csv").read_text().splitlines()) == 1 + 7
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: metrics.json and predictions.csv cannot be written: File exists"):
        report.write(tmp_path / "file")
