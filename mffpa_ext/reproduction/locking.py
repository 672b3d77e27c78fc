"""Files that one process holds at a time. The lock ends with the process, however that happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mffpa_ext.errors import UserError


@contextlib.contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Makes the folder and holds it. Raises UserError where another process does."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("a+") as file:
        if not take(file):
            file.seek(0)
            raise UserError(f"--output {output}: another reproduce (process {file.read().strip() or 'unknown'}) works "
                            f"there: wait for its end, or give another --output")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def take(file: IO) -> bool:
    """Takes the lock of an open file, which belongs to all who inherit it; False where others hold it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
