"""What is to be predicted: image files, folders of them, and paths that come one by one through a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mffpa_ext.data.images import is_image_file
from mffpa_ext.data.mask_names import image_stem
from mffpa_ext.inference.overlay_files import FOLDER as OVERLAYS
from mffpa_ext.inference.results import CSV


@dataclass(frozen=True)
class InputImage:
    """One image to predict.

    given: the path letter by letter as it came, or as it was found in a folder that came. name: its place within what
    was given, without `..` and root, for names of results; not necessarily unique. error: what is wrong, in one line,
    where there is no image to read.
    """

    given: str
    name: str
    error: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.given)


class ImageFinder:
    """Turns what a user gives, files and folders, into images.

    Args:
        recursive: look into the folders of folders too.
        named_by_folder: begin names with the folder's own, as its images are not the only ones.
        leave_out: a folder that is not looked into, such as that of the results.

    Of a folder's files those are taken that have the suffix of an image, in the order of their names; not hidden ones,
    and not masks: files named as the mask of an image beside or above them (`Part0_label.bmp`). masks_left_out counts
    these. Overlays of an earlier prediction, in `overlays` beside its predictions.csv, are not looked into.
    A folder that cannot be read, or has no image, is one `InputImage` with an error.
    """

    def __init__(self, recursive: bool = False, named_by_folder: bool = False, leave_out: Path | None = None) -> None:
        self.recursive = recursive
        self.named_by_folder = named_by_folder
        self.leave_out = None if leave_out is None else leave_out.resolve()
        self.masks_left_out = 0

    def find(self, given: str, beside: str | None = None) -> Iterator[InputImage]:
        """beside: a folder that a file's name is told from; None: the name is the whole path."""
        path = Path(given)
        if not os.path.isdir(given):  # unlike Path.is_dir it takes a name that cannot be one for no folder
            yield InputImage(given, _plain_name(path if beside is None else Path(os.path.relpath(given, beside))))
            return
        found = False
        for image in self._in_folder(path):
            found = True
            name = image.path.relative_to(path)
            yield InputImage(image.given, str(_own_name(path) / name if self.named_by_folder else name), image.error)
        if not found:
            below = not self.recursive and any(entry.is_dir() for entry in os.scandir(path))
            what = "only folders: look into them with --recursive" if below else "none: give a folder that has some"
            yield InputImage(given, _plain_name(path), f"{path}: expected images, found {what}")

    def _in_folder(self, folder: Path, above: frozenset[str] = frozenset()) -> Iterator[InputImage]:
        """above: the stems of the images of the folder around it."""
        try:
            entries = sorted(folder.iterdir())
            os.stat(f"{folder}/.")  # what can be listed may still not be entered
        except OSError as error:
            yield InputImage(str(folder), folder.name, f"{folder}: cannot be read ({error.strerror})")
            return
        files = [path for path in entries if _is_image_file(path)]
        stems = frozenset(path.stem for path in files)
        for path in files:
            own = image_stem(path.stem)
            if own is not None and (own in stems or own in above):
                self.masks_left_out += 1
            else:
                yield InputImage(str(path), path.name)
        if self.recursive:
            for path in entries:
                # Links are left out: they may lead in circles.
                if os.path.isdir(path) and not path.is_symlink() and not path.name.startswith("."):
                    if path.resolve() != self.leave_out and not _holds_overlays(path):
                        yield from self._in_folder(path, stems)


def _is_image_file(path: Path) -> bool:
    try:
        return is_image_file(path)
    except OSError:  # a link to where one may not look: reading it tells so in its row
        return True


def _holds_overlays(folder: Path) -> bool:
    return folder.name == OVERLAYS and folder.with_name(CSV).is_file()


def common_folder(given: Iterable[str]) -> str | None:
    """The innermost folder that all files among `given` lie in; None where none is a file."""
    parents = [os.path.dirname(os.path.abspath(path)) for path in given if not os.path.isdir(path)]
    return os.path.commonpath(parents) if parents else None


def read_paths(file: int, separator: bytes = b"\n") -> Iterator[str]:
    """Paths from a file descriptor, each as soon as it is there. Empty ones are skipped.

    separator: newline (a carriage return before it is no part of the path), or NUL for names that hold newlines.
    """
    rest = b""
    while piece := os.read(file, 65536):  # not sys.stdin, which waits for more and holds a lock at the end
        *lines, rest = (rest + piece).split(separator)
        yield from _decoded(lines, separator)
    yield from _decoded([rest], separator)


def _decoded(lines: list[bytes], separator: bytes) -> Iterator[str]:
    for line in lines:
        path = os.fsdecode(line.removesuffix(b"\r") if separator == b"\n" else line)
        if path:
            yield path


def _plain_name(path: Path) -> str:
    return str(Path(*(part for part in path.parts if part not in (path.anchor, "..")))) or "image"


def _own_name(folder: Path) -> Path:
    return Path(folder.name if folder.name not in ("", "..") else folder.resolve().name)
