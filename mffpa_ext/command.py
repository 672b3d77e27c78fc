"""How a command line ends: exit codes, and one line instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from mffpa_ext.errors import UserError


def run_command(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> NoReturn:
    """Runs a command line: exit code 0 or what `main` returns, 2 with one line on standard error for a UserError, 130
    when interrupted.

    A KeyboardInterrupt may carry the line that is shown for it, such as how to go on.
    """
    with contextlib.suppress(AttributeError):  # whoever replaced it has a stream of another kind
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text that can be printed
    try:
        code = main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # else a reader that is gone is noticed only after the last `except`
    except UserError as error:
        _end(2, f"error: {error}")
    except KeyboardInterrupt as interruption:
        _end(130, str(interruption) or "interrupted")
    except BrokenPipeError:  # the reader of our output is gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(141)
    except OSError as error:  # a path that cannot be a path, a folder that may not be read: whatever was not foreseen
        where = f"{error.filename}: " if error.filename is not None else ""
        _end(2, f"error: {where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _end(2, "error: out of memory: lower the batch size or the image size")
    sys.exit(code or 0)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C inside."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(code: int, line: str) -> NoReturn:
    print(" ".join(line.split()), file=sys.stderr)  # one line, whatever a file name or a library's text holds
    sys.exit(code)


def _out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError is a RuntimeError, and that of the CPU allocator has no class of its own."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in ("out of memory", "t allocate memory"))
