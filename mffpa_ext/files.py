"""Small files written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from mffpa_ext.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes beside `path`, then moves it there: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # Names of image files need not be UTF-8: their bytes pass through as they are.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def check_folder(flag: str, path: str | Path) -> None:
    """Raises UserError where the folder `path` could not be made or written to. Makes nothing, so it can come first."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"{flag} {path}: expected a folder to write to, {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: expected a folder to write to, {existing} cannot be written to")
