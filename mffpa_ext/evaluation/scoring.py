"""Scores of all images of a data set."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.files import write_text
from mffpa_ext.inference import Predictor


@dataclass(frozen=True)
class Scores:
    """Per image: `score` is the sigmoid of the decision logit, `mask_score` that of the largest mask logit. [N]."""

    names: list[str]
    labels: np.ndarray
    score: np.ndarray
    mask_score: np.ndarray

    def write_csv(self, path: Path) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "label", "score", "mask_score"])
        for row in zip(self.names, self.labels.tolist(), self.score.tolist(), self.mask_score.tolist(), strict=True):
            writer.writerow(row)
        write_text(path, text.getvalue())


def score_dataset(predictor: Predictor, dataset: DefectDataset, batch_size: int = 8, title: str = "") -> Scores:
    """Predicts the whole data set, in order. title: of the progress bar, "" for none."""
    score, mask_score = [], []
    loader = DataLoader(dataset, batch_size=batch_size)
    for batch in tqdm(loader, desc=title, leave=False, disable=None if title else True):
        prediction = predictor(batch["image"])
        score.append(prediction.score.cpu())
        mask_score.append(prediction.mask_score.cpu())
    return Scores(list(dataset.names), dataset.labels, torch.cat(score).numpy(), torch.cat(mask_score).numpy())
