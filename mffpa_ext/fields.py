"""Fields of configuration dataclasses, which `flags` turns into command-line flags."""

import dataclasses
from typing import Any


def flag(default: Any, text: str, choices: tuple[Any, ...] | None = None) -> Any:
    """A dataclass field that is also a command-line flag."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})
