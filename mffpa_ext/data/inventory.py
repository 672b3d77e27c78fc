"""What a folder holds of a published data set, beside what was published: counts and everything that is wrong.

A data set's module lists its files (`inventory`), names alone; `examine` then reads every one of them.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mffpa_ext.data.images import read_image, read_mask
from mffpa_ext.data.pairs import Pairs
from mffpa_ext.data.published import Counts, Size
from mffpa_ext.data.types import MaskSource
from mffpa_ext.errors import UserError

# What may be wrong, in the order of the report.
MISSING, NO_MASK, NO_IMAGE = "missing", "without its mask", "mask without image"
UNREADABLE, SIZE, CONTRADICTION = "unreadable", "another size", "contradiction"
LISTING, UNEXPECTED, COUNTS = "listing", "not published", "other counts"
KINDS = (MISSING, NO_MASK, NO_IMAGE, UNREADABLE, SIZE, CONTRADICTION, LISTING, UNEXPECTED, COUNTS)
_MAY_ADD = (NO_MASK, CONTRADICTION, LISTING, UNEXPECTED)  # problems of images that may count as the wrong kind

_READERS = min(8, os.cpu_count() or 1)
_AHEAD = 4 * _READERS  # images in work at once: an interruption waits for no more


@dataclass(frozen=True)
class Problem:
    """path: the file, relative to the data set's folder, or of `COUNTS` the part. kind: one of KINDS. text: what was
    expected and what came."""

    path: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Item:
    """One image that is there.

    label: 1 defective, 0 not, None: its mask decides. mask: None where it has none.
    sizes: smallest and largest published H×W; None: sizes vary, and only image and mask have to agree.
    """

    part: str
    image: Path
    mask: Path | MaskSource | None
    label: int | None = None
    sizes: tuple[Size, Size] | None = None


@dataclass
class Inventory:
    """The names of what a folder holds.

    published: part → counts, in the order of the report. notes: what a reader of the report should know.
    """

    root: Path
    published: dict[str, Counts]
    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, path: Path, kind: str, text: str) -> None:
        """Adds a problem."""
        self.problems.append(Problem(_relative(path, self.root), kind, text))

    def add_pairs(self, part: str, folder: Path, pairs: Pairs, published: Sequence[str], image_ending: str,
                  mask_ending: str, sizes: tuple[Size, Size] | None = None) -> None:
        """Adds a folder in which every image has a mask file beside it, and reports what is missing.

        published: stems of the images. Endings: of the file names, after the stem. sizes: see `Item`.
        """
        known = set(published)
        self.compare_names(folder, pairs, published, image_ending)
        for stem in pairs.without_mask:
            if stem in known:  # else the image is one too many already
                self.report(pairs.images[stem], NO_MASK, f"expected its mask {stem}{mask_ending}, found no such file")
        self.items += [Item(part, image, pairs.masks.get(stem), None, sizes) for stem, image in pairs.images.items()]

    def compare_names(self, folder: Path, pairs: Pairs, published: Sequence[str], image_ending: str) -> None:
        """Reports images that are missing, images that were never published, and such masks."""
        for stem in published:
            if stem not in pairs.images:
                self.report(folder / f"{stem}{image_ending}", MISSING, "published, found no such file")
        known = set(published)
        for stem, path in pairs.images.items():
            if stem not in known:
                self.report(path, UNEXPECTED, "no such image was published: remove it, or training takes it in")
        for stem in pairs.without_image:
            if stem not in known:  # else the image is missing already
                self.report(pairs.masks[stem], NO_IMAGE, f"expected its image {stem}{image_ending}, found no such file")


@dataclass(frozen=True)
class Examination:
    """The report. found: part → counts of the images whose kind could be told; unreadable: part → others."""

    root: Path
    published: dict[str, Counts]
    found: dict[str, Counts]
    unreadable: dict[str, int]
    files: int
    problems: list[Problem]
    notes: list[str]


def examine(inventory: Inventory, progress: bool = True) -> Examination:
    """Reads every image and mask of an inventory, in threads. progress: show a bar on standard error.

    Memory holds a few images at a time, however many there are.
    """
    counts = {part: [0, 0] for part in inventory.published}
    unreadable = dict.fromkeys(inventory.published, 0)
    problems = list(inventory.problems)
    files = 0
    for item, (label, found) in _in_threads(inventory.items, inventory.root, progress):
        files += 1 + isinstance(item.mask, Path)
        problems += found
        if label is None:
            unreadable[item.part] += 1
        else:
            counts[item.part][1 - label] += 1
    problems += _differing_counts(inventory.published, counts, problems)
    problems.sort(key=lambda problem: KINDS.index(problem.kind))  # stable: within a kind, the order of the files
    return Examination(inventory.root, inventory.published, {part: Counts(*pair) for part, pair in counts.items()},
                       unreadable, files, problems, inventory.notes)


def _differing_counts(published: dict[str, Counts], found: dict[str, list[int]],
                      problems: Sequence[Problem]) -> list[Problem]:
    """Parts with more images of a kind than were published, and than the other problems explain.

    Where a mask lost its pixels, or a listing its end, defective images count as defect-free, and no file is wrong.
    """
    differing = []
    for part, expected in published.items():
        explained = sum(problem.kind in _MAY_ADD for problem in problems
                        if len(published) == 1 or problem.path.startswith(f"{part}{os.sep}"))
        if max(got - limit for got, limit in zip(found[part], expected, strict=True)) > explained:
            differing.append(Problem(part, COUNTS, f"expected {expected.defective} defective + {expected.good} "
                                                   f"defect-free images, found {found[part][0]} + {found[part][1]}: "
                                                   f"masks or their listing are incomplete: copy them again"))
    return differing


def _examine_item(item: Item, root: Path) -> tuple[int | None, list[Problem]]:
    """The label of an image, None where it cannot be told, and what is wrong with it and its mask."""
    problems = []

    def report(path: Path | MaskSource, kind: str, text: str) -> None:
        problems.append(Problem(_relative(path, root), kind, text))

    size = mask = None
    try:
        size = tuple(read_image(item.image, 3).shape[1:])
    except UserError as error:
        report(item.image, UNREADABLE, _without_path(error, item.image))
    if item.mask is not None:
        try:
            mask = read_mask(item.mask) if isinstance(item.mask, Path) else item.mask.read()
        except UserError as error:
            report(item.mask, UNREADABLE, _without_path(error, item.mask))
    if size and item.sizes and not _within(size, *item.sizes):
        report(item.image, SIZE, f"expected {_range(*item.sizes)} (height x width), got {_shown(size)}")
    elif size and mask is not None and size != mask.shape:
        report(item.mask, SIZE, f"expected the size of its image, {_shown(size)}, got {_shown(mask.shape)}")
    label = item.label
    if mask is not None:
        marked = int(np.any(mask))
        if label is not None and marked != label:
            report(item.mask, CONTRADICTION, "marks no pixel, yet its image counts as defective" if label
                   else "marks pixels, yet its image counts as defect-free")
        label = marked if label is None else label
    return (None if size is None else label), problems


def _in_threads(items: list[Item], root: Path, progress: bool) -> Iterator[tuple[Item, tuple]]:
    """Items with what `_examine_item` says of them, in order."""
    with ThreadPoolExecutor(_READERS) as pool, tqdm(total=len(items), unit="img", desc="images", leave=False,
                                                    disable=None if progress else True) as bar:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(_examine_item, item, root)))
                if len(waiting) >= _AHEAD:
                    done, result = waiting.popleft()
                    yield done, result.result()
                    bar.update()
            for done, result in waiting:
                yield done, result.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _relative(path: Path | MaskSource, root: Path) -> str:
    return str(path).removeprefix(f"{root}{os.sep}")


def _without_path(error: UserError, path: Path | MaskSource) -> str:
    """The text of a message that begins with the path, which the report names itself."""
    return str(error).removeprefix(f"{path}: ")


def _within(size: tuple[int, ...], smallest: Size, largest: Size) -> bool:
    return all(low <= side <= high for side, low, high in zip(size, smallest, largest, strict=True))


def _range(smallest: Size, largest: Size) -> str:
    return _shown(smallest) if smallest == largest else f"{_shown(smallest)} to {_shown(largest)}"


def _shown(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
