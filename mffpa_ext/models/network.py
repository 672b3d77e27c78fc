"""The whole two-stage network, in its four variants."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mffpa_ext.models.classification import PlainClassifier, PyramidClassifier
from mffpa_ext.models.segmentation import SegmentationNetwork

SIZE_MULTIPLE = 8  # the mask logits are at 1/8 of the input


@dataclass(frozen=True)
class Variant:
    """Which of the paper's two modules a variant has, and the width that it gives the large kernel."""

    fusion: bool
    pyramid: bool
    large_kernel_channels: int


VARIANTS = {
    "baseline": Variant(fusion=False, pyramid=False, large_kernel_channels=1024),  # Božič et al. 2021 (MixSup)
    "mff": Variant(fusion=True, pyramid=False, large_kernel_channels=256),
    "pa": Variant(fusion=False, pyramid=True, large_kernel_channels=512),
    "mffpa": Variant(fusion=True, pyramid=True, large_kernel_channels=256),
}
ATTENTIONS = {"ca": "coordinate", "se": "se"}


class DefectNetwork(nn.Module):
    """Segmentation network, classifier, and a decision from both (Tang et al. 2024, figs. 2-4).

    Use `create_model`. Attributes that may be changed later: `gradient_stop`.

    Shape: image [B, in_channels, H, W] in 0..1, H and W multiples of 8 and at least `min_size`, to
    decision logit [B, 1] and mask logits [B, 1, H/8, W/8].
    """

    def __init__(self, name: str, in_channels: int, attention: str, gradient_stop: bool) -> None:
        super().__init__()
        variant = VARIANTS[name]
        self.name = name
        self.in_channels = in_channels
        self.attention = attention if variant.pyramid else None
        self.gradient_stop = gradient_stop
        self.segmentation = SegmentationNetwork(in_channels, variant.fusion, variant.large_kernel_channels)
        classifier_channels = self.segmentation.out_channels + 1
        self.classifier = (
            PyramidClassifier(classifier_channels, ATTENTIONS[attention])
            if variant.pyramid
            else PlainClassifier(classifier_channels)
        )
        self.decision = nn.Linear(66, 1)

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels, that survive the pooling."""
        return SIZE_MULTIPLE * self.classifier.downsampling

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        features, mask = self.segmentation(x)
        seen_mask = mask
        if self.gradient_stop:  # the classification loss does not reach the segmentation network
            features, seen_mask = features.detach(), mask.detach()
        hidden = self.classifier(features, seen_mask)
        # The mean of the mask logits is 0 by construction; its place in the decision is kept for fidelity.
        pooled = [pool for source in (hidden, seen_mask) for pool in (source.amax((2, 3)), source.mean((2, 3)))]
        return self.decision(torch.cat(pooled, dim=1).to(self.decision.weight.dtype)), mask

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.name}: input must be [batch, {self.in_channels}, height, width], got {tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or height < self.min_size or width < self.min_size:
            raise ValueError(
                f"{self.name}: height and width must be multiples of {SIZE_MULTIPLE} and at least {self.min_size}, "
                f"got {height}x{width}"
            )


def create_model(
    name: str = "mffpa", in_channels: int = 3, attention: str = "ca", gradient_stop: bool = True
) -> DefectNetwork:
    """Builds one of the four variants, freshly initialised.

    Args:
        name: "baseline" (Božič et al. 2021), "mff", "pa" or "mffpa" (Tang et al. 2024).
        in_channels: 1 (gray) or 3 (RGB).
        attention: weights of the pyramid of "pa" and "mffpa": "ca" (coordinate) or "se" (squeeze-and-excitation).
        gradient_stop: keep the classification loss from the segmentation network (as the published code does).

    Raises ValueError for an unknown name or attention.
    """
    if name not in VARIANTS:
        raise ValueError(f"create_model: name must be one of {list(VARIANTS)}, got {name!r}")
    if attention not in ATTENTIONS:
        raise ValueError(f"create_model: attention must be one of {list(ATTENTIONS)}, got {attention!r}")
    if in_channels < 1:
        raise ValueError(f"create_model: in_channels must be at least 1, got {in_channels}")
    return DefectNetwork(name, in_channels, attention, gradient_stop)
