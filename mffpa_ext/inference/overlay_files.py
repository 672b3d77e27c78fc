"""Overlays as PNG files: each image's in a place of its own below the results folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from mffpa_ext.data.images import read_size
from mffpa_ext.errors import UserError
from mffpa_ext.inference.known_masks import find_mask, read_mask_at
from mffpa_ext.inference.overlay import Caption, draw_overlay, panel_size
from mffpa_ext.inference.preprocessing import Preprocessing

FOLDER = "overlays"
_LONGEST = 200  # bytes of a file name, of the 255 that file systems take


class OverlayNames:
    """Paths of overlays, relative to the results folder: `overlays/` and the image's name with its suffix and `.png`.

    So `a.png` and `a.jpg` do not meet; what does meet gets a number. taken: paths that are in use already.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}

    def choose(self, name: str) -> str:
        plain = str(PurePosixPath(FOLDER, *map(_shortened, PurePosixPath(name).parts)))
        path, number = f"{plain}.png", self._numbers.get(plain, 1)
        while path in self._taken:
            number += 1
            path = f"{plain}-{number}.png"
        self._numbers[plain] = number
        self._taken.add(path)
        return path


def _shortened(part: str) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= _LONGEST:
        return part
    return os.fsdecode(encoded[: _LONGEST - 17]) + "-" + hashlib.sha256(encoded).hexdigest()[:16]


def save_overlay(path: Path, image: Path, name: str, preprocessing: Preprocessing, probability: np.ndarray,
                 caption: Caption, masks: Path | None = None, mask_threshold: int | None = None) -> str | None:
    """Draws the overlay of an image file and writes it, whole or not at all.

    name: of the image, for its place in `masks`, see `known_masks.find_mask`. probability: [height / 8, width / 8].
    mask_threshold: gray value of a mask from which on a pixel is defective, see `data.images.read_mask`.
    Returns what is wrong with the mask, which is then left out, in one line. Raises UserError where the image cannot be
    read again or the overlay not be written.
    """
    size = panel_size(*read_size(image))
    # Read as for the network, of the depth that it saw, but in the image's own shape.
    pixels = replace(preprocessing, height=size[0], width=size[1]).read(image)
    problem = known = None
    file = find_mask(image, name, masks)
    if file is not None:
        try:
            known = read_mask_at(file, image, size, mask_threshold)
        except UserError as error:
            problem = str(error)
    shown = pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture = draw_overlay(shown, probability, preprocessing.image_size, known, caption)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(temporary, "PNG", compress_level=3)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: the overlay cannot be written ({error.strerror or error})") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return problem
