"""One's own folder: `good/`, `defect/` and, for none, some or all defects, `masks/` with the names of their images."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mffpa_ext.data.bad_images import listed
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.duplicates import notes_on_duplicates
from mffpa_ext.data.folder_files import FolderFiles, find_files, normal
from mffpa_ext.data.images import largest_mask_value, read_mask
from mffpa_ext.data.part_lists import read_parts
from mffpa_ext.data.splits import Layout, part_by_seed
from mffpa_ext.data.survey import survey
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

_FEW = 5  # defects of a part, below which its figures say little
_TITLES = {"train": "train", "val": "validation", "test": "test"}  # of the parts


@dataclass(frozen=True)
class MaskFile:
    """A mask whose pixels count from a gray value on, see `read_mask`. defective: that of its image."""

    path: Path
    threshold: int
    defective: bool

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> np.ndarray:
        """uint8 [H,W] of 0 and 1. Raises UserError for the mask of a defect that marks no pixel."""
        mask = read_mask(self.path, self.threshold)
        if self.defective and not mask.any():
            raise UserError(f"{self.path}: expected the pixels of a defect, its largest value is "
                            f"{largest_mask_value(self.path)} of 255 with --mask-threshold {self.threshold}: correct "
                            f"the mask, lower the threshold, or remove the mask: its image then trains by its label")
        return mask


def build(config: DataConfig, seed: int, test_only: bool = False, parts: Mapping[str, str] | None = None) -> Layout:
    """Records of a folder, parted by `parts` (of an earlier run), by the split file, or by the seed.

    The images decide the settings `image_size` and `channels` where these are open. test_only: the images of other
    parts need not be there. Raises UserError where names do not fit together.
    """
    files = find_files(config)
    if files.stray and parts is None:  # an earlier run's images are known: what is missing of them is told below
        more = f" (and {len(files.stray) - 1} more: {listed(files.stray[1:])})" if len(files.stray) > 1 else ""
        raise UserError(f"{Path(config.data_root) / files.stray[0]}: expected its image in {config.defect_folder} or "
                        f"{config.good_folder}, found none of its name{more}: rename or remove the mask")
    records = [Record(name, path, _mask(name, files, config, label), label, annotated=not label or name in files.masks)
               for label, images in ((1, files.defective), (0, files.good)) for name, path in images.items()]
    given, notes = _parts(config, records, seed, parts, test_only)
    if config.validate_on == "test" and not any(part == "test" for part in given.values()):
        raise UserError("--validate-on test: there are no test images: give a --test-fraction above 0 or leave it out")
    layout = Layout(*([record for record in records if given.get(record.name) == part] for part in ("train", "test")),
                    official=True, notes=notes, found=[_found(config, files)],
                    validation=[record for record in records if given.get(record.name) == "val"])
    layout.notes += _remarks(layout)
    if parts is None and not test_only:
        layout.notes += notes_on_duplicates(records, given)
    if parts is None or config.image_size is None or config.channels == "auto":
        seen = survey([record.image for record in records], config.image_size, config.channels, config.bit_depth)
        layout.settings = {"image_size": seen.image_size, "channels": seen.channels}
        layout.found += seen.found
        layout.notes += seen.notes
    return layout


def _mask(name: str, files: FolderFiles, config: DataConfig, label: int) -> MaskFile | None:
    return MaskFile(files.masks[name], config.mask_threshold, bool(label)) if name in files.masks else None


def _parts(config: DataConfig, records: list[Record], seed: int, earlier: Mapping[str, str] | None,
           test_only: bool) -> tuple[Mapping[str, str], list[str]]:
    """The part of each image, and what is to be said of the split."""
    names = [record.name for record in records]
    if earlier is not None:
        parts = _as_named_now(earlier, names)
        return parts, _changes(parts, names, config, test_only)
    if config.split_file is None:
        parts = part_by_seed(records, config.test_fraction, config.val_fraction, seed)
        return parts, [f"split by seed {seed}: {_counts(parts)}"]
    parts = read_parts(Path(config.split_file), names)
    file, notes = Path(config.split_file).name, []
    unlisted = [name for name in names if name not in parts]
    if unlisted:
        notes.append(f"{len(unlisted)} images are not listed in {file} and not used: {listed(unlisted, 5)}")
    if "val" not in parts.values() and config.val_fraction > 0 and not test_only:
        training = [record for record in records if parts.get(record.name) == "train"]
        parts = parts | part_by_seed(training, 0, config.val_fraction, seed)
        notes.append(f"{file} lists no validation images: set aside from its training images by seed {seed}")
    return parts, [f"split by {file}: {_counts(parts)}", *notes]


def _as_named_now(earlier: Mapping[str, str], names: list[str]) -> dict[str, str]:
    """The parts by the names that the files have today: on the way to another system accents may be composed anew."""
    there, today = set(names), {normal(name): name for name in names}
    return {name if name in there else today.get(normal(name), name): part for name, part in earlier.items()}


def _changes(earlier: Mapping[str, str], names: list[str], config: DataConfig, test_only: bool) -> list[str]:
    """What came since the split was made is in no part; what is gone trained the network, or may be left out."""
    there = set(names)
    lost = {name: part for name, part in earlier.items() if name not in there and (part == "test" or not test_only)}
    trained = [name for name, part in lost.items() if part == "train"]
    missing = trained if config.on_bad_image == "skip" else list(lost)
    if missing:
        remedy = "" if trained else ", or leave it out with --on-bad-image skip"
        raise UserError(f"{Path(config.data_root) / missing[0]}: an image of this run is no longer there "
                        f"({len(missing)} such images): put it back{remedy}: {listed(missing)}")
    for part, count in Counter(lost.values()).items():
        total = list(earlier.values()).count(part)
        if 2 * count > total:
            raise UserError(f"--on-bad-image skip: {count} of the {total} {_TITLES[part]} images of this run are no "
                            f"longer there, more than half: put them back: {listed(list(lost), 3)}")
    notes = []
    if lost:
        notes.append(f"{len(lost)} images of this run are no longer there and left out: {listed(list(lost))}")
    added = [name for name in names if name not in earlier]
    if added:
        notes.append(f"{len(added)} images came after the split of the training, or were left out of it, and are not "
                     f"used: {listed(added, 5)}")
    return notes


def _counts(parts: Mapping[str, str]) -> str:
    counts = Counter(parts.values())
    return ", ".join(f"{counts[part]} {title}" for part, title in _TITLES.items() if counts[part])


def _found(config: DataConfig, files: FolderFiles) -> str:
    masked = sum(name in files.masks for name in files.defective)
    text = (f"{config.data_root}: {len(files.good)} defect-free images in {config.good_folder}, {len(files.defective)} "
            f"defective in {config.defect_folder}, {masked} of them with a mask in {config.mask_folder}")
    if files.others:
        text += f"; {files.others.total()} other files ({', '.join(sorted(files.others))}) are passed over"
    return text


def _remarks(layout: Layout) -> list[str]:
    """On numbers of images that a user may want to know about before the training."""
    notes = []
    defective = sum(record.label for record in layout.train)
    good = len(layout.train) - defective
    if 0 < good < defective:
        notes.append(f"fewer defect-free ({good}) than defective ({defective}) training images: they are shown more "
                     f"than once in an epoch")
    if defective and not any(record.label and record.has_mask for record in layout.train):
        notes.append("no training image has a mask: the network learns from labels alone, which takes more of them")
    for part, records in (("validation", layout.validation), ("test", layout.test)):
        count = sum(record.label for record in records)
        if 0 < count < _FEW:
            flag = {"validation": "--val-fraction", "test": "--test-fraction"}[part]
            notes.append(f"{count} defective {part} image{'s' * (count > 1)}: figures on so few say little; {flag} 0 "
                         f"trains on them instead")
    if not layout.test:
        notes.append("no test images: the network is trained and not evaluated")
    return notes
