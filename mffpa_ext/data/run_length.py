"""Run-length masks as Severstal publishes them: `start length start length …`, down the columns, counted from 1."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mffpa_ext.errors import UserError


def decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """Decodes one run-length text to a mask uint8 [H,W] of 0 and 1; empty text gives an empty mask.

    Pixel 1 is the upper left one, pixel 2 lies below it, pixel H + 1 at its right. Runs may come in any order. Raises
    ValueError, with what is wrong, for text that is no list of pairs of whole numbers, and for runs that overlap or
    leave the image.
    """
    words = text.split()
    try:
        numbers = np.array(words, dtype=np.int64)
    except (ValueError, OverflowError):
        odd = next(word for word in words if not word.isascii() or not word.isdigit() or len(word) > 18)
        raise ValueError(f"expected whole numbers, got {odd[:30]!r}") from None
    if len(numbers) % 2:
        raise ValueError(f"expected pairs of start and length, got an odd count of numbers, {len(numbers)}")
    starts, lengths = numbers[0::2], numbers[1::2]
    order = np.argsort(starts, kind="stable")
    starts, lengths = starts[order], lengths[order]
    pixels = size[0] * size[1]
    # Starts first, so that start + length cannot overflow.
    outside = (starts < 1) | (lengths < 1) | (starts > pixels) | (lengths > pixels - starts + 1)
    if outside.any():
        start, length = (int(column[outside][0]) for column in (starts, lengths))
        raise ValueError(f"expected runs within pixels 1 to {pixels} of {size[0]}x{size[1]} (height x width), "
                         f"got start {start}, length {length}")
    gaps = np.diff(starts - 1, prepend=0)
    gaps[1:] -= lengths[:-1]
    if (gaps < 0).any():
        second = int(np.flatnonzero(gaps < 0)[0])
        raise ValueError(f"expected runs apart from each other, got an overlap of the runs at {starts[second - 1]} and "
                         f"{starts[second]}")
    runs = np.stack([gaps, lengths], axis=1).ravel()
    flat = np.zeros(pixels, dtype=np.uint8)
    end = int(runs.sum())
    flat[:end] = np.repeat(np.tile(np.array([0, 1], dtype=np.uint8), len(starts)), runs)
    return flat.reshape(size[1], size[0]).T


@dataclass(frozen=True)
class RunLengthMask:
    """The mask of one image: the union of its rows in a file such as train.csv, decoded at each `read`.

    file: where the rows stand. image: file name of the image. rows: (number of the line, run-length text).
    size: H×W in pixels, which the numbers refer to.
    """

    file: Path
    image: str
    rows: tuple[tuple[int, str], ...]
    size: tuple[int, int]

    def __str__(self) -> str:
        lines = ", ".join(str(line) for line, _ in self.rows)
        return f"{self.file}, line{'s' if len(self.rows) > 1 else ''} {lines} ({self.image})"

    def read(self) -> np.ndarray:
        """Returns the mask uint8 [H,W] of 0 and 1. Raises UserError with file, line and image where a row is damaged."""
        mask = np.zeros(self.size, dtype=np.uint8, order="F")  # runs go down the columns
        for line, text in self.rows:
            try:
                mask |= decode(text, self.size)
            except ValueError as error:
                row = f"line {line}: " if len(self.rows) > 1 else ""
                raise UserError(f"{self}: {row}{error}: copy the file again or correct the row") from None
        return mask

