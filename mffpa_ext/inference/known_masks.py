"""Pixel masks that lie beside images, for display: found by their names as published data sets form them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from mffpa_ext.data.images import IMAGE_SUFFIXES, check_same_size, read_mask, read_size

# KolektorSDD and DAGM: Part0_label.bmp, Label/0001_label.PNG; KolektorSDD2: 10000_GT.png.
_ENDINGS = ("_label", "_mask", "_GT", "_gt")
_FOLDERS = (".", "Label")


def image_stem(stem: str) -> str | None:
    """The stem of the image that a file is the mask of, by its own; None where it is not named like a mask."""
    return next((stem.removesuffix(ending) for ending in _ENDINGS if stem.endswith(ending)), None)


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
    for folder, stems in places:
        files = _image_files(folder)
        for stem in stems:
            if stem in files and files[stem] != image:
                return files[stem]
    return None


def read_mask_at(mask: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask reduced or enlarged to H×W, uint8, 0 outside; no thin crack gets lost.

    Raises UserError for a file that is no image, or not of the size of its image.
    """
    pixels = read_mask(mask)
    check_same_size(image, read_size(image), mask, pixels.shape)
    resized = Image.fromarray(pixels * 255).resize((size[1], size[0]), Image.Resampling.BOX)
    return (np.asarray(resized) > 0).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _image_files(folder: Path) -> dict[str, Path]:
    """Files with the suffix of an image by their stem; of several with the same one the first."""
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except OSError:  # most images have no folder `Label` beside them
        return {}
    return {path.stem: path for path in reversed(names)}
