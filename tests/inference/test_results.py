"""predictions.csv and predictions.json: complete whenever the program ends, with any name, on any disk."""

import csv
import json
import os
from pathlib import Path

import pytest

from mffpa_ext.errors import UserError
from mffpa_ext.inference.results import HEADER, ResultsFolder, Row

FACTS = {"weights": "abc", "threshold": 0.5, "precision": "fp32", "preprocessing": {"channels": 1}, "device": "cpu"}
GOOD = Row("a.png", 1 / 3, "defect-free", 2.5, 1.0, 1.5, 0.9, "overlays/a.png.png")
BAD = Row("b.png", None, "error", error="b.png: expected an image, found no such file")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def listed(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())


def test_rows_are_in_the_file_at_once_and_in_the_json_at_the_end(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path / "new" / "out", FACTS)
    folder = results.path
    assert listed(folder) == FACTS | {"complete": False, "predictions": []}  # what --resume needs after a power cut
    results.write(GOOD)
    assert len(rows(folder)) == 1
    results.write(BAD)
    results.close(complete=True)
    assert listed(folder) == FACTS | {"complete": True, "predictions": [GOOD.as_dict(), BAD.as_dict()]}
    first, second = rows(folder)
    assert float(first["score"]) == 1 / 3 and first["error"] == "" and second["score"] == ""
    assert sorted(os.listdir(folder)) == ["predictions.csv", "predictions.json"]


@pytest.mark.parametrize("name", ['a,"b".png', "new\nline.png", "cr\r.png", "é 漢.png", os.fsdecode(b"\xe9"), " x "])
def test_names_that_need_care(name: str, tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path, FACTS)
    for path in (name, "after.png"):
        results.write(Row(path, 0.5, "unknown"))
    results.close(True)
    assert [row["path"] for row in rows(tmp_path)] == [name, "after.png"]
    assert [row["path"] for row in listed(tmp_path)["predictions"]] == [name, "after.png"]
    assert ResultsFolder(tmp_path, FACTS, resume=True).done == {name, "after.png"}


def test_a_path_of_any_length(tmp_path: Path) -> None:
    """Such as a binary that someone pipes into it."""
    results = ResultsFolder(tmp_path, FACTS)
    path = "x" * 200_000
    results.write(Row(path, None, "error", error=f"{path}: File name too long"))
    results.write(GOOD)
    results.close(True)
    assert [row["path"] for row in listed(tmp_path)["predictions"]] == [path, "a.png"]
    assert ResultsFolder(tmp_path, FACTS, resume=True).done == {"a.png"}


def test_earlier_results_are_not_written_over(tmp_path: Path) -> None:
    ResultsFolder(tmp_path, FACTS).close(False)
    results = ResultsFolder(tmp_path, FACTS)  # nothing was predicted: nothing to lose
    results.write(GOOD)
    with pytest.raises(UserError, match="holds the predictions of an earlier run: name a new folder, or .* --resume"):
        ResultsFolder(tmp_path, FACTS)
    assert len(rows(tmp_path)) == 1


def test_resuming_keeps_what_is_good_and_asks_again_for_the_rest(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path, FACTS)
    results.write(GOOD)
    results.write(BAD)
    results.close(False)
    with open(tmp_path / "predictions.csv", "a") as file:
        file.write("c.png,0.5,def")  # a power cut
    results = ResultsFolder(tmp_path, FACTS | {"device": "cuda"}, resume=True)
    assert results.done == {"a.png"} and results.overlays == {"overlays/a.png.png"}
    results.write(Row("b.png", 0.9, "defective"))
    results.close(True)
    assert [row["path"] for row in rows(tmp_path)] == ["a.png", "b.png"]
    assert len(listed(tmp_path)["predictions"]) == 2 and listed(tmp_path)["complete"] is True
    assert ResultsFolder(tmp_path / "fresh", FACTS, resume=True).done == set()


@pytest.mark.parametrize("name, value", [("weights", "xyz"), ("threshold", 0.6), ("precision", "bf16")])
def test_resuming_with_another_checkpoint(tmp_path: Path, name: str, value: object) -> None:
    results = ResultsFolder(tmp_path, FACTS)
    results.write(GOOD)
    results.close(False)
    with pytest.raises(UserError, match=f"--resume: .* come of other {name}: .*, now {value}: name a new folder"):
        ResultsFolder(tmp_path, FACTS | {name: value}, resume=True)
    (tmp_path / "predictions.json").write_text("[")
    with pytest.raises(UserError, match="missing or damaged"):
        ResultsFolder(tmp_path, FACTS, resume=True)
    assert len(rows(tmp_path)) == 1


class FullDisk:
    """A file that takes a part of what is written, as a disk does that becomes full."""

    def __init__(self, file) -> None:
        self._file = file

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def write(self, content: bytes) -> int:
        return self._file.write(content[:5])


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path, FACTS)
    results.write(GOOD)
    results._file = FullDisk(results._file)
    with pytest.raises(UserError, match="cannot be written to .No space left on device.*the predictions before stay"):
        results.write(BAD)
    results.close(False)
    assert (tmp_path / "predictions.csv").read_text() == HEADER + GOOD.as_csv()
    assert listed(tmp_path)["predictions"] == [GOOD.as_dict()]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output .*file: cannot be written to .File exists"):
        ResultsFolder(tmp_path / "file", FACTS)
    assert (tmp_path / "file").read_text() == "mine"
