"""Split files are pickles from elsewhere: nothing in them may run, and their structure is checked."""

import os
import pickle

import pytest

from mffpa_ext.data.split_files import load_plain_pickle, read_split
from mffpa_ext.errors import UserError

from .conftest import real_folder


class Malicious:
    """Creates a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol):
    marker, path = tmp_path / "executed", tmp_path / "evil.pyb"
    path.write_bytes(pickle.dumps([[("kos01", True)], Malicious(marker)], protocol))
    with pytest.raises(UserError, match="refused") as error:
        load_plain_pickle(path)
    assert str(path) in str(error.value) and not marker.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert marker.exists()


@pytest.mark.parametrize("value", [len, ValueError("x"), complex(1, 2), b"x".__class__, {1, 2}.__class__])
def test_even_harmless_globals_are_refused(tmp_path, value):
    path = tmp_path / "split.pyb"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match="refused"):
        load_plain_pickle(path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-3], b"\x80\x05\x95" + b"\xff" * 8])
def test_damaged_pickles_are_refused(tmp_path, content):
    path = tmp_path / "split.pyb"
    path.write_bytes(content)
    with pytest.raises(UserError, match="split.pyb") as error:
        load_plain_pickle(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_plain_pickle(tmp_path / "split.pyb")


GOOD = ([[("a", True), ("b", False)]] * 3, [[("c", True)]] * 3)


@pytest.mark.parametrize("content, word", [
    ({"train": []}, "a dict"),
    (GOOD[:1], "a tuple of 1"),
    (([[("a", True)]] * 2, [[("c", True)]] * 3), "a list of 2"),
    (([[("a", True)]] * 10, [[("c", True)]] * 10), "a list of 10"),
    (([[]] * 3, GOOD[1]), "a list of 0"),
    (([["a"]] * 3, GOOD[1]), "the entry"),
    (([[(1, True)]] * 3, GOOD[1]), "the entry"),
    (([[("a", "yes")]] * 3, GOOD[1]), "the entry"),
    (([[("a", True), ("a", False)]] * 3, GOOD[1]), "twice"),
    (([[("../a", True)]] * 3, GOOD[1]), "no plain name"),
    (([[("c", True)]] * 3, GOOD[1]), "in train and in test"),
])
def test_other_structures_are_refused(tmp_path, content, word):
    path = tmp_path / "split.pyb"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=word) as error:
        read_split(path, "ksdd", 0)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_good_structure(tmp_path):
    path = tmp_path / "split.pyb"
    path.write_bytes(pickle.dumps(GOOD))
    assert read_split(path, "ksdd", 2) == ([("a", True), ("b", False)], [("c", True)])


@pytest.mark.parametrize("marked", [0, 5, 10, 15, 20, 33])
def test_published_ksdd_files(real_data, marked):
    folder = real_folder(real_data, "mixsup_splits", "KSDD")
    for fold in range(3):
        train, test = read_split(folder / f"split_33_{marked}.pyb", "ksdd", fold)
        assert (len(train), len(test)) == ((34, 16) if fold == 2 else (33, 17))
        # The last fold of split_33_33 marks its 34 folders.
        assert sum(flag for _, flag in train) == (34 if marked == 33 and fold == 2 else marked)


@pytest.mark.parametrize("marked", [0, 5, 15, 45, 1000])
def test_published_dagm_files(real_data, marked):
    folder = real_folder(real_data, "mixsup_splits", "DAGM")
    for index in range(10):
        train, test = read_split(folder / f"split_{marked}.pyb", "dagm", index)
        assert len(train) == len(test) == (575 if index < 6 else 1150)


def test_a_split_of_another_data_set_is_told(real_data):
    folder = real_folder(real_data, "mixsup_splits", "KSDD2")
    with pytest.raises(UserError, match="expected a KSDD split"):
        read_split(folder / "split_16.pyb", "ksdd", 0)
