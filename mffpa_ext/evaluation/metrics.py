"""Metrics of image-level detection: each image has a score in 0..1 and is defective or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from mffpa_ext.errors import UserError


@dataclass(frozen=True)
class Metrics:
    """Threshold-free metrics and the best operating point.

    ap: average precision, sum of (R_n - R_(n-1)) P_n (scikit-learn's). ap_trapezoid: area under the precision-recall
    curve by trapezoids, which interpolates and is what MixSup's validation prints. auc: area under the ROC curve.
    f1, threshold: best F1 and the score from which on an image counts as defective. fp_at_zero_fn: false alarms at
    the highest threshold that misses no defect.
    """

    ap: float
    ap_trapezoid: float
    auc: float
    f1: float
    threshold: float
    fp_at_zero_fn: int
    positives: int
    negatives: int


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold: an image is called defective where its score >= threshold."""

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int


def compute_metrics(labels: np.ndarray, scores: np.ndarray) -> Metrics:
    """labels [N] in {0, 1}, scores [N]. Raises UserError where one of the two kinds of image is missing."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if not positives or not negatives:
        raise UserError(
            f"metrics need defective and defect-free images, there are {positives} and {negatives}: "
            f"add the missing kind"
        )
    if not np.isfinite(scores).all():
        raise UserError("the network's scores are not finite: its weights are damaged, train again with a lower --lr")
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))  # the last point is recall 0, without a threshold
    return Metrics(
        ap=float(average_precision_score(labels, scores)),
        ap_trapezoid=float(auc(recall, precision)),
        auc=float(roc_auc_score(labels, scores)),
        f1=float(f1[best]),
        threshold=float(thresholds[best]),
        fp_at_zero_fn=int((scores[labels == 0] >= scores[labels == 1].min()).sum()),
        positives=positives,
        negatives=negatives,
    )


def confusion(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Confusion:
    labels, called = np.asarray(labels) == 1, np.asarray(scores) >= threshold
    return Confusion(
        threshold=float(threshold),
        tp=int((labels & called).sum()),
        fp=int((~labels & called).sum()),
        fn=int((labels & ~called).sum()),
        tn=int((~labels & ~called).sum()),
    )
