"""Reads the split files published with MixSup (`.pyb`): pickles, which are programs, so only plain values get through.

Layouts, by data set; a flag says whether the image may be used with its pixel mask:
KSDD (train, test), each a list over 3 folds of (folder, flag); DAGM the same over 10 classes of (file name, flag).
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mffpa_ext.data.facts import DAGM_CLASSES, KSDD_FOLDS
from mffpa_ext.errors import UserError

Listing = list[tuple[str, bool]]
_PARTS = {"ksdd": (KSDD_FOLDS, "folds", "folder"), "dagm": (DAGM_CLASSES, "classes", "file name")}
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


def read_split(path: Path, dataset: str, part: int) -> tuple[Listing, Listing]:
    """Returns (train, test) of one fold (KSDD) or class (DAGM), `part` from 0, each a list of (name, flag).

    Raises UserError where the content has another structure than the data set's or lists a name twice.
    """
    content = load_plain_pickle(path)
    count, parts, kind = _PARTS[dataset]

    def fail(got: str) -> UserError:
        return UserError(f"{path}: expected a {dataset.upper()} split, (train, test) lists over {count} {parts} of "
                         f"({kind}, flag), got {got}: give the split file of this data set")

    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise fail(_describe(content))
    for listings in content:
        if not isinstance(listings, (list, tuple)) or len(listings) != count:
            raise fail(f"a part that is {_describe(listings)}")
    train, test = (_listing(listings[part], fail) for listings in content)
    shared = {name for name, _ in train} & {name for name, _ in test}
    # DAGM numbers both halves alike; a KSDD folder on both sides is a leak.
    if dataset == "ksdd" and shared:
        raise fail(f"{sorted(shared)[0]} in train and in test")
    return train, test


def _listing(entries: Any, fail: Callable[[str], UserError]) -> Listing:
    if not isinstance(entries, (list, tuple)) or not entries:
        raise fail(f"a listing that is {_describe(entries)}")
    listing: dict[str, bool] = {}
    for entry in entries:
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)
                and isinstance(entry[1], (bool, int))):
            raise fail(f"the entry {str(entry)[:60]!r}")
        name = entry[0]
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
