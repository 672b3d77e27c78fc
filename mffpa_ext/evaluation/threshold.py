"""The operating threshold: from which score on an image counts as defective, chosen on validation images.

Scores are compared as logits, log(p / (1 - p)): a trained network's scores crowd near 0 and 1, their logits do not.
A threshold never lies on the score of a validation image but between two, so that a last digit which comes out
otherwise (another batch size, another device) changes no decision about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mffpa_ext.errors import UserError
from mffpa_ext.evaluation.metrics import Confusion, compute_metrics, confusion
from mffpa_ext.training.config import THRESHOLD_RULES

_BEYOND = 0.5  # logits: how far beyond the last image a threshold lies that has images on one side only
_LARGEST = 36.0  # logits: float64 keeps scores apart up to about 36.7


@dataclass(frozen=True)
class ThresholdRule:
    """What the threshold is to achieve.

    name: "f1" the best F1; "fpr" at most the part `fpr` of the defect-free images is called defective; "recall" every
    defective image is found, even if its logit were lower by `margin`.
    Raises UserError for values out of range.
    """

    name: str = "f1"
    fpr: float = 0.01
    margin: float = 1.0

    def __post_init__(self) -> None:
        expectations = (
            ("rule", self.name in THRESHOLD_RULES, f"one of {', '.join(THRESHOLD_RULES)}"),
            ("fpr", 0 <= self.fpr < 1, "0 to below 1"),
            ("margin", 0 <= self.margin < math.inf, "0 or more"),
        )
        for name, holds, expected in expectations:
            if not holds:
                value = self.name if name == "rule" else getattr(self, name)
                raise UserError(f"--{name}: expected {expected}, got {value!r}")

    def __str__(self) -> str:
        return {
            "f1": "best F1",
            "fpr": f"at most {self.fpr:.4g} of the defect-free called defective",
            "recall": f"no defect missed, with a margin of {self.margin:.4g}",
        }[self.name]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and how it was chosen.

    threshold: of the score in 0..1; None where nothing could be chosen. rule: the one that was used, None for none;
    by hand: "manual". part: the images it was chosen on. counts: what it makes of them. note: what must be known about
    it, in one line.
    """

    threshold: float | None
    rule: str | None = None
    fpr: float | None = None
    margin: float | None = None
    part: str | None = None
    counts: Confusion | None = None
    note: str = ""

    @property
    def description(self) -> str:
        """One line for people, without the threshold itself."""
        if self.threshold is None:
            return self.note
        if self.rule == "manual":
            return "given by hand"
        rule = ThresholdRule(self.rule, **{k: v for k in ("fpr", "margin") if (v := getattr(self, k)) is not None})
        c = self.counts
        line = (
            f"{rule}; of {c.tp + c.fn} defective and {c.fp + c.tn} defect-free {self.part} images: "
            f"{c.fn} missed, {c.fp} false alarm{'s' * (c.fp != 1)}"
        )
        return f"{line}; {self.note}" if self.note else line

    def as_dict(self) -> dict[str, Any]:
        """Primitives, for a checkpoint or JSON. The threshold itself is left out: it has a place of its own."""
        described = asdict(self)
        del described["threshold"]
        return described

    @classmethod
    def of(cls, state: dict[str, Any], checkpoint: object) -> OperatingPoint:
        """That of a checkpoint's state; `checkpoint` names it in errors. Raises UserError where it is damaged."""
        threshold, stored = state.get("threshold"), state.get("operating_point")
        damaged = f"{checkpoint}: damaged: expected {{}} under {{!r}}, found {{!r}}: use another checkpoint of the run"
        if threshold is not None and not (isinstance(threshold, float) and 0 <= threshold <= 1):
            raise UserError(damaged.format("a number from 0 to 1", "threshold", threshold))
        if stored is None:
            return no_threshold() if threshold is None else cls(threshold, "manual")
        try:
            counts = stored["counts"]
            point = cls(threshold, **stored | {"counts": None if counts is None else Confusion(**counts)})
            point.description  # noqa: B018 - it reads all of them
        except (TypeError, ValueError, LookupError, AttributeError, UserError):
            raise UserError(damaged.format("how the threshold was chosen", "operating_point", stored)) from None
        return point


def no_threshold() -> OperatingPoint:
    """That of a run without validation images."""
    return OperatingPoint(None, note="no validation images to choose a threshold on")


def choose_threshold(labels: Sequence[int] | np.ndarray, scores: np.ndarray, rule: ThresholdRule,
                     part: str = "validation") -> OperatingPoint:
    """Chooses by the rule; where the images do not allow it, by the nearest rule that they do, and says so.

    labels [N] in {0, 1}, scores [N] in 0..1. Without defective images only "fpr" can be kept, without defect-free ones
    only "recall". Raises UserError for scores that are no numbers.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise UserError("the network's scores are not finite: its weights are damaged, train again with a lower --lr")
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if not positives and not negatives:
        return no_threshold()
    used, notes = rule, []
    if not positives and rule.name != "fpr":
        used = ThresholdRule("fpr", rule.fpr, rule.margin)
        notes.append(f"the rule {rule.name} needs defective images, the {part} part has none, so fpr was taken")
    if not negatives and rule.name != "recall":
        used = ThresholdRule("recall", rule.fpr, rule.margin)
        notes.append(f"the rule {rule.name} needs defect-free images, the {part} part has none, so recall was taken")
    if used.name == "fpr" and used.fpr * negatives < 1:
        notes.append(f"{used.fpr:.4g} of {negatives} is less than one image: the threshold lies above them all")
    if part == "test":
        notes.append("chosen on the test images, so their results at it are optimistic")
    threshold = _CHOICES[used.name](labels, scores, used)
    return OperatingPoint(
        threshold=threshold,
        rule=used.name,
        fpr=used.fpr if used.name == "fpr" else None,
        margin=used.margin if used.name == "recall" else None,
        part=part,
        counts=confusion(labels, scores, threshold),
        note="; ".join(notes),
    )


def _best_f1(labels: np.ndarray, scores: np.ndarray, rule: ThresholdRule) -> float:
    return _just_below(scores, compute_metrics(labels, scores).threshold)


def _false_positive_rate(labels: np.ndarray, scores: np.ndarray, rule: ThresholdRule) -> float:
    """The lowest that keeps the rate: just above the first defect-free score that would exceed it."""
    descending = np.sort(scores[labels == 0])[::-1]
    allowed = min(math.floor(rule.fpr * len(descending) + 1e-9), len(descending) - 1)  # 0.29 * 100 is 28.999…
    excluded = descending[allowed]
    above = scores[scores > excluded]
    if not len(above):
        return min(1.0, max(_score(_logit(excluded) + _BEYOND), float(np.nextafter(excluded, 2))))
    return _just_below(scores, above.min())


def _full_recall(labels: np.ndarray, scores: np.ndarray, rule: ThresholdRule) -> float:
    weakest = scores[labels == 1].min()
    # Not above it, whatever is lost on the way to the logit and back.
    return min(float(weakest), _score(_logit(weakest) - rule.margin))


_CHOICES = {"f1": _best_f1, "fpr": _false_positive_rate, "recall": _full_recall}


def _just_below(scores: np.ndarray, called: float) -> float:
    """Halfway, in logits, from `called`, the lowest score that is to count as defective, to the next lower one."""
    below = scores[scores < called]
    middle = _logit(called) - _BEYOND if not len(below) else (_logit(called) + _logit(below.max())) / 2
    threshold = _score(middle)
    # Beyond the range of logits, or between neighbouring numbers, there is no halfway.
    return threshold if threshold <= called and not (len(below) and threshold <= below.max()) else float(called)


def _logit(score: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.clip(np.log(score) - np.log1p(-score), -700.0, _LARGEST))


def _score(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
