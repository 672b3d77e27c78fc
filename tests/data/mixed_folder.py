"""DAGM images as a user's own folder would hold them: many formats, two sizes, masks for a third of the defects."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = (512, 400)  # the published side, and one that another camera may have

Writer = Callable[[Path, Image.Image], None]


def _as(suffix: str, mode: str, **options: object) -> tuple[str, Writer]:
    return suffix, lambda path, image: image.convert(mode).save(path, **options)


def _sixteen_bit(suffix: str) -> tuple[str, Writer]:
    return suffix, lambda path, image: Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)


def _turned(path: Path, image: Image.Image) -> None:
    """Lying on its side, with the EXIF orientation that puts it upright again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)


KINDS: tuple[tuple[str, Writer], ...] = (
    _as(".png", "L"), _as(".JPG", "L", quality=95), _as(".bmp", "L"), _as(".tif", "L"), _sixteen_bit(".png"),
    _as(".png", "RGB"), _as(".jpeg", "RGB", quality=95), _as(".bmp", "RGB"),
    _as(".tiff", "RGB", compression="tiff_lzw"), _sixteen_bit(".tif"), _as(".png", "RGBA"), _as(".png", "P"),
    (".jpg", _turned),
)


def write_mixed_folder(root: Path, half: Path, held_out: int = 5) -> list[Path]:
    """Writes `good/`, `defect/` and `masks/` below `root` from a `Train` or `Test` half of a DAGM class.

    Every image has the next of KINDS and of SIZES; every third defect has a mask, whose edges are soft where it was
    resized. Every `held_out`-th image of each kind is left out, as it was published; returns those.
    """
    for folder in ("good", "defect", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    masks = {path.stem.removesuffix("_label"): path for path in (half / "Label").glob("*_label.PNG")}
    images = sorted(half.glob("*.PNG"))
    kept_out: list[Path] = []
    for defective in (True, False):
        kept, left = _parted([path for path in images if (path.stem in masks) == defective], held_out)
        kept_out += left
        for number, path in enumerate(kept):
            suffix, write = KINDS[number % len(KINDS)]
            side = SIZES[number // len(KINDS) % len(SIZES)]
            name = f"{path.stem} größe {side}"
            write(root / ("defect" if defective else "good") / f"{name}{suffix}", _resized(path, side))
            if defective and number % 3 == 0:
                _resized(masks[path.stem], side).save(root / "masks" / f"{name}.png")
    return kept_out


def _resized(path: Path, side: int) -> Image.Image:
    with Image.open(path) as image:
        gray = image.convert("L")
    return gray if gray.size == (side, side) else gray.resize((side, side), Image.Resampling.BILINEAR)


def _parted(paths: Sequence[Path], every: int) -> tuple[list[Path], list[Path]]:
    return ([path for number, path in enumerate(paths) if number % every],
            [path for number, path in enumerate(paths) if number % every == 0])
