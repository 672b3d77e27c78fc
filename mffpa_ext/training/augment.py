"""Random mirroring of training images together with their targets."""

import numpy as np
import torch
from torch import Tensor


def flip_batch(batch: dict[str, Tensor], seed: int, epoch: int) -> dict[str, Tensor]:
    """Mirrors each image, its target and its weight horizontally and vertically, each with probability 1/2.

    The draw depends on seed, epoch and the image's index alone, so it needs no state when a run is resumed.
    """
    flipped = dict(batch)
    for position, index in enumerate(batch["index"].tolist()):
        draws = np.random.default_rng([seed, epoch, index]).random(2) < 0.5
        dims = [dim for dim, drawn in zip((-2, -1), draws, strict=True) if drawn]
        for key in ("image", "target", "weight"):
            if flipped[key] is batch[key]:
                flipped[key] = batch[key].clone()
            flipped[key][position] = torch.flip(batch[key][position], dims)
    return flipped
