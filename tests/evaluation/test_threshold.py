"""Operating thresholds against examples worked out by hand, with ties, with one kind of image, and out of range."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import OperatingPoint, ThresholdRule, choose_threshold, confusion

F1, RECALL = ThresholdRule("f1"), ThresholdRule("recall", margin=1.0)


def at(*logits: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.array(logits)))


def logit(score: float) -> float:
    return math.log(score / (1 - score))


# defect-free at -3, -2, -1, 2; defective at -1.5, 1, 3, 4
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = at(-3, -2, -1, 2, -1.5, 1, 3, 4)


def chosen(rule: ThresholdRule, labels: np.ndarray = LABELS, scores: np.ndarray = SCORES) -> float:
    return logit(choose_threshold(labels, scores, rule).threshold)


def counts(point: OperatingPoint) -> tuple[int, int, int, int]:
    return point.counts.tp, point.counts.fp, point.counts.fn, point.counts.tn


# the rules

def test_best_f1_lies_halfway_between_the_images_that_it_parts() -> None:
    # From 1 on: precision 3/4, recall 3/4. From -1.5 on: 4/6 and 1, F1 0.8.
    point = choose_threshold(LABELS, SCORES, F1)
    assert logit(point.threshold) == pytest.approx(-1.75) and counts(point) == (4, 2, 0, 2)
    # Parted clean, the middle of the gap.
    assert chosen(F1, np.array([0, 0, 1]), at(-5, -2, 4)) == pytest.approx(1)


def test_recall_keeps_a_margin_below_the_weakest_defect() -> None:
    point = choose_threshold(LABELS, SCORES, RECALL)
    assert logit(point.threshold) == pytest.approx(-2.5) and counts(point) == (4, 3, 0, 1)
    assert (point.rule, point.margin, point.fpr) == ("recall", 1.0, None)


def test_without_a_margin_the_weakest_defect_is_still_found() -> None:
    """Also where the way to the logit and back does not come out on the same number."""
    for score in np.random.default_rng(1).uniform(0, 1, 500):
        point = choose_threshold([1], [score], ThresholdRule("recall", margin=0))
        assert point.threshold <= score and point.threshold == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize(
    "fpr, expected, false_alarms",
    [
        (0.0, 2.5, 0),  # above the highest defect-free one, at 2, halfway to the defect at 3
        (0.2, 2.5, 0),  # 0.8 images: none
        (0.25, 0.0, 1),  # between -1, which would be one too many, and 1
        (0.5, -1.75, 2),  # between -2, which would be one too many, and the defect at -1.5
        (0.99, -2.5, 3),
    ],
)
def test_the_false_positive_rate_is_kept_and_used_up(fpr: float, expected: float, false_alarms: int) -> None:
    point = choose_threshold(LABELS, SCORES, ThresholdRule("fpr", fpr=fpr))
    assert point.counts.fp == false_alarms
    assert logit(point.threshold) == pytest.approx(expected)


def test_decimal_rates_mean_what_they_say() -> None:
    scores = np.linspace(0.1, 0.9, 100)
    for percent in range(100):  # 0.29 * 100 is 28.999… in binary
        point = choose_threshold(np.zeros(100), scores, ThresholdRule("fpr", fpr=percent / 100))
        assert point.counts.fp == percent


# equal scores

def test_ties_go_to_the_safe_side_of_each_rule() -> None:
    labels, scores = np.array([0, 0, 0, 1, 1]), at(0, 0, -2, 0, 3)
    assert counts(choose_threshold(labels, scores, ThresholdRule("fpr", fpr=0.34))) == (1, 0, 1, 3)  # both or none
    assert counts(choose_threshold(labels, scores, ThresholdRule("fpr", fpr=0.67))) == (2, 2, 0, 1)
    assert counts(choose_threshold(labels, scores, RECALL)) == (2, 2, 0, 1)
    assert counts(choose_threshold([1, 0, 0], at(0, 0, 0), F1)) == (1, 2, 0, 0)


def test_saturated_scores() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.0, 1e-300, 1.0, 1.0])
    for rule in (F1, RECALL, ThresholdRule("fpr", fpr=0)):
        point = choose_threshold(labels, scores, rule)
        assert counts(point) == (2, 0, 0, 2) and 0 < point.threshold < 1
    neighbours = np.array([0.5, np.nextafter(0.5, 1)])  # no number between them
    assert counts(choose_threshold([0, 1], neighbours, F1)) == (1, 0, 0, 1)
    assert choose_threshold([0], [1.0], ThresholdRule("fpr")).threshold == 1.0  # there is none above
    assert choose_threshold([0], [1 - 1e-16], ThresholdRule("fpr")).counts.fp == 0


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(1, 30))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    logits = draw(st.lists(st.integers(-12, 12), min_size=size, max_size=size))
    return np.array(labels), at(*(value * 3.5 for value in logits))


@given(images(), st.floats(0, 0.999), st.floats(0, 20))
@settings(max_examples=150, deadline=None)
def test_every_rule_keeps_its_promise(drawn: tuple, fpr: float, margin: float) -> None:
    labels, scores = drawn
    positives, negatives = (labels == 1).sum(), (labels == 0).sum()
    for name in ("f1", "fpr", "recall"):
        point = choose_threshold(labels, scores, ThresholdRule(name, fpr, margin))
        assert 0 <= point.threshold <= 1 and point.counts == confusion(labels, scores, point.threshold)
        assert json.loads(json.dumps(point.as_dict(), allow_nan=False)) == point.as_dict()
        if point.rule == "recall":
            assert point.counts.fn == 0
        elif point.rule == "fpr":
            # A score of exactly 1 has nothing above it.
            assert point.counts.fp <= fpr * negatives + 1e-6 or point.threshold == 1
        else:
            best = max(_f1(confusion(labels, scores, score)) for score in set(scores))
            assert _f1(point.counts) == pytest.approx(best)
        assert point.rule == name or not positives or not negatives


def _f1(c) -> float:
    return 2 * c.tp / max(2 * c.tp + c.fp + c.fn, 1)


# one kind of image, or none

def test_without_defective_images_the_rate_is_all_there_is() -> None:
    for rule in (F1, RECALL):
        point = choose_threshold(np.zeros(200), np.linspace(0.01, 0.5, 200), rule)
        assert (point.rule, point.fpr, point.counts.fp) == ("fpr", 0.01, 2)
        assert f"the rule {rule.name} needs defective images, the validation part has none, so fpr" in point.note
    few = choose_threshold(np.zeros(3), at(-3, -2, -1), F1)
    assert logit(few.threshold) == pytest.approx(-0.5)  # nothing above to halve the way to
    assert "0.01 of 3 is less than one image: the threshold lies above them all" in few.description


def test_without_defect_free_images_recall_is_all_there_is() -> None:
    for rule in (F1, ThresholdRule("fpr")):
        point = choose_threshold([1, 1], at(1, 2), rule)
        assert logit(point.threshold) == pytest.approx(0) and point.rule == "recall"
        assert f"the rule {rule.name} needs defect-free images" in point.note


def test_without_any_image_there_is_no_threshold() -> None:
    point = choose_threshold([], [], F1)
    assert point.threshold is None and point.description == "no validation images to choose a threshold on"


# what is said, stored and read

def test_the_description_names_rule_images_and_outcome() -> None:
    assert choose_threshold(LABELS, SCORES, RECALL).description == (
        "no defect missed, with a margin of 1; of 4 defective and 4 defect-free validation images: "
        "0 missed, 3 false alarms"
    )
    line = choose_threshold(LABELS, SCORES, ThresholdRule("fpr", fpr=0.25), part="test").description
    assert line.startswith("at most 0.25 of the defect-free called defective; of 4 defective")
    assert line.endswith("1 missed, 1 false alarm; chosen on the test images, so their results at it are optimistic")


@pytest.mark.parametrize("rule", [F1, RECALL, ThresholdRule("fpr", fpr=0.25)])
def test_a_point_survives_the_checkpoint(rule: ThresholdRule) -> None:
    point = choose_threshold(LABELS, SCORES, rule)
    stored = json.loads(json.dumps({"threshold": point.threshold, "operating_point": point.as_dict()}))
    assert OperatingPoint.of(stored, "best.pt") == point
    assert OperatingPoint.of({}, "best.pt").threshold is None
    assert OperatingPoint.of({"threshold": 0.5}, "best.pt").description == "given by hand"


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "high"}, {"threshold": 1.5}, {"threshold": math.nan}, {"operating_point": [1]},
        {"operating_point": {"rule": "f1"}}, {"operating_point": {"rule": "f1", "counts": {"tp": 1}}},
        {"operating_point": {"rule": "luck", "counts": None}}, {"operating_point": {"counts": None, "colour": 1}},
    ],
)
def test_a_damaged_point(change: dict) -> None:
    with pytest.raises(UserError, match="^best.pt: damaged: expected .*: use another checkpoint of the run$"):
        OperatingPoint.of({"threshold": 0.5, "operating_point": None} | change, "best.pt")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"name": "luck"}, "--rule: expected one of f1, fpr, recall, got 'luck'"),
        ({"fpr": 1.0}, "--fpr: expected 0 to below 1, got 1.0"),
        ({"margin": -0.1}, "--margin: expected 0 or more, got -0.1"),
        ({"margin": math.inf}, "--margin"),
    ],
)
def test_rules_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        ThresholdRule(**values)


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(UserError, match="scores are not finite"):
        choose_threshold([0, 1], [0.1, math.nan], RECALL)
