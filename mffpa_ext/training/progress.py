"""Progress of a training run: one bar over all steps, and a line per epoch."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class TrainingProgress:
    """A bar with the time left on a terminal; where standard error is a file, only the line per epoch."""

    def __init__(self, steps: int, done: int) -> None:
        self._bar = tqdm(
            total=steps, initial=done, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty(), smoothing=0.05
        )

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, epoch: int, segmentation: float, classification: float) -> None:
        self._bar.set_description(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(f"seg {segmentation:.3f} cls {classification:.3f}", refresh=False)
        self._bar.update()

    def line(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
