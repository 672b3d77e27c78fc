"""Images that are there more than once: known to the training, they flatter the test."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mffpa_ext.data.bad_images import listed
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError


def equal_files(files: Mapping[str, Path]) -> list[list[str]]:
    """Names of files that have the same bytes, in groups of two and more. Reads only files of one length."""
    by_length = _groups(files, {name: _length(path) for name, path in files.items()})
    alike = {name: files[name] for group in by_length for name in group}
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(alike, pool.map(_digest, alike.values())))
    return _groups(alike, digests)


def notes_on_duplicates(records: Sequence[Record], parts: Mapping[str, str]) -> list[str]:
    """What is to be said of equal images. Raises UserError for one that is defective and defect-free."""
    labels = {record.name: record.label for record in records}
    groups = equal_files({record.name: record.image for record in records})
    torn = [f"{group[0]} = {next(name for name in group if labels[name] != labels[group[0]])}" for group in groups
            if len({labels[name] for name in group}) == 2]
    if torn:
        raise UserError(f"the same image, byte for byte, counts as defective and as defect-free: {listed(torn)}: "
                        f"remove one of each")
    parted = [" = ".join(group[:2]) for group in groups if len({parts.get(name) for name in group} - {None}) > 1]
    if not parted:
        return []
    return [f"{len(parted)} images are there more than once, byte for byte, on different sides of the split, which "
            f"flatters the results: {listed(parted, 3)}: keep one of each"]


def _groups(names: Iterable[str], keys: Mapping[str, object]) -> list[list[str]]:
    groups: dict[object, list[str]] = {}
    for name in names:
        if keys[name] is not None:
            groups.setdefault(keys[name], []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _length(path: Path) -> int | None:
    """None for empty files and those that cannot be looked at: they are told of when images are read."""
    try:
        return path.stat().st_size or None
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None
