"""KolektorSDD: `kosNN/PartK.jpg` with `kosNN/PartK_label.bmp`; cross-validation in 3 folds by folder."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mffpa_ext.data.completeness import notes_on_counts
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.facts import KSDD_FOLDS
from mffpa_ext.data.inventory import MISSING, UNEXPECTED, Inventory
from mffpa_ext.data.pairs import Pairs, find_pairs, read_labels
from mffpa_ext.data.published import (
    KSDD_COUNTS, KSDD_FOLDERS, KSDD_LARGEST, KSDD_PARTS, KSDD_SKIPPED, KSDD_SMALLEST, KSDD_TWINS)
from mffpa_ext.data.split_files import Listing, read_split
from mffpa_ext.data.splits import Layout, group_folds
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

TWINS_NOTE = (f"KSDD holds two items twice, byte for byte: {' and '.join(' = '.join(pair) for pair in KSDD_TWINS)} "
              f"(all parts); in the published folds the twins fall on both sides, so results on those folds are "
              f"optimistic")

_CANONICAL = {second: first for first, second in KSDD_TWINS}  # twins are one item: never parted for validation


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of one fold: of the split file, or of folds drawn from the seed that keep twin folders together.

    test_only: of a split file's fold, nothing but the test folders is read. The seed draws its folds from all folders.
    """
    notes = [TWINS_NOTE]
    if config.split_file is not None:
        train, test = read_split(Path(config.split_file), "ksdd", config.fold)
        notes += _straddling(train, test)
        if test_only:
            train = []
        folders = read_folders(Path(config.data_root), {name for name, _ in test} if test_only else None)
        return Layout(_listed(folders, train, config), _listed(folders, [(name, True) for name, _ in test], config),
                      official=True, by_folder=True, flags_fixed=True, notes=notes)
    folders = read_folders(Path(config.data_root))
    if len(folders) < KSDD_FOLDS:
        raise UserError(f"{config.data_root}: expected at least {KSDD_FOLDS} folders kosNN to make folds of, "
                        f"found {len(folders)}")
    folds = group_folds(_keep_twins_together(sorted(folders)), KSDD_FOLDS, seed)
    notes.append(f"unofficial folds: no --split-file, so {KSDD_FOLDS} folds were drawn by folder from seed {seed}, "
                 f"twins on the same side; this is fold {config.fold}")
    notes += notes_on_counts("ksdd", {"all": [record for records in folders.values() for record in records]},
                             {"all": KSDD_COUNTS})
    held_out = folds[config.fold]
    train_records = [record for name in sorted(folders) if name not in held_out for record in folders[name]]
    test_records = [record for name in sorted(held_out) for record in folders[name]]
    return Layout(train_records, test_records, official=False, by_folder=True, notes=notes)


def read_folders(root: Path, names: Collection[str] | None = None) -> dict[str, list[Record]]:
    """Folder name → its records. An image is defective where its mask marks a pixel.

    names: the folders to read, None: all. Raises UserError where there is no folder, an image has no mask file, or a
    mask no image.
    """
    pairs: list[tuple[str, Path, Path]] = []
    for directory in _directories(root):
        if names is not None and directory.name not in names:
            continue
        found = _pairs(directory)
        found.require_complete("KolektorSDD", ".jpg", "_label.bmp")
        if not found.images:
            raise UserError(f"{directory}: expected images such as Part0.jpg, found none")
        pairs += [(directory.name, image, found.masks[stem]) for stem, image in found.images.items()]
    labels = read_labels([mask for _, _, mask in pairs])
    folders: dict[str, list[Record]] = {}
    for (folder, image, mask), label in zip(pairs, labels, strict=True):
        record = Record(f"{folder}/{image.name}", image, mask, label, annotated=True,
                        group=_CANONICAL.get(folder, folder), folder=folder)
        folders.setdefault(folder, []).append(record)
    return folders


def inventory(root: Path) -> Inventory:
    """What is there of the 50 published folders. Raises UserError where there is none."""
    found = {directory.name: directory for directory in _directories(root)}
    listed = Inventory(root, {"all": KSDD_COUNTS}, notes=[TWINS_NOTE])
    for name in KSDD_FOLDERS:
        if name not in found:
            listed.report(root / name, MISSING, "published, found no such folder")
    for name, directory in found.items():
        if name not in KSDD_FOLDERS:
            listed.report(directory, UNEXPECTED, "no such folder was published: remove it, or training takes it in")
            continue
        published = [f"Part{part}" for part in KSDD_PARTS if f"{name}_Part{part}" not in KSDD_SKIPPED]
        listed.add_pairs("all", directory, _pairs(directory), published, ".jpg", "_label.bmp",
                         (KSDD_SMALLEST, KSDD_LARGEST))
    return listed


def _directories(root: Path) -> list[Path]:
    directories = sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith("kos"))
    if not directories:
        raise UserError(f"{root}: expected folders kos01, kos02, … of KolektorSDD, found none: "
                        f"--data-root is the folder that holds them")
    return directories


def _pairs(directory: Path) -> Pairs:
    parts = [name.removeprefix(f"{directory.name}_") for name in KSDD_SKIPPED
             if name.startswith(f"{directory.name}_")]
    return find_pairs(directory, "_label", skipped=[*parts, *(f"{part}_label" for part in parts)])


def _listed(folders: dict[str, list[Record]], listing: Listing, config: DataConfig) -> list[Record]:
    records = []
    for name, flag in sorted(listing):
        if name not in folders:
            raise UserError(f"{Path(config.data_root) / name}: listed in {config.split_file}, found no such folder: "
                            f"complete the data set or leave --split-file out")
        records += [replace(record, annotated=not record.label or flag) for record in folders[name]]
    return records


def _straddling(train: Listing, test: Listing) -> list[str]:
    sides = {name: side for side, listing in (("train", train), ("test", test)) for name, _ in listing}
    pairs = [pair for pair in KSDD_TWINS if {sides.get(name) for name in pair} == {"train", "test"}]
    if not pairs:
        return ["no pair of twins falls on both sides of this fold"]
    return ["twins on both sides of this fold: " + ", ".join(
        " = ".join(f"{name} ({sides[name]})" for name in pair) for pair in pairs)]


def _keep_twins_together(names: list[str]) -> list[tuple[str, ...]]:
    twins = [tuple(name for name in pair if name in names) for pair in KSDD_TWINS]
    paired = {name for pair in twins for name in pair}
    return [pair for pair in twins if pair] + [(name,) for name in names if name not in paired]
