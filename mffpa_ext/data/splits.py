"""Which images train, validate and test, and which of them have a pixel mask: all of it decided by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mffpa_ext.data.folder_files import normal
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

# Each decision draws from its own stream, so that changing one leaves the others as they were.
_ANNOTATION, _VALIDATION, _HALVES, _TEST, _PARTS = 1, 2, 3, 4, 5


@dataclass
class Layout:
    """What a builder makes of a data set: its published parts.

    by_folder: annotation is counted in folders (KSDD), not in images.
    flags_fixed: a split file has said which positives are annotated.
    validation: the part that is fixed already; None: it is carved from `train`.
    settings: those that the images decide, by the config's field.
    found: what lies in the folder, in lines to be shown before the images are read.
    """

    train: list[Record]
    test: list[Record]
    official: bool
    by_folder: bool = False
    flags_fixed: bool = False
    notes: list[str] = field(default_factory=list)
    validation: list[Record] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def choose_annotated(records: Sequence[Record], number: str | int, seed: int, by_folder: bool = False) -> list[Record]:
    """Marks which positives may use their pixel mask: `number` of them, or of the folders that hold them.

    number: "all" (of those that have one) or 0 and more. The choice for a smaller number is part of that for a larger
    one, so that results over N differ by annotation alone. Returns the records in their order. Raises UserError for too
    large a number.
    """
    units = sorted({_unit(record, by_folder) for record in records if record.label and record.has_mask})
    kind = "folders with defective training images" if by_folder else "defective training images"
    if any(record.label and not record.has_mask for record in records):
        kind += " that have a mask"
    if number == "all":
        number = len(units)
    if number > len(units):
        raise UserError(f"--num-segmented: expected at most {len(units)}, the number of {kind}, or 'all', got {number}")
    order = _generator(seed, _ANNOTATION).permutation(len(units))
    chosen = {units[i] for i in order[:number]}
    return [replace(record, annotated=not record.label or _unit(record, by_folder) in chosen) for record in records]


def _unit(record: Record, by_folder: bool) -> str:
    return record.folder if by_folder else record.name


def check_fixed_flags(records: Sequence[Record], number: str | int, split_file: str, by_folder: bool) -> list[str]:
    """Compares N with the positives that a split file marks; returns the notes. The file decides.

    An N above the positives that are there means all of them, as DAGM's 1000 does; one that contradicts the file
    raises UserError.
    """
    positives = {_unit(record, by_folder) for record in records if record.label}
    marked = {_unit(record, by_folder) for record in records if record.label and record.annotated}
    kind = "folders" if by_folder else "defective training images"
    if number == "all":
        return [f"pixel masks: {len(marked)} of {len(positives)} {kind}, as {split_file} says"]
    if number == len(marked):
        return []
    # KSDD's `split_33_33` marks all 34 folders of its last fold: the published N is the number in the name.
    if marked == positives and (number > len(positives) or split_file.rpartition("_")[2] == f"{number}.pyb"):
        return [f"pixel masks: N = {number} means all {len(positives)} {kind} of {split_file}"]
    raise UserError(f"--num-segmented: {split_file} marks {len(marked)} of {len(positives)} {kind}, got {number}: "
                    f"leave the flag out or give the split file of that number")


def notes_on_carved_masks(records: Sequence[Record], remaining: Sequence[Record], by_folder: bool) -> list[str]:
    """Of a split file's masks: what `carve_validation` took from `records`, so that fewer than N are trained on."""
    marked, left = (len({_unit(record, by_folder) for record in part if record.label and record.annotated})
                    for part in (records, remaining))
    if left == marked:
        return []
    kind = "folders" if by_folder else "defective training images"
    return [f"pixel masks: --val-fraction set {marked - left} of the {marked} {kind} with masks aside, {left} are "
            f"trained on: not comparable with results of N = {marked}"]


def carve_validation(records: Sequence[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Parts records into training and validation, stratified by label, groups kept whole.

    fraction: 0 to below 1; of each kind at least one unit goes to validation and at least one stays. Validation
    positives keep their masks: they serve evaluation and are never trained on. Returns (training, validation), each in
    the order of `records`. Raises UserError where a kind has too few units to be parted.
    """
    if fraction <= 0:
        return list(records), []
    units: dict[str, int] = {}
    for record in records:
        unit = record.group or record.name
        units[unit] = max(units.get(unit, 0), record.label)
    rng = _generator(seed, _VALIDATION)
    chosen: set[str] = set()
    for label, kind in ((1, "defective"), (0, "defect-free")):
        stratum = sorted(unit for unit, its_label in units.items() if its_label == label)
        if label == 0 and chosen & {record.group for record in records if not record.label}:
            # Defective items bring good images along (every KSDD folder does); the others follow in proportion.
            minimum = 0
        else:
            minimum = 1
        if len(stratum) < 2 * minimum:
            raise UserError(f"--val-fraction: expected at least 2 {kind} training images (or folders) to part, got "
                            f"{len(stratum)}: add images or give --val-fraction 0")
        count = min(len(stratum) - minimum, max(minimum, round(fraction * len(stratum))))
        chosen.update(stratum[i] for i in rng.permutation(len(stratum))[:count])
    training = [record for record in records if (record.group or record.name) not in chosen]
    validation = [replace(record, annotated=record.has_mask) for record in records
                  if (record.group or record.name) in chosen]
    return training, validation


def part_by_seed(records: Sequence[Record], test_fraction: float, val_fraction: float, seed: int) -> dict[str, str]:
    """Parts the images of one's own folder: their names to "train", "val" or "test".

    test_fraction: of all images. val_fraction: of what then remains. Both 0 to below 1, 0 for no such part. Stratified
    by defect-free, defective with mask and defective without: each part has both labels, and masks, as far as they
    go, are on every side, the last one in training. Raises UserError where a label has fewer images than there are
    parts.
    """
    fractions = {"test": test_fraction, "val": val_fraction}
    wanted = [part for part, fraction in fractions.items() if fraction > 0]
    for label, kind in ((1, "defective"), (0, "defect-free")):
        count = sum(record.label == label for record in records)
        if count <= len(wanted):
            flags = " ".join(f"--{part}-fraction 0" for part in wanted[max(0, count - 1):])
            raise UserError(f"{count} {kind} image{'s' * (count != 1)} cannot be parted into train and "
                            f"{' and '.join(wanted)}, each of which needs one: add images, or do without: {flags}")
    parts = {record.name: "train" for record in records}
    for number, part in enumerate(wanted, start=1):
        remaining = [record for record in records if parts[record.name] == "train"]
        rng = _generator(seed, {"test": _TEST, "val": _VALIDATION}[part])
        to_leave = len(wanted) - number + 1  # for the parts to come
        parts |= dict.fromkeys(_stratified(remaining, fractions[part], to_leave, rng), part)
    return parts


def _stratified(records: Sequence[Record], fraction: float, to_leave: int, rng: np.random.Generator) -> list[str]:
    """Names of about `fraction` of each kind of image; of each label one at least is taken, and `to_leave` are left."""
    good, masked, unmasked = (sorted((record.name for record in records if (record.label, record.has_mask) == kind),
                                     key=lambda name: (normal(name), name))
                              for kind in ((0, True), (1, True), (1, False)))

    def share(count: int) -> int:
        return min(max(1, round(fraction * count)), count - to_leave)

    defective = share(len(masked) + len(unmasked))
    in_proportion = round(defective * len(masked) / (len(masked) + len(unmasked)))
    with_mask = max(min(in_proportion, len(masked) - 1), defective - len(unmasked), 0)
    counts = ((good, share(len(good))), (masked, with_mask), (unmasked, defective - with_mask))
    return [names[i] for names, count in counts for i in rng.permutation(len(names))[:count]]


def split_in_halves(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Parts records half and half, stratified by label; of an odd number the first half gets one more."""
    rng = _generator(seed, _HALVES)
    first: set[str] = set()
    for label in (1, 0):
        stratum = sorted(record.name for record in records if record.label == label)
        first.update(stratum[i] for i in rng.permutation(len(stratum))[:(len(stratum) + 1) // 2])
    return ([record for record in records if record.name in first],
            [record for record in records if record.name not in first])


def draw_parts(records: Sequence[Record], parts: Sequence[tuple[int, int]], seed: int) -> list[list[Record]]:
    """Draws disjoint parts of given numbers of (defective, defect-free) images.

    Each part depends on the seed and on the parts before it alone, and one that comes last is part of a larger one.
    Returns the parts, each in the order of `records`. Raises ValueError where there are too few records.
    """
    rng = _generator(seed, _PARTS)
    drawn: list[set[str]] = [set() for _ in parts]
    for kind, label in enumerate((1, 0)):
        stratum = sorted(record.name for record in records if record.label == label)
        if sum(part[kind] for part in parts) > len(stratum):
            raise ValueError(f"parts of {[part[kind] for part in parts]} of {len(stratum)} records")
        order, start = rng.permutation(len(stratum)), 0
        for part, names in zip(parts, drawn, strict=True):
            names.update(stratum[i] for i in order[start:start + part[kind]])
            start += part[kind]
    return [[record for record in records if record.name in names] for names in drawn]


def group_folds(groups: Sequence[Sequence[str]], folds: int, seed: int) -> list[set[str]]:
    """Deals units (each some groups that must stay together) to `folds` folds of nearly equal size, by the seed."""
    order = _generator(seed, _HALVES).permutation(len(groups))
    # The larger units first, each to the smallest fold so far: folds then differ by one group at most.
    dealt: list[set[str]] = [set() for _ in range(folds)]
    for unit in sorted((groups[i] for i in order), key=len, reverse=True):
        min(dealt, key=len).update(unit)
    return dealt
