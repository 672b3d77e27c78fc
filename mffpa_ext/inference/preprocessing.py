"""How images were prepared when a network was trained, as its checkpoint says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mffpa_ext.data.images import FULL_DEPTH, read_image
from mffpa_ext.errors import UserError

_STORED = {"channels": int, "height": int, "width": int, "scale": float, "bit_depth": int}  # as train writes it


@dataclass(frozen=True)
class Preprocessing:
    """Images are read with `channels` (1 gray, 3 RGB), resized to height x width, and multiplied by 1/255.

    bit_depth: bits of a 16-bit file that are used, see `data.images.read_image`.
    """

    channels: int
    height: int
    width: int
    bit_depth: int = FULL_DEPTH

    @classmethod
    def of(cls, state: dict[str, Any], checkpoint: str | Path) -> Preprocessing:
        """Of a checkpoint's state; `checkpoint` names it in errors.

        Raises UserError where the checkpoint lacks it, or it is not what the network takes.
        """
        stored = {"bit_depth": FULL_DEPTH, **state["preprocessing"]}
        for name, kind in _STORED.items():
            if not isinstance(stored.get(name), kind):
                raise UserError(
                    f"{checkpoint}: damaged: expected a number under 'preprocessing' {name!r}, found "
                    f"{stored.get(name)!r}: use another checkpoint of the run"
                )
        if not math.isclose(stored["scale"], 1 / 255):
            raise UserError(
                f"{checkpoint}: its images were multiplied by {stored['scale']:.6g}, this version multiplies by 1/255: "
                f"use the mffpa_ext {state.get('mffpa_ext', 'release')} that wrote it"
            )
        takes = state["model_facts"].get("in_channels")
        if stored["channels"] != takes:
            raise UserError(
                f"{checkpoint}: its images have {stored['channels']} channels, its network takes {takes}: "
                f"use another checkpoint of the run"
            )
        return cls(stored["channels"], stored["height"], stored["width"], stored["bit_depth"])

    @property
    def image_size(self) -> tuple[int, int]:
        return self.height, self.width

    def read(self, path: str | Path) -> torch.Tensor:
        """An image file as the network's training saw it: uint8 [channels, height, width]. Raises UserError."""
        return read_image(Path(path), self.channels, self.image_size, self.bit_depth)
