"""Random mirroring of training images together with their targets."""

import numpy as np
import torch
from torch import Tensor

from mffpa_ext.data.dataset import DefectDataset


def flip_batch(batch: dict[str, Tensor], dataset: DefectDataset, seed: int, epoch: int) -> dict[str, Tensor]:
    """Mirrors each image horizontally and vertically, each with probability 1/2, and takes the targets of the mirrored.

    dataset: where the batch comes from. It makes the targets anew: those of the batch cannot be mirrored, see
    `DefectDataset.target`. The draw depends on seed, epoch and the image's index alone, so it needs no state when a
    run is resumed.
    """
    flipped = {key: value.clone() if key in ("image", "target", "weight") else value for key, value in batch.items()}
    for position, index in enumerate(batch["index"].tolist()):
        draws = np.random.default_rng([seed, epoch, index]).random(2) < 0.5
        flips = tuple(dim for dim, drawn in zip((-2, -1), draws, strict=True) if drawn)
        if not flips:
            continue
        flipped["image"][position] = torch.flip(batch["image"][position], flips)
        flipped["target"][position], flipped["weight"][position] = dataset.target(index, flips)
    return flipped
