"""Small files written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


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
