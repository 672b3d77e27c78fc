"""Reads the split files published with MixSup (`.pyb`): pickles, which are programs, so only plain values get through.

Layouts, by data set; a flag says whether the image may be used with its pixel mask:
KSDD (train, test), each a list over 3 folds of (folder, flag); DAGM the same over 10 classes of (file name, flag);
KSDD2 (train, test) of (number, flag); STEEL (train, test, validation) of (file name without suffix, flag).
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mffpa_ext.data.facts import DAGM_CLASSES, KSDD_FOLDS
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

Listing = list[tuple[str, bool]]


@dataclass(frozen=True)
class _Structure:
    """lists: names of the outer lists. name: what an image is called by. over: count and name of the lists within."""

    lists: tuple[str, ...]
    name: str
    over: tuple[int, str] | None = None

    def __str__(self) -> str:
        within = f" lists over {self.over[0]} {self.over[1]}" if self.over else " lists"
        return f"({', '.join(self.lists)}){within} of ({self.name}, flag)"


_STRUCTURES = {
    "ksdd": _Structure(("train", "test"), "folder", (KSDD_FOLDS, "folds")),
    "dagm": _Structure(("train", "test"), "file name", (DAGM_CLASSES, "classes")),
    "ksdd2": _Structure(("train", "test"), "number"),
    "steel": _Structure(("train", "test", "validation"), "file name without suffix"),
}
_LARGEST = 64 * 2**20  # bytes; the published files are below 1 MB


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, tuples, strings, numbers, None and nothing else: looking up any function or class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load_plain_pickle(path: Path) -> Any:
    """Reads a pickle of builtin types without running anything in it. Raises UserError for every other file."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: expected a split file of less than {_LARGEST // 2**20} MiB, got a larger one")
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: expected a split file of MixSup (.pyb), found no such file") from None
    # Damaged pickles raise nearly anything (KeyError, AttributeError, UnicodeDecodeError, MemoryError, …).
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: expected a split file of MixSup (a pickle of lists and strings only), "
                        f"got something else ({reason}): refused") from None


def read_split(path: Path, dataset: str, part: int = 0) -> tuple[Listing, ...]:
    """Returns (train, test), for steel (train, test, validation), each a list of (name, flag).

    part: fold (KSDD) or class (DAGM), from 0. Numbers become strings. Raises UserError where the content has another
    structure than the data set's, lists a name twice or, except for DAGM, in two lists.
    """
    content = load_plain_pickle(path)
    structure = _STRUCTURES[dataset]

    def fail(got: str) -> UserError:
        return UserError(f"{path}: expected a {dataset.upper()} split, {structure}, got {got}: "
                         f"give the split file of this data set")

    if not isinstance(content, (list, tuple)) or len(content) != len(structure.lists):
        raise fail(_describe(content))
    if structure.over:
        for listings in content:
            if not isinstance(listings, (list, tuple)) or len(listings) != structure.over[0]:
                raise fail(f"a part that is {_describe(listings)}")
        content = [listings[part] for listings in content]
    read = tuple(_listing(entries, structure.name, fail) for entries in content)
    if dataset != "dagm":  # DAGM's halves are numbered by themselves; elsewhere a name in two lists is a leak
        _refuse_shared(read, structure.lists, fail)
    return read


def select(records: Sequence[Record], listing: Listing, folder: Path, split_file: str,
           ending: str = "") -> list[Record]:
    """The records that a list names, in their own order, annotated as it says.

    folder: where their images lie. ending: of the file names, where the list leaves it out. Raises UserError for a
    name that is not there.
    """
    flags = {f"{name}{ending}": flag for name, flag in listing}
    known = {record.image.name for record in records}
    missing = [listed for listed in flags if listed not in known]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{folder / missing[0]}: listed in {split_file}{more}, found no such file: "
                        f"complete the data set (`mffpa datasets check` names what is missing) or leave --split-file "
                        f"out")
    return [replace(record, annotated=not record.label or flags[record.image.name])
            for record in records if record.image.name in flags]


def _refuse_shared(listings: Sequence[Listing], titles: Sequence[str], fail: Callable[[str], UserError]) -> None:
    first: dict[str, str] = {}
    for title, listing in zip(titles, listings, strict=True):
        for name, _ in listing:
            if name in first:
                raise fail(f"{name} in {first[name]} and in {title}")
        first |= {name: title for name, _ in listing}


def _listing(entries: Any, kind: str, fail: Callable[[str], UserError]) -> Listing:
    if not isinstance(entries, (list, tuple)) or not entries:
        raise fail(f"a listing that is {_describe(entries)}")
    listing: dict[str, bool] = {}
    for entry in entries:
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], (bool, int))
                and (type(entry[0]) is int if kind == "number" else isinstance(entry[0], str))):
            raise fail(f"the entry {str(entry)[:60]!r}")
        name = str(entry[0])
        if name in listing:
            raise fail(f"{name!r} twice")
        # A name becomes a path: it must not lead out of the data set.
        if not name or Path(name).name != name or name in (".", ".."):
            raise fail(f"{name[:60]!r}, which is no plain name")
        listing[name] = bool(entry[1])
    return list(listing.items())


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
