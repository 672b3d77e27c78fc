"""The files of one's own folder: defect-free and defective images in sub-folders, masks matched to them by name."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mffpa_ext.data.bad_images import listed
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.images import is_image_file
from mffpa_ext.data.mask_names import image_stem
from mffpa_ext.errors import UserError

_LITTER = frozenset({"thumbs.db", "desktop.ini"})
_FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
_Folder = tuple[str, ...]  # parts of the path below data_root; () is data_root


@dataclass
class FolderFiles:
    """What lies there, each file by its path below data_root with forward slashes, in the order of the names.

    masks: by their image. stray: masks whose image is not there. others: number of files that are no images, by suffix.
    """

    good: dict[str, Path] = field(default_factory=dict)
    defective: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find_files(config: DataConfig) -> FolderFiles:
    """Looks through the sub-folders that the config names, and those below them; links are followed.

    A file belongs to the deepest of the named folders that it lies in. Raises UserError for a folder that is missing,
    empty or unreadable, and for a mask that fits several images or an image that several masks fit.
    """
    root = Path(config.data_root)
    good, defective = _folders(config.good_folder, "good"), _folders(config.defect_folder, "defect")
    masks = _folders(config.mask_folder, "mask")
    for folder in {*good} & {*defective}:
        raise UserError(f"--good-folder and --defect-folder: both name {_shown(folder)}: give each its own")
    if len(masks) != 1:
        raise UserError(f"--mask-folder: expected one sub-folder, got {config.mask_folder!r}")
    for flag, folders in (("--good-folder", good), ("--defect-folder", defective)):
        for folder in folders:
            if not root.joinpath(*folder).is_dir():
                have = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:10]) or "none"
                raise UserError(f"{root.joinpath(*folder)}: expected the images of {flag}, found no such folder: name "
                                f"the sub-folder (sub-folders there: {have})")
    found, mask_files = FolderFiles(), {}
    for name, path in _walk(root, (*good, *defective, *masks)):
        owner = _owner(name, (*good, *defective, *masks))
        if not is_image_file(path):
            if path.name.lower() not in _LITTER and not path.name.startswith("."):
                found.others[path.suffix.lower() or "without suffix"] += 1
        elif owner in masks and (owner not in (*good, *defective) or image_stem(_stem(name)) is not None):
            mask_files[name] = path
        else:
            (found.good if owner in good else found.defective)[name] = path
    for flag, kind, images in (("--good-folder", "defect-free", found.good),
                               ("--defect-folder", "defective", found.defective)):
        if not images:
            where = ", ".join(str(root.joinpath(*folder)) for folder in (good if images is found.good else defective))
            raise UserError(f"{where}: expected {kind} images, found none: the network learns from both kinds: "
                            f"add images, or name the sub-folder with {flag}")
    _match(found, mask_files, good, defective, masks[0])
    return found


def normal(name: str) -> str:
    """A name as names are compared: macOS writes an accent as a character of its own, others with its letter."""
    return unicodedata.normalize("NFC", name)


def _folders(names: str, kind: str) -> list[_Folder]:
    folders = []
    for name in names.split(","):
        path = PurePosixPath(name.strip())
        if not name.strip() or path.is_absolute() or ".." in path.parts:
            raise UserError(f"--{kind}-folder: expected a folder below --data-root such as {kind}, got {name!r}")
        folders.append(path.parts)
    return folders


def _shown(folder: _Folder) -> str:
    return "/".join(folder) or "."


def _walk(root: Path, folders: Sequence[_Folder]) -> Iterator[tuple[str, Path]]:
    """Name and path of every file below the folders, once each, by name."""
    paths: dict[str, Path] = {}
    for folder in folders:
        seen: set[str] = set()  # a link may lead back to a folder above it
        for directory, below, files in os.walk(root.joinpath(*folder), onerror=_unreadable, followlinks=True):
            real = os.path.realpath(directory)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            below[:] = sorted(name for name in below if not name.startswith(".") and name not in _FOREIGN_FOLDERS)
            for file in files:
                path = Path(directory, file)
                paths[path.relative_to(root).as_posix()] = path
    yield from sorted(paths.items(), key=lambda item: (normal(item[0]), item[0]))  # the same on every system


def _unreadable(error: OSError) -> None:
    """Ends the walk: without the images of a folder the others would be another data set."""
    if not isinstance(error, FileNotFoundError):  # there need be no masks
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}): give the permission, or move it out of "
                        f"--data-root")


def _owner(name: str, folders: Sequence[_Folder]) -> _Folder:
    parts = PurePosixPath(name).parts
    return max((folder for folder in folders if parts[:len(folder)] == folder), key=len)


def _stem(name: str) -> str:
    """The name without its extension."""
    return normal(str(PurePosixPath(name).with_suffix("")))


def _below(stem: str, folder: _Folder) -> str:
    return "/".join(PurePosixPath(stem).parts[len(folder):])


def _match(found: FolderFiles, mask_files: dict[str, Path], good: Sequence[_Folder], defective: Sequence[_Folder],
           mask_folder: _Folder) -> None:
    """Gives each mask to its image: of the same path below their folders, or below data_root, without extension."""

    def by_stem(images: dict[str, Path], folders: Sequence[_Folder]) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for name in images:
            for stem in {_below(_stem(name), _owner(name, folders)), _stem(name)}:
                stems.setdefault(stem, []).append(name)
        return stems

    # Of a good and a defective image of one name, the mask is that of the defective one.
    candidates = (by_stem(found.defective, defective), by_stem(found.good, good))
    masks_of: dict[str, list[str]] = {}
    for mask in mask_files:
        stem = _below(_stem(mask), mask_folder)
        fits = next((stems[name] for name in (stem, image_stem(stem)) for stems in candidates
                     if name in stems), [])
        if len(fits) > 1:
            raise UserError(f"{mask_files[mask]}: expected to fit one image, fits {' and '.join(fits[:2])}: put masks "
                            f"into sub-folders as the images are, or rename one")
        for name in fits:
            masks_of.setdefault(name, []).append(mask)
        if not fits:
            found.stray.append(mask)
    for name, masks in masks_of.items():
        if len(masks) > 1:
            raise UserError(f"{(found.defective | found.good)[name]}: expected one mask, found "
                            f"{listed(masks, 5)}: keep one")
        found.masks[name] = mask_files[masks[0]]
