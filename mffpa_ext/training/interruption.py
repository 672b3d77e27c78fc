"""Signals and the processes that load batches: Ctrl-C must neither get lost nor end them before the trainer does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the block.

    Python discards whatever is raised in the hooks that it runs at a fork: a KeyboardInterrupt that comes while
    processes are started would print a traceback and be forgotten, and the training would go on.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return
    pending: list[int] = []
    previous = {number: signal.signal(number, lambda number, frame: pending.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in pending[:1]:
            signal.raise_signal(number)


def leave_interrupts_to_the_trainer(worker: int) -> None:
    """For a process that loads batches: a terminal's Ctrl-C reaches it too, but its end is the trainer's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
