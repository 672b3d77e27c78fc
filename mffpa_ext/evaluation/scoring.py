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
from mffpa_ext.data.images import to_network_input
from mffpa_ext.models import DefectNetwork
from mffpa_ext.precision import autocast
from mffpa_ext.files import write_text


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


def score_dataset(
    model: DefectNetwork,
    dataset: DefectDataset,
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 8,
    title: str = "",
) -> Scores:
    """Runs the network over the data set, in order. title: of the progress bar, "" for none.

    The model is left in the mode that it was in.
    """
    decisions, largest = [], []
    training = model.training
    model.eval()
    loader = DataLoader(dataset, batch_size=batch_size)
    try:
        with torch.inference_mode(), autocast(device, precision):
            for batch in tqdm(loader, desc=title, leave=False, disable=None if title else True):
                images = to_network_input(batch["image"], device)
                decision, mask = model(images)
                decisions.append(decision.squeeze(1).double().cpu())
                largest.append(mask.amax(dim=(1, 2, 3)).double().cpu())
    finally:
        model.train(training)
    # In float64 the sigmoid keeps logits apart up to 36; in float32 all above 17 would tie at 1.
    score, mask_score = (torch.cat(logits).sigmoid().numpy() for logits in (decisions, largest))
    return Scores(list(dataset.names), dataset.labels, score, mask_score)
