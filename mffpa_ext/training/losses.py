"""The training loss, Eq. 4 of the paper."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the two terms: `segmentation * gamma * L_seg + classification * L_cls`."""

    segmentation: float
    classification: float


def loss_weights(schedule: str, theta: float, epoch: int, epochs: int) -> LossWeights:
    """Weights in epoch 0 .. epochs-1: "dynamic" is lambda = 1 - epoch / epochs and (1 - lambda) * theta."""
    if schedule == "constant":
        return LossWeights(1.0, theta)
    segmentation = 1 - epoch / epochs
    return LossWeights(segmentation, (1 - segmentation) * theta)


@dataclass(frozen=True)
class LossTerms:
    """Per image, [B], float32. `segmentation` is 0 where `segmented` (gamma) is false."""

    segmentation: Tensor
    classification: Tensor
    segmented: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Summed over the images: a batch adds the gradients of its images up, as Božič et al. do."""
        return (weights.segmentation * self.segmentation + weights.classification * self.classification).sum()


def loss_terms(decision: Tensor, mask_logits: Tensor, batch: dict[str, Tensor]) -> LossTerms:
    """Both terms of every image.

    Args:
        decision: logits [B, 1].
        mask_logits: [B, 1, H/8, W/8].
        batch: `target` and `weight` [B, 1, H/8, W/8] (see `data.targets`), `label` and `segmented` [B].
    """
    pixels = F.binary_cross_entropy_with_logits(mask_logits.float(), batch["target"], reduction="none")
    segmentation = (pixels * batch["weight"]).mean(dim=(1, 2, 3))
    segmented = batch["segmented"]
    classification = F.binary_cross_entropy_with_logits(
        decision.float().squeeze(1), batch["label"], reduction="none"
    )
    return LossTerms(torch.where(segmented, segmentation, 0.0), classification, segmented)
