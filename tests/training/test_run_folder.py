"""The folder of a run: chosen without making anything, made once, taken back when nothing came of the run."""

import csv
import json
from pathlib import Path

import pytest

from mffpa_ext.data.bad_images import BadImage
from mffpa_ext.errors import UserError
from mffpa_ext.training.run_folder import RunFolder


def test_a_name_of_its_own_even_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder("runs/20260102-030405-dagm-mffpa") for _ in range(3)]
    for folder in folders:
        folder.create({"a": 1}, may_rename=True)
    assert [folder.path.name[16:] for folder in folders] == ["dagm-mffpa", "dagm-mffpa-2", "dagm-mffpa-3"]
    assert all(folder.config.is_file() and folder.last.parent == folder.path for folder in folders)


def test_the_default_name_tells_data_set_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = RunFolder.choose(None, "ksdd", "pa").path
    assert chosen.parent == Path("runs") and chosen.name.endswith("-ksdd-pa")
    assert list(tmp_path.iterdir()) == []


def test_a_new_or_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/below/it"):
        folder = RunFolder.choose(str(tmp_path / name), "dagm", "mffpa")
        folder.create({"seed": 3})
        assert json.loads(folder.config.read_text()) == {"seed": 3}


def test_a_folder_in_use_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^--output .*not empty; name a new one, or empty it$"):
        RunFolder.choose(str(tmp_path), "dagm", "mffpa")
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"or continue its run with --resume "):
        RunFolder.choose(str(tmp_path), "dagm", "mffpa")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"^--output .*: expected a folder to write to, .*/file is a file$"):
            RunFolder.choose(str(output), "dagm", "mffpa")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mffpa_ext.files.os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"^--output .*: expected a folder to write to, .* cannot be written to$"):
        RunFolder.choose(str(tmp_path / "run"), "dagm", "mffpa")


def test_discarded_unless_there_is_a_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.discard_unless_started()  # not made yet: nothing to do
    folder.create({})
    folder.write_lists({"good/1.png": "train"}, [BadImage("good/2.png", "good/2.png: empty")])
    folder.best.write_bytes(b"written just before last.pt")
    folder.discard_unless_started()
    assert not folder.path.exists()
    folder.create({})
    folder.last.write_bytes(b"a checkpoint")
    folder.discard_unless_started()
    assert folder.last.is_file() and folder.config.is_file()


def test_a_discarded_folder_keeps_what_somebody_else_put_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create({})
    (folder.path / "notes.txt").write_text("mine")
    folder.discard_unless_started()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_lists_are_written_as_far_as_there_are_any(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_lists(None, [])
    assert list(tmp_path.iterdir()) == []
    folder.write_lists({"b": "test", "a, größer": "train"}, [BadImage("c", "c: empty, remove it")])
    assert folder.split.read_text(encoding="utf-8") == 'name,part\n"a, größer",train\nb,test\n'
    assert folder.skipped.read_text() == 'name,reason\nc,"c: empty, remove it"\n'


def test_the_log_is_written_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_log([{"epoch": 1, "val_ap": None}])
    folder.write_log([{"epoch": 1, "val_ap": None}, {"epoch": 2, "val_ap": 0.5}])
    with folder.log.open() as file:
        assert list(csv.DictReader(file)) == [{"epoch": "1", "val_ap": ""}, {"epoch": "2", "val_ap": "0.5"}]
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone/log.csv: cannot be written \(No such file"):
        RunFolder(tmp_path / "gone").write_log([{"epoch": 1}])
