"""Metrics against examples worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import compute_metrics, confusion

# Ranked: 0.9 defect, 0.8 good, 0.7 defect, 0.4 good, 0.2 good
LABELS = np.array([0, 1, 0, 1, 0])
SCORES = np.array([0.8, 0.9, 0.2, 0.7, 0.4])


def test_a_ranking_by_hand() -> None:
    m = compute_metrics(LABELS, SCORES)
    assert m.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # recall rises at precision 1 and at 2/3
    assert m.auc == pytest.approx(5 / 6)  # of six pairs only (0.7, 0.8) is the wrong way round
    # points (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), and (1, ...) straight down
    assert m.ap_trapezoid == pytest.approx(0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert (m.f1, m.threshold) == (pytest.approx(0.8), 0.7)  # precision 2/3, recall 1
    assert m.fp_at_zero_fn == 1
    assert (m.positives, m.negatives) == (2, 3)


def test_confusion_by_hand() -> None:
    c = confusion(LABELS, SCORES, 0.8)
    assert (c.tp, c.fp, c.fn, c.tn, c.threshold) == (1, 1, 1, 2, 0.8)  # 0.8 itself is called defective


@pytest.mark.parametrize("threshold, expected", [(0.0, (2, 3, 0, 0)), (1.0, (0, 0, 2, 3))])
def test_confusion_beyond_all_scores(threshold: float, expected: tuple) -> None:
    c = confusion(LABELS, SCORES, threshold)
    assert (c.tp, c.fp, c.fn, c.tn) == expected


def test_a_perfect_ranking() -> None:
    m = compute_metrics([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9])
    assert (m.ap, m.ap_trapezoid, m.auc, m.f1, m.threshold, m.fp_at_zero_fn) == (1, 1, 1, 1, 0.3, 0)


def test_a_perfectly_wrong_ranking() -> None:
    m = compute_metrics([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.9])
    assert m.auc == 0 and m.fp_at_zero_fn == 2
    assert m.ap == pytest.approx(0.5 * 1 / 3 + 0.5 * 2 / 4)


def test_equal_scores_count_against_the_network() -> None:
    m = compute_metrics([1, 0, 1, 0], [0.5, 0.5, 0.9, 0.1])
    assert m.fp_at_zero_fn == 1  # the good image with the weakest defect's score is a false alarm
    assert m.auc == pytest.approx(3.5 / 4)  # a tie is half a pair


def test_when_all_scores_are_equal() -> None:
    m = compute_metrics([1, 0, 0, 0], [0.5] * 4)
    assert (m.ap, m.auc, m.threshold, m.fp_at_zero_fn) == (0.25, 0.5, 0.5, 3)
    assert m.f1 == pytest.approx(0.4)


@pytest.mark.parametrize("labels, counts", [([1, 1], "2 and 0"), ([0, 0, 0], "0 and 3"), ([], "0 and 0")])
def test_one_kind_missing(labels: list, counts: str) -> None:
    with pytest.raises(UserError, match=f"^metrics need defective and defect-free images, there are {counts}"):
        compute_metrics(labels, np.linspace(0.1, 0.9, len(labels)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(UserError, match="scores are not finite"):
        compute_metrics([0, 1, 1], [0.1, bad, 0.9])


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Both kinds of image, and scores with many ties."""
    size = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(lambda x: 0 < sum(x) < len(x)))
    scores = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    return np.array(labels), np.array(scores) / 10


@given(rankings())
@settings(max_examples=150, deadline=None)
def test_any_ranking_agrees_with_scikit_learn_and_with_counting(ranking: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = ranking
    m = compute_metrics(labels, scores)
    assert m.ap == pytest.approx(average_precision_score(labels, scores))
    assert m.auc == pytest.approx(roc_auc_score(labels, scores))
    by_threshold = {t: f1_score(labels, scores >= t) for t in set(scores)}
    assert m.f1 == pytest.approx(max(by_threshold.values()))
    assert by_threshold[m.threshold] == pytest.approx(m.f1)
    # FP at FN = 0, by trying every threshold that misses no defect
    harmless = [c.fp for c in (confusion(labels, scores, t) for t in set(scores)) if c.fn == 0]
    assert m.fp_at_zero_fn == min(harmless)
    assert 0 <= m.ap_trapezoid <= 1


@given(rankings(), st.floats(-0.1, 1.1))
@settings(max_examples=50, deadline=None)
def test_confusion_counts_every_image_once(ranking: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    labels, scores = ranking
    c = confusion(labels, scores, threshold)
    assert (c.tp + c.fn, c.fp + c.tn) == (labels.sum(), (labels == 0).sum())
    assert c.tp + c.fp == (scores >= threshold).sum()
