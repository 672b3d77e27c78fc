"""The published data sets by their names and counts, in files of one pixel or none: layouts and splits in full size."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mffpa_ext.data.published import (DAGM_TEN, KSDD2_COUNTS, KSDD2_NUMBERS, KSDD_FOLDERS, STEEL_COUNTS, dagm_counts,
                                      dagm_numbers)


def pixel(value: int) -> bytes:
    """A PNG file of one pixel."""
    file = io.BytesIO()
    Image.fromarray(np.full((1, 1), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


DEFECT, GOOD = pixel(255), pixel(0)


def write_ksdd(root: Path) -> Path:
    """50 folders of 8 parts but one; the first part of each is defective, the second too in two of them."""
    for index, name in enumerate(KSDD_FOLDERS):
        (root / name).mkdir(parents=True)
        for part in range(7 if name == "kos21" else 8):
            (root / name / f"Part{part}.jpg").write_bytes(GOOD)
            defective = part == 0 or part == 1 and index < 2
            (root / name / f"Part{part}_label.bmp").write_bytes(DEFECT if defective else GOOD)
    return root


def write_ksdd2(root: Path, defective: dict[str, set[str]] | None = None) -> Path:
    """defective: part → stems of the defective images; None: the first."""
    for part, numbers in KSDD2_NUMBERS.items():
        (root / part).mkdir(parents=True)
        marked = defective[part] if defective else {str(n) for n in numbers[:KSDD2_COUNTS[part].defective]}
        for number in numbers:
            (root / part / f"{number}.png").write_bytes(GOOD)
            (root / part / f"{number}_GT.png").write_bytes(DEFECT if str(number) in marked else GOOD)
    return root


def write_dagm(root: Path, classes: tuple[int, ...] = DAGM_TEN) -> Path:
    """Empty files; the first images of each half are defective."""
    for number in classes:
        for half, images in dagm_numbers(number).items():
            folder = root / f"Class{number}" / half
            (folder / "Label").mkdir(parents=True)
            for index, image in enumerate(images):
                (folder / f"{image:04d}.PNG").touch()
                if index < dagm_counts(number)[half].defective:
                    (folder / "Label" / f"{image:04d}_label.PNG").touch()
    return root


def write_steel(root: Path, defective: list[str] | None = None, good: list[str] | None = None) -> Path:
    """Empty image files. defective, good: stems; None: as many as published, 4759 of them of class 3 alone."""
    if defective is None:
        defective = [f"d{number:08d}" for number in range(STEEL_COUNTS.defective)]
        good = [f"g{number:08d}" for number in range(STEEL_COUNTS.good)]
    (root / "train_images").mkdir(parents=True)
    rows = ["ImageId,ClassId,EncodedPixels"]
    for index, stem in enumerate(defective):
        # As published: 284 images have a row of class 4 beside that of class 3, the rest of the others one row.
        classes = (3,) if index < 4759 else (3, 4) if index < 4759 + 284 else (1,)
        rows += [f"{stem}.jpg,{number},1 3 10 5" for number in classes]
    for stem in [*defective, *good]:
        (root / "train_images" / f"{stem}.jpg").touch()
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return root
