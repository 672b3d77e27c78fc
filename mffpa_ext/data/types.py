"""The vocabulary of the data layer: what lies on disk, and what an image is once loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch


class ImageSource(Protocol):
    """An image that is computed rather than read."""

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the gray image uint8 [H,W] and its mask uint8 [H,W] with values 0 and 1; the same at each call."""
        ...


class MaskSource(Protocol):
    """A pixel mask that is no image file. Its `str` names it in messages."""

    def read(self) -> np.ndarray:
        """Returns the mask uint8 [H,W] with values 0 and 1. Raises UserError where it is damaged."""
        ...


@dataclass(frozen=True)
class Record:
    """One image as it lies on disk, before it is read.

    name: unique within the data set, and what predictions are listed under.
    image: file, or the recipe that computes image and mask.
    mask: file of the pixel mask, or where else it comes from; None where there is none (a negative may do without: its
        mask is known to be empty).
    label: 1 defective, 0 not.
    annotated: the mask may be used: negatives always, positives only the N chosen ones. Outside training it only
        feeds evaluation.
    group: images of one physical item, which must not be parted between training and validation; "": none.
    folder: where annotation is counted in folders (KSDD), the folder.
    """

    name: str
    image: Path | ImageSource
    mask: Path | MaskSource | None
    label: int
    annotated: bool
    group: str = ""
    folder: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether the truth of every pixel can be read or computed; of a negative it is known without a mask."""
        return not self.label or self.mask is not None or not isinstance(self.image, Path)


class Sample(NamedTuple):
    """One loaded image. `mask` is undilated, has values 0 and 1, and is None for a positive without annotation."""

    image: torch.Tensor  # uint8 [C,H,W]
    mask: torch.Tensor | None  # uint8 [H,W]
    label: int
    annotated: bool
    name: str
