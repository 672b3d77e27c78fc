"""DAGM 2007: `ClassK/{Train,Test}/0001.PNG`, with `Label/0001_label.PNG` for defective images only."""

import re
from dataclasses import replace
from pathlib import Path

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.images import is_image_file
from mffpa_ext.data.split_files import Listing, read_split
from mffpa_ext.data.splits import Layout, split_in_halves
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

_LISTING = "Labels.txt"
_LISTING_LINE = re.compile(r"^\d+\t([01])\t([^\t]+)\t0\t([^\t]+)")


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of one class: the published halves, or with `resplit` all that is there parted by the seed.

    test_only: the Train half is not looked at, except by `resplit`.
    """
    folder = Path(config.data_root) / f"Class{config.dagm_class}"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of DAGM class {config.dagm_class}, found no such folder: "
                        f"--data-root is the folder that holds Class1 to Class10")
    halves = {half: folder / half for half in ("Train", "Test")}
    if config.resplit:
        return _resplit([path for path in halves.values() if path.is_dir()], folder, seed)
    if test_only:
        del halves["Train"]
    for half, path in halves.items():
        if not path.is_dir():
            raise UserError(f"{path}: expected the {half} half of DAGM class {config.dagm_class}, found no folder: "
                            f"add it, or split what is there by the seed with --resplit (unofficial)")
    records = {half: read_half(path) for half, path in halves.items()}
    if config.split_file is not None:
        listings = dict(zip(("Train", "Test"),
                            read_split(Path(config.split_file), "dagm", config.dagm_class - 1), strict=True))
        records = {half: _listed(found, listings[half], halves[half], config.split_file)
                   for half, found in records.items()}
    return Layout(records.get("Train", []), records["Test"], official=True, flags_fixed=config.split_file is not None)


def read_half(folder: Path) -> list[Record]:
    """Records of a `Train` or `Test` folder, by file name; labels come from the `Label` folder's mask files.

    Raises UserError for a mask without image, and where `Label/Labels.txt`, if there is one, says otherwise.
    """
    images = {path.stem: path for path in sorted(folder.iterdir()) if is_image_file(path)}
    if not images:
        raise UserError(f"{folder}: expected images such as 0001.PNG, found none")
    labels = folder / "Label"
    masks = {path.stem.removesuffix("_label"): path
             for path in (sorted(labels.iterdir()) if labels.is_dir() else ())
             if is_image_file(path) and path.stem.endswith("_label")}
    for stem, mask in masks.items():
        if stem not in images:
            raise UserError(f"{mask}: expected its image {folder / stem}.PNG, found no such file")
    _check_listing(labels / _LISTING, images, masks)
    prefix = f"{folder.parent.name}/{folder.name}"
    return [Record(f"{prefix}/{path.name}", path, masks.get(stem), int(stem in masks), annotated=True)
            for stem, path in images.items()]


def _check_listing(listing: Path, images: dict[str, Path], masks: dict[str, Path]) -> None:
    """A defective image whose mask file got lost would silently train as a good one: the listing tells."""
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LISTING_LINE.match(line.rstrip())
        if not match:
            continue  # the first line is a count
        stem = Path(match[2]).stem
        if match[1] == "1" and stem in images and stem not in masks:
            raise UserError(f"{images[stem]}: {listing} says it is defective, but its mask "
                            f"{listing.parent / match[3]} is missing: add it")
        if match[1] == "0" and stem in masks:
            raise UserError(f"{masks[stem]}: {listing} says its image is defect-free: remove one or correct the other")


def _resplit(halves: list[Path], folder: Path, seed: int) -> Layout:
    if not halves:
        raise UserError(f"{folder}: expected a folder Train or Test, found neither")
    train, test = split_in_halves([record for half in halves for record in read_half(half)], seed)
    names = " and ".join(half.name for half in halves)
    note = (f"unofficial split: the images of {names} of {folder.name}, parted half and half by seed {seed}: "
            f"{len(train)} train, {len(test)} test; not comparable with published numbers")
    return Layout(train, test, official=False, notes=[note])


def _listed(records: list[Record], listing: Listing, folder: Path, split_file: str) -> list[Record]:
    """The records that a split file lists, in their own order, annotated as it says."""
    flags = dict(listing)
    known = {record.image.name for record in records}
    missing = [name for name in flags if name not in known]
    if missing:
        raise UserError(f"{folder / missing[0]}: listed in {split_file} (and {len(missing) - 1} more), "
                        f"found no such file: complete the data set or leave --split-file out")
    return [replace(record, annotated=not record.label or flags[record.image.name])
            for record in records if record.image.name in flags]
