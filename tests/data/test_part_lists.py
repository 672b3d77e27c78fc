"""CSV files that say which image trains, validates or tests."""

import os

import pytest

from mffpa_ext.data.part_lists import read_parts, write_parts
from mffpa_ext.errors import UserError

NAMES = ["good/1.png", "good/2.png", "defect/größe, \"a\".png", "defect/3.png"]


@pytest.fixture
def read(tmp_path):
    def read(content, names=NAMES):
        (tmp_path / "s.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_parts(tmp_path / "s.csv", names)

    return read


def test_what_is_written_is_read(tmp_path):
    parts = dict(zip([*NAMES, os.fsdecode(b"good/\xff.png")], ["train", "val", "test", "train", "test"]))
    write_parts(tmp_path / "split.csv", parts)
    assert read_parts(tmp_path / "split.csv", parts) == parts
    assert (tmp_path / "split.csv").read_bytes().startswith(b"name,part\n")


@pytest.mark.parametrize("content", [
    "name,part\ngood/1.png,train\ngood/2.png,test\n",
    "\ufeffname;part\r\ngood/1.png;Train\r\n\r\ngood\\2.png;TEST\r\n",
    "remark\tPart\tName\nx\ttraining\tgood/1.png\n\ttest\tgood/2.png",
])
def test_as_spreadsheets_write_them(read, content):
    assert read(content) == {"good/1.png": "train", "good/2.png": "test"}


def test_both_words_for_validation_and_composed_accents(read):
    assert read("name,part\ngood/1.png,validation\ngo\u0308od/2.png,val", ["good/1.png", "göod/2.png"]) == {
        "good/1.png": "val", "göod/2.png": "val"}


@pytest.mark.parametrize("content, match", [
    ("name,part\ngood/1.png,trian\n", r"s.csv, line 2: expected the part train, val or test, got 'trian'"),
    ("name,part\n\ngood/9.png,train\n", r"s.csv, line 3: 'good/9.png' is no image of the folder: .* such as defect/3"),
    ("name,part\ngood/1.png,train\ngood/1.png,test\n", r"line 3: 'good/1.png' stands in line 2 already"),
    ("good/1.png,train\n", r"line 1: expected a first line that names the columns name and part"),
    ("name,part,part\ngood/1.png,train,test\n", r"line 1: expected a first line"),
    ("name,part\ngood/1.png\n", r"line 2: expected name and part, got 'good/1.png'"),
    ("name,part\n\"good/1.png,train\n", r"line 2: expected a CSV of name,part: unexpected end"),
    ("name,part\n", r"found no image in it"),
    ("", r"found no image in it"),
    (b"\xff\xfen\0a\0m\0e\0", r"got a file that is no text"),
    (b"\x80\x02\0", r"got a file that is no text"),
])
def test_what_is_wrong_is_told_with_its_line(read, content, match):
    with pytest.raises(UserError, match=match) as error:
        read(content)
    assert "s.csv" in str(error.value) and "\n" not in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="--split-file .*no.csv: expected a CSV of name,part, found no such file"):
        read_parts(tmp_path / "no.csv", NAMES)
    with pytest.raises(UserError, match="found a folder"):
        read_parts(tmp_path, NAMES)
