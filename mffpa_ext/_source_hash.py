"""A fingerprint of the C++ and CUDA sources, so that compiled kernels older than the sources can be noticed.

The build stores it in the library and in `_build_info.json`; in a checkout the loader compares. The build loads this
file by its path, before torch or the package can be imported: it may import nothing but the standard library.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCE_FOLDERS = ("csrc", "python/bindings")
SOURCE_SUFFIXES = frozenset({".h", ".cpp", ".cu", ".cuh"})


def source_files(root: Path) -> list[Path]:
    """Every file under `root` that the compiled library is made of, in a fixed order."""
    found = (path for folder in SOURCE_FOLDERS for path in (root / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in SOURCE_SUFFIXES)


def source_hash(root: Path) -> str:
    """Hexadecimal digest over the names and contents of `source_files`."""
    digest = hashlib.sha256()
    for path in source_files(root):
        content = path.read_bytes()
        # The length keeps a moved boundary between two files from going unnoticed.
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
