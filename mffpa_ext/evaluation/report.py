"""Evaluation of a network on one part of a data set: numbers, files, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation.metrics import Confusion, Metrics, compute_metrics, confusion
from mffpa_ext.evaluation.scoring import Scores, score_dataset
from mffpa_ext.evaluation.threshold import OperatingPoint
from mffpa_ext.evaluation.timing import Timing, time_inference
from mffpa_ext.files import write_json
from mffpa_ext.inference import Predictor
from mffpa_ext.training.checkpoint import restore_model


@dataclass(frozen=True)
class Report:
    """What is known about a network on one part of a data set.

    epoch: whose weights were evaluated. official: the split is the published one.

    mask_ap: AP of the largest mask value alone, which often learns before the decision does.
    at_threshold: the confusion at the checkpoint's threshold; None where there is none. operating_point: how that was
    chosen.
    """

    part: str
    epoch: int
    official: bool
    scores: Scores
    metrics: Metrics
    mask_ap: float
    at_threshold: Confusion | None
    operating_point: OperatingPoint
    timings: list[Timing]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For metrics.json. The headline figures are `ap`, `auc` and `fps` (model only; null where not timed)."""
        return {
            "part": self.part,
            "epoch": self.epoch,
            "official": self.official,
            **asdict(self.metrics),
            "mask_ap": self.mask_ap,
            "fps": self.timings[0].fps if self.timings else None,
            "at_threshold": None if self.at_threshold is None else asdict(self.at_threshold),
            "operating_point": self.operating_point.as_dict(),
            "timings": [asdict(timing) for timing in self.timings],
            "notes": self.notes,
        }

    def write(self, folder: Path) -> None:
        """Writes metrics.json and predictions.csv. Raises UserError where they cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.scores.write_csv(folder / "predictions.csv")
            write_json(folder / "metrics.json", self.as_dict())
        except OSError as error:
            raise UserError(f"{folder}: metrics.json and predictions.csv cannot be written: {error.strerror}") from None

    def lines(self) -> list[str]:
        """For people."""
        m = self.metrics
        lines = [
            f"{self.part}: {m.positives} defective, {m.negatives} defect-free images; weights of epoch {self.epoch}"
            + ("" if self.official else "; unofficial split"),
            f"  AP {m.ap:.4f} (trapezoid {m.ap_trapezoid:.4f})   AUC {m.auc:.4f}   "
            f"AP of the mask alone {self.mask_ap:.4f}",
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
            lines.append(f"    how it was chosen: {self.operating_point.description}")
        for t in self.timings:
            lines.append(
                f"  {t.fps:.2f} FPS, {t.scope}: {t.mean_ms:.1f} ms an image (std {t.std_ms:.1f}, p50 {t.p50_ms:.1f}, "
                f"p95 {t.p95_ms:.1f}; {t.images} single images, {t.device}, {t.precision}, {t.threads} threads)"
            )
        return lines + [f"  note: {note}" for note in self.notes]


def evaluate_checkpoint(
    state: dict[str, Any],
    dataset: DefectDataset,
    part: str,
    official: bool,
    device: torch.device,
    precision: str,
    batch_size: int,
    timing_images: int,
    notes: Sequence[str] = (),
) -> Report:
    """Scores one part of a data set with the network of a checkpoint, and times single images.

    Args:
        state: from `training.checkpoint.read_checkpoint`.
        part: name of the part, for the report.
        official: whether the split is the published one.
        precision: "fp32", "bf16" or "fp16".
        timing_images: 0 for no timing.
        notes: on the data as they are now; shown with those of the training.
    """
    predictor = Predictor(restore_model(state), precision, device)
    scores = score_dataset(predictor, dataset, batch_size, part)
    point = OperatingPoint.of(state, "the checkpoint")
    return Report(
        part=part,
        epoch=state["epoch"],
        official=official,
        scores=scores,
        metrics=compute_metrics(scores.labels, scores.score),
        mask_ap=compute_metrics(scores.labels, scores.mask_score).ap,
        at_threshold=None if point.threshold is None else confusion(scores.labels, scores.score, point.threshold),
        operating_point=point,
        timings=time_inference(predictor, dataset, timing_images) if timing_images else [],
        notes=state["notes"] + [note for note in notes if note not in state["notes"]],
    )
