"""What is seen while a table is made: a bar over all training steps, and a line per run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from mffpa_ext.reproduction.runs import Run


class Progress:
    """A bar on a terminal; where standard error is a file, only the lines. runs: all that are to be run."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._total = len(runs)
        self._ended = 0
        self._done = {run: run.steps_done() for run in runs}
        self._initial = sum(self._done.values())
        self._steps = sum(run.steps for run in runs)
        self._started = time.monotonic()
        self._bar = tqdm(
            total=self._steps, initial=self._initial, dynamic_ncols=True, smoothing=0, disable=not sys.stderr.isatty(),
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}",
        )

    def show(self, running: Sequence[Run]) -> None:
        """Looks at the running runs' logs and redraws the bar."""
        for run in running:
            self._done[run] = run.steps_done()
        if not self._bar.disable:
            epochs = "; ".join(f"{run.title} epoch {min(run.epochs_done() + 1, run.epochs)}/{run.epochs}"
                               for run in running)
            self._bar.set_description_str(f"{self._ended}/{self._total} runs ", refresh=False)
            self._bar.set_postfix_str(epochs, refresh=False)
            self._bar.n = sum(self._done.values())
            self._bar.refresh()

    def finished(self, run: Run, result: str) -> None:
        self._done[run] = run.steps
        self._end(run, result)

    def failed(self, run: Run, error: str) -> None:
        self._steps -= run.steps - self._done[run]  # nothing is left to be done
        self._bar.total = self._steps
        self._end(run, f"failed: {error}")

    def _end(self, run: Run, result: str) -> None:
        self._ended += 1
        left = self._left()
        self.line(f"[{self._ended}/{self._total}] {run.title}: {result}" + (f"; {left} left" if left else ""))

    def line(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()

    def _left(self) -> str | None:
        done = sum(self._done.values())
        made = done - self._initial
        if not made or self._ended == self._total:
            return None
        return duration((time.monotonic() - self._started) / made * (self._steps - done))


def duration(seconds: float) -> str:
    """In two units at most: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
