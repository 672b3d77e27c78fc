"""Pixel masks that lie beside images, for display: found by their names as published data sets form them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mffpa_ext.data.images import IMAGE_SUFFIXES, check_same_size, read_mask, read_size
from mffpa_ext.data.mask_names import MASK_SUFFIXES

# KolektorSDD and DAGM: Part0_label.bmp, Label/0001_label.PNG; KolektorSDD2: 10000_GT.png.
_ENDINGS = tuple(spelled for suffix in MASK_SUFFIXES for spelled in (suffix, suffix.upper(), suffix.title()))
_FOLDERS = (".", "Label")
_SUFFIXES = tuple(spelled for suffix in sorted(IMAGE_SUFFIXES) for spelled in (suffix, suffix.upper()))


def find_mask(image: Path, name: str, masks: Path | None = None) -> Path | None:
    """The mask file of an image, None where there is none.

    masks: a folder to look in first: for a file with the image's stem, or that and `_label`, `_mask` or `_GT`, in the
    place that the image has by `name` or right in the folder. Then such a file, with one of the endings, is looked for
    beside the image and in a folder `Label` there.
    """
    wanted = [image.stem + ending for ending in _ENDINGS]
    places = [(image.parent / folder, wanted) for folder in _FOLDERS]
    if masks is not None:
        places = [(place, [image.stem, *wanted]) for place in (masks / Path(name).parent, masks)] + places
    # Asked for one by one: a listing would grow with the folder, and a kept one grow old.
    for folder, stems in places:
        if folder.is_dir():
            for path in (folder / (stem + suffix) for stem in stems for suffix in _SUFFIXES):
                if path != image and path.is_file():
                    return path
    return None


def read_mask_at(mask: Path, image: Path, size: tuple[int, int], threshold: int | None = None) -> np.ndarray:
    """A mask reduced or enlarged to H×W, uint8, 0 outside; no thin crack gets lost.

    threshold: as of `data.images.read_mask`. Raises UserError for a file that is no image, or not of the size of its
    image.
    """
    pixels = read_mask(mask, threshold)
    check_same_size(image, read_size(image), mask, pixels.shape)
    resized = Image.fromarray(pixels * 255).resize((size[1], size[0]), Image.Resampling.BOX)
    return (np.asarray(resized) > 0).astype(np.uint8)
