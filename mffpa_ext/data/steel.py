"""Severstal steel: `train_images/*.jpg`, and `train.csv` with run-length masks of the defective ones.

Two forms of `train.csv` were published: `ImageId,ClassId,EncodedPixels` with rows of defects only, and before that
`ImageId_ClassId,EncodedPixels` with four rows an image, the pixels empty where there is no defect of the class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mffpa_ext.data.completeness import notes_on_counts
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.images import is_image_file
from mffpa_ext.data.inventory import LISTING, MISSING, Inventory, Item
from mffpa_ext.data.published import (
    STEEL_CLASSES, STEEL_COUNTS, STEEL_DEFECT_CLASS, STEEL_SIZE, STEEL_TEST, STEEL_TRAIN_GOOD, STEEL_VALIDATION, Counts)
from mffpa_ext.data.run_length import RunLengthMask
from mffpa_ext.data.split_files import read_split, select
from mffpa_ext.data.splits import Layout, draw_parts
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

_LISTING = "train.csv"
_COLUMNS = (["ImageId", "ClassId", "EncodedPixels"], ["ImageId_ClassId", "EncodedPixels"])


@dataclass
class Annotation:
    """What `train.csv` says of one image. line: the first that names it. rows: (line, class, text) of those that mark
    pixels."""

    line: int
    rows: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def classes(self) -> list[int]:
        """Classes of the defects, one per row."""
        return [number for _, number, _ in self.rows]


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of MixSup's training, test and validation lists, or of lists of the same counts drawn by the seed.

    test_only: of a split file, nothing but the test list is looked at. The seed draws its lists from all images.
    """
    root = Path(config.data_root)
    annotations = read_annotations(root / _LISTING)
    records = _records(root, annotations)
    if config.split_file is None:
        return _drawn(config, seed, records, annotations)
    listings = read_split(Path(config.split_file), "steel")
    if test_only:
        listings = ([], listings[1], [])
    train, test, validation = (
        select(records, listing, root / "train_images", config.split_file, ".jpg") for listing in listings)
    positives = sum(record.label for record in train)
    if not test_only and config.steel_positives not in (None, positives):
        raise UserError(f"--steel-positives: {config.split_file} lists {positives} defective training images, got "
                        f"{config.steel_positives}: leave the flag out or give the split file of that number")
    return Layout(train, test, official=True, validation=validation, flags_fixed=True)


def read_annotations(path: Path) -> dict[str, Annotation]:
    """File name of an image → its rows. Raises UserError where the file is not such a one."""
    annotations: dict[str, Annotation] = {}
    for line, image, number, text in _rows(path):
        annotation = annotations.setdefault(image, Annotation(line))
        if text:
            annotation.rows.append((line, number, text))
    return annotations


def inventory(root: Path, split_file: Path | None = None) -> Inventory:
    """What is there of the 12568 images. Raises UserError where there is none, or no `train.csv`.

    split_file: its images are to be there as well. The newer `train.csv` names no good image, so that without a split
    file those that are missing can be counted, not named.
    """
    annotations = read_annotations(root / _LISTING)
    images = _images(root)
    listed = Inventory(root, {"train_images": STEEL_COUNTS})
    named = dict.fromkeys(annotations)
    if split_file is not None:
        named |= dict.fromkeys(f"{stem}.jpg" for listing in read_split(split_file, "steel") for stem, _ in listing)
    for name in named:
        if name not in images:
            source = f"line {annotations[name].line} of {_LISTING}" if name in annotations else split_file
            listed.report(root / "train_images" / name, MISSING, f"named in {source}, found no such file")
    missing = sum(STEEL_COUNTS) - len(images) - sum(problem.kind == MISSING for problem in listed.problems)
    if missing > 0:
        hint = "" if split_file else "; --split-file names most of them"
        listed.report(root / "train_images", MISSING,
                      f"{missing} more of the {sum(STEEL_COUNTS)} published images, which no list names{hint}")
    for name, annotation in annotations.items():
        for index, (line, number, _) in enumerate(annotation.rows):
            if number in annotation.classes[:index]:
                listed.report(root / _LISTING, LISTING, f"line {line}: a second row of class {number} of {name}: "
                                                        f"remove one, or training unites them")
    listed.items = [Item("train_images", path, _mask(root, name, annotations), int(_is_defective(name, annotations)),
                         (STEEL_SIZE, STEEL_SIZE)) for name, path in images.items()]
    return listed


def _drawn(config: DataConfig, seed: int, records: Sequence[Record], annotations: dict[str, Annotation]) -> Layout:
    known = {record.name for record in records}
    for unknown in (name for name in annotations if name not in known):
        raise UserError(f"{Path(config.data_root) / 'train_images' / unknown}: named in line "
                        f"{annotations[unknown].line} of {_LISTING}, found no such file: complete the data set "
                        f"(`mffpa datasets check steel` names every missing file) or give a --split-file")
    pool = [record for record in records
            if not record.label or set(annotations[record.name].classes) == {STEEL_DEFECT_CLASS}]
    defective = sum(record.label for record in pool)
    held_out = Counts(*(test + validation for test, validation in zip(STEEL_TEST, STEEL_VALIDATION, strict=True)))
    room = Counts(defective - held_out.defective, len(pool) - defective - held_out.good)
    if min(room) < 1:
        raise UserError(f"{config.data_root}: expected more than {held_out.defective} images with defects of class "
                        f"{STEEL_DEFECT_CLASS} alone and {held_out.good} without defects, which test and validation "
                        f"take, found {defective} and {len(pool) - defective}: complete the data set")
    if config.steel_positives > room.defective:
        raise UserError(f"--steel-positives: expected at most {room.defective}, which test and validation leave of "
                        f"{defective} images with defects of class {STEEL_DEFECT_CLASS} alone, "
                        f"got {config.steel_positives}")
    train_counts = Counts(config.steel_positives, min(room.good, STEEL_TRAIN_GOOD))
    test, validation, train = draw_parts(pool, (STEEL_TEST, STEEL_VALIDATION, train_counts), seed)
    note = (f"unofficial lists: no --split-file, so {_shown(train_counts)} images for training, "
            f"{_shown(STEEL_VALIDATION)} for validation and {_shown(STEEL_TEST)} for the test (defective + "
            f"defect-free) were drawn by seed {seed}, defects of class {STEEL_DEFECT_CLASS} alone, as in MixSup's")
    notes = [note, *notes_on_counts("steel", {"train_images": records}, {"train_images": STEEL_COUNTS})]
    return Layout(train, test, official=False, validation=validation, notes=notes)


def _records(root: Path, annotations: dict[str, Annotation]) -> list[Record]:
    return [Record(name, path, _mask(root, name, annotations), int(_is_defective(name, annotations)), annotated=True)
            for name, path in _images(root).items()]


def _images(root: Path) -> dict[str, Path]:
    folder = root / "train_images"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the training images of Severstal steel, found no such folder: "
                        f"--data-root is the folder that holds train_images and {_LISTING}")
    images = {path.name: path for path in sorted(folder.iterdir()) if is_image_file(path)}
    if not images:
        raise UserError(f"{folder}: expected images such as 0002cc93b.jpg, found none")
    return images


def _is_defective(name: str, annotations: dict[str, Annotation]) -> bool:
    return name in annotations and bool(annotations[name].rows)


def _mask(root: Path, name: str, annotations: dict[str, Annotation]) -> RunLengthMask | None:
    if not _is_defective(name, annotations):
        return None
    return RunLengthMask(root / _LISTING, name, tuple((line, text) for line, _, text in annotations[name].rows),
                         STEEL_SIZE)


def _shown(counts: Counts) -> str:
    return f"{counts.defective} + {counts.good}"


def _rows(path: Path) -> Iterator[tuple[int, str, int, str]]:
    """(number of the line, image, class, run-length text) of every row."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = _cells(file.readline())
            if header not in _COLUMNS:
                raise UserError(f"{path}: expected the columns {' or '.join(map(','.join, _COLUMNS))}, "
                                f"got {','.join(header)[:80]!r}: give the train.csv that Severstal published")
            for line, text in enumerate(file, start=2):
                if text.strip():
                    yield (line, *_row(path, line, _cells(text), len(header)))
    except FileNotFoundError:
        raise UserError(f"{path}: expected the masks of Severstal steel, found no such file: --data-root is the folder "
                        f"that holds train_images and {_LISTING}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a table of text, got something else: copy the file again") from None


def _row(path: Path, line: int, cells: list[str], columns: int) -> tuple[str, int, str]:
    if len(cells) != columns:
        raise UserError(f"{path}, line {line}: expected {columns} columns, got {len(cells)}: copy the file again")
    image, number = cells[:2] if columns == 3 else cells[0].rpartition("_")[::2]
    if number not in map(str, STEEL_CLASSES):  # not isdigit, which holds for ² too
        raise UserError(f"{path}, line {line}: expected a class from {STEEL_CLASSES[0]} to {STEEL_CLASSES[-1]}, "
                        f"got {number[:30]!r}: copy the file again")
    if not image or Path(image).name != image:
        raise UserError(f"{path}, line {line}: expected the name of an image, got {image[:60]!r}: copy the file again")
    return image, int(number), cells[-1]


def _cells(line: str) -> list[str]:
    """The cells of a line. No cell holds a comma, and rows are longer than the csv module's limit may be."""
    return [cell.strip().strip('"') for cell in line.split(",")]
