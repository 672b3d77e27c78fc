"""Evaluation: scores, metrics, inference time."""

from mffpa_ext.evaluation.metrics import Confusion, Metrics, compute_metrics, confusion
from mffpa_ext.evaluation.report import Report, evaluate_checkpoint
from mffpa_ext.evaluation.scoring import Scores, score_dataset
from mffpa_ext.evaluation.threshold import OperatingPoint, ThresholdRule, choose_threshold
from mffpa_ext.evaluation.timing import Timing, time_inference

__all__ = [
    "Confusion",
    "Metrics",
    "OperatingPoint",
    "Report",
    "Scores",
    "ThresholdRule",
    "Timing",
    "choose_threshold",
    "compute_metrics",
    "confusion",
    "evaluate_checkpoint",
    "score_dataset",
    "time_inference",
]
