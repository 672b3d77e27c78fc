"""DAGM 2007: `ClassK/{Train,Test}/0001.PNG`, with `Label/0001_label.PNG` for defective images only."""

import re
from collections.abc import Iterator
from pathlib import Path

from mffpa_ext.data.completeness import notes_on_counts
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.inventory import LISTING, MISSING, NO_MASK, Inventory, Item
from mffpa_ext.data.pairs import Pairs, find_pairs
from mffpa_ext.data.published import DAGM_SIX, DAGM_SIZE, DAGM_TEN, dagm_counts, dagm_numbers
from mffpa_ext.data.split_files import read_split, select
from mffpa_ext.data.splits import Layout, split_in_halves
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

_LISTING = "Labels.txt"
_LISTING_LINE = re.compile(r"^\d+\t([01])\t([^\t]+)\t0\t([^\t]+)")


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of one class: the published halves, or with `resplit` all that is there parted by the seed.

    test_only: the Train half is not looked at, except by `resplit`. Without a split file, other counts than the
    published are unofficial.
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
        records = {half: select(found, listings[half], halves[half], config.split_file)
                   for half, found in records.items()}
        return Layout(records.get("Train", []), records["Test"], official=True, flags_fixed=True)
    notes = notes_on_counts("dagm", records, dagm_counts(config.dagm_class))
    return Layout(records.get("Train", []), records["Test"], official=not notes, notes=notes)


def read_half(folder: Path) -> list[Record]:
    """Records of a `Train` or `Test` folder, by file name; labels come from the `Label` folder's mask files.

    Raises UserError for a mask without image, and where `Label/Labels.txt`, if there is one, says otherwise.
    """
    pairs = _pairs(folder)
    if not pairs.images:
        raise UserError(f"{folder}: expected images such as 0001.PNG, found none")
    for stem in pairs.without_image:
        raise UserError(f"{pairs.masks[stem]}: expected its image {folder / stem}.PNG, found no such file")
    for path, _, text in _contradictions(folder, pairs):
        # A defective image whose mask file got lost would silently train as a good one.
        raise UserError(f"{path}: {text}")
    prefix = f"{folder.parent.name}/{folder.name}"
    return [Record(f"{prefix}/{path.name}", path, pairs.masks.get(stem), int(stem in pairs.masks), annotated=True)
            for stem, path in pairs.images.items()]


def inventory(root: Path) -> Inventory:
    """What is there of the ten classes, or of classes 1 to 6 where the folder holds no other. Raises UserError where
    there is none."""
    there = [number for number in DAGM_TEN if (root / f"Class{number}").is_dir()]
    if not there:
        raise UserError(f"{root}: expected folders Class1 to Class10 of DAGM 2007, found none: "
                        f"--data-root is the folder that holds them")
    classes = DAGM_SIX if tuple(there) == DAGM_SIX else DAGM_TEN
    published = {f"Class{number}/{half}": counts for number in classes for half, counts in dagm_counts(number).items()}
    listed = Inventory(root, published)
    if classes == DAGM_SIX:
        listed.notes.append("classes 1 to 6: the version of six classes; the papers' tables average over ten")
    for part in published:
        folder = root / part
        if folder.is_dir():
            _list_half(listed, part, folder)
        # A class that is missing is one line, not two.
        elif folder.parent.is_dir() or folder.name == "Train":
            missing = folder if folder.parent.is_dir() else folder.parent
            listed.report(missing, MISSING, "published, found no such folder")
    return listed


def _list_half(listed: Inventory, part: str, folder: Path) -> None:
    pairs = _pairs(folder)
    numbers = dagm_numbers(int(folder.parent.name.removeprefix("Class")))[folder.name]
    listed.compare_names(folder, pairs, [f"{number:04d}" for number in numbers], ".PNG")
    for path, kind, text in _contradictions(folder, pairs):
        listed.report(path, kind, text)
    if not (folder / "Label" / _LISTING).is_file():
        listed.notes.append(f"{part}/Label/{_LISTING} is missing: without it nothing tells that a mask file got lost")
    listed.items += [Item(part, image, pairs.masks.get(stem), int(stem in pairs.masks), (DAGM_SIZE, DAGM_SIZE))
                     for stem, image in pairs.images.items()]


def _pairs(folder: Path) -> Pairs:
    return find_pairs(folder, "_label", folder / "Label")


def _contradictions(folder: Path, pairs: Pairs) -> Iterator[tuple[Path, str, str]]:
    """Where `Label/Labels.txt`, if there is one, says otherwise than the mask files: (file, kind, text)."""
    listing = folder / "Label" / _LISTING
    if not listing.is_file():
        return
    for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LISTING_LINE.match(line.rstrip())
        if not match:
            continue  # the first line is a count
        stem = Path(match[2]).stem
        if match[1] == "1" and stem in pairs.images and stem not in pairs.masks:
            mask = listing.parent / match[3]
            yield pairs.images[stem], NO_MASK, f"{listing} says it is defective, but its mask {mask} is missing: add it"
        if match[1] == "0" and stem in pairs.masks:
            text = f"{listing} says its image is defect-free: remove one or correct the other"
            yield pairs.masks[stem], LISTING, text


def _resplit(halves: list[Path], folder: Path, seed: int) -> Layout:
    if not halves:
        raise UserError(f"{folder}: expected a folder Train or Test, found neither")
    train, test = split_in_halves([record for half in halves for record in read_half(half)], seed)
    names = " and ".join(half.name for half in halves)
    note = (f"unofficial split: the images of {names} of {folder.name}, parted half and half by seed {seed}: "
            f"{len(train)} train, {len(test)} test; not comparable with published numbers")
    return Layout(train, test, official=False, notes=[note])

