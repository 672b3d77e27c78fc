"""Run-length masks: column-major and counted from 1, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from mffpa_ext.data.run_length import RunLengthMask, decode
from mffpa_ext.errors import UserError

from .conftest import run_lengths


def test_pixels_count_down_the_columns_from_one():
    assert decode("1 2", (3, 4)).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert decode("4 1", (3, 4)).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert decode("3 2", (3, 4)).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert decode("12 1", (3, 4)).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("text, marked", [("", 0), ("  ", 0), ("1 12", 12), ("5 2 1 2", 4), ("1 2 3 4", 6)])
def test_empty_full_unordered_and_adjacent_runs(text, marked):
    mask = decode(text, (3, 4))
    assert mask.dtype == np.uint8 and mask.shape == (3, 4) and mask.sum() == marked


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
def test_masks_survive(seed, density):
    rng = np.random.default_rng(seed)
    mask = (rng.random((256, 1600)) < density).astype(np.uint8)
    assert np.array_equal(decode(run_lengths(mask), mask.shape), mask)


DAMAGED = [
    ("1", "an odd count of numbers, 1"),
    ("1 2 3", "an odd count of numbers, 3"),
    ("1 x", "whole numbers, got 'x'"),
    ("1.5 2", "whole numbers, got '1.5'"),
    ("nan nan", "whole numbers, got 'nan'"),
    ("9999999999999999999999 1", "whole numbers, got '9999"),
    ("0 3", "within pixels 1 to 12 of 3x4"),
    ("-1 3", "start -1, length 3"),
    ("1 0", "start 1, length 0"),
    ("1 -2", "start 1, length -2"),
    ("13 1", "start 13, length 1"),
    ("12 2", "start 12, length 2"),
    ("2 9223372036854775807", "start 2, length 9223372036854775807"),
    ("1 3 3 2", "an overlap of the runs at 1 and 3"),
    ("5 2 1 6", "an overlap of the runs at 1 and 5"),
    ("4 1 4 1", "an overlap of the runs at 4 and 4"),
]


@pytest.mark.parametrize("text, problem", DAMAGED)
def test_damaged_text_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        decode(text, (3, 4))


@pytest.mark.parametrize("text, problem", DAMAGED)
def test_messages_name_file_line_and_image(text, problem):
    one = RunLengthMask(Path("train.csv"), "a.jpg", ((7, text),), (3, 4))
    with pytest.raises(UserError, match=rf"^train.csv, line 7 \(a.jpg\): expected .*{problem}") as error:
        one.read()
    two = RunLengthMask(Path("train.csv"), "a.jpg", ((6, "1 1"), (7, text)), (3, 4))
    with pytest.raises(UserError, match=rf"^train.csv, lines 6, 7 \(a.jpg\): line 7: expected .*{problem}"):
        two.read()
    assert "\n" not in str(error.value)


def test_rows_are_united():
    mask = RunLengthMask(Path("train.csv"), "a.jpg", ((2, "1 3"), (3, "2 5")), (3, 4))
    assert mask.read().sum() == 6 and np.array_equal(mask.read(), decode("1 6", (3, 4)))
