"""Evaluation of a network on one part of a data set: numbers, files, and what is printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mffpa_ext.evaluation.metrics import Confusion, Metrics, compute_metrics, confusion
from mffpa_ext.evaluation.scoring import Scores
from mffpa_ext.evaluation.timing import Timing


@dataclass(frozen=True)
class Report:
    """What is known about a network on one part of a data set.

    mask_ap: AP of the largest mask value alone, which often learns before the decision does.
    at_threshold: the confusion at the threshold that was chosen on validation images; None where there is none.
    """

    part: str
    metrics: Metrics
    mask_ap: float
    at_threshold: Confusion | None
    timings: list[Timing]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def make(
        cls, part: str, scores: Scores, threshold: float | None, timings: list[Timing], notes: list[str]
    ) -> Report:
        return cls(
            part,
            compute_metrics(scores.labels, scores.score),
            compute_metrics(scores.labels, scores.mask_score).ap,
            None if threshold is None else confusion(scores.labels, scores.score, threshold),
            timings,
            notes,
        )

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json. The headline figures are `ap`, `auc` and `fps` (model only; null where not timed)."""
        return {
            "part": self.part,
            **asdict(self.metrics),
            "mask_ap": self.mask_ap,
            "fps": self.timings[0].fps if self.timings else None,
            "at_threshold": None if self.at_threshold is None else asdict(self.at_threshold),
            "timings": [asdict(timing) for timing in self.timings],
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        m = self.metrics
        lines = [
            f"{self.part}: {m.positives} defective, {m.negatives} defect-free images",
            f"  AP {m.ap:.4f} (trapezoid {m.ap_trapezoid:.4f})   AUC {m.auc:.4f}   AP of the mask alone {self.mask_ap:.4f}",
            f"  best F1 {m.f1:.4f} at score {m.threshold:.4g}   false alarms without a missed defect (FP at FN = 0): "
            f"{m.fp_at_zero_fn}",
        ]
        if self.at_threshold is None:
            lines.append("  no operating threshold: it needs validation images, see --val-fraction")
        else:
            c = self.at_threshold
            lines.append(
                f"  at the stored threshold {c.threshold:.4g}: {c.tp} defects found, {c.fn} missed; "
                f"{c.fp} false alarms, {c.tn} passed"
            )
        for t in self.timings:
            lines.append(
                f"  {t.fps:.2f} FPS, {t.scope}: {t.mean_ms:.1f} ms an image (std {t.std_ms:.1f}, p50 {t.p50_ms:.1f}, "
                f"p95 {t.p95_ms:.1f}; {t.images} single images, {t.device}, {t.precision}, {t.threads} threads)"
            )
        return lines + [f"  note: {note}" for note in self.notes]
