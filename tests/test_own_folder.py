"""`train` and `evaluate` on one's own folder, as a user runs them."""

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mffpa_ext import Predictor

from .data.conftest import noise, spot, write_gray

SIZE = (32, 40)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Twelve good images and six defects, three of them with masks; one defect and one good image are 12-bit."""
    root = tmp_path / "my parts"
    for number in range(12):
        write_gray(root / "good" / f"{number}.png", noise(number, SIZE))
    for number in range(6):
        write_gray(root / "defect" / f"größe {number}.png", noise(50 + number, SIZE))
        if number < 3:
            write_gray(root / "masks" / f"größe {number}_mask.png", spot(SIZE))
    for seed, path in enumerate((root / "good" / "11.png", root / "defect" / "größe 5.png"), start=90):
        write_gray(path, noise(seed, SIZE).astype(np.uint16) * 16)
    return root


@pytest.fixture
def command(command: Callable[..., tuple[int, str, str]], here: Path) -> Callable[..., tuple[int, str, str]]:
    """In an empty folder."""
    return command


@pytest.fixture
def train(command: Callable, parts: Path) -> Callable[..., tuple[int, str, str]]:
    def train(*more: object) -> tuple[int, str, str]:
        return command("train", "--dataset", "folder", "--data-root", parts, "--epochs", 1, "--timing-images", 0,
                       "--output", "run", *more)

    return train


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_described_trained_and_evaluated(
    parts: Path, here: Path, train: Callable, command: Callable
) -> None:
    code, out, err = train("--bit-depth", 12, "--val-fraction", 0.2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{parts}: 12 defect-free images in good, 6 defective in defect, 3 of them with a mask in masks"
    assert lines[2] == "  kinds: 16 gray, 2 gray 16-bit; files: 18 PNG" and lines[3].endswith("1 channel (auto), 32x40")
    assert lines[4].startswith("folder: train 4 defective (2 with masks) + 8 defect-free, test 1 + 2")
    assert "unofficial" not in out and "test: 1 defective, 2 defect-free" in out
    config = json.loads((here / "run" / "config.json").read_text())
    assert (config["image_size"], config["channels"], config["bit_depth"]) == ([32, 40], 1, 12)
    split = {row["name"]: row["part"] for row in rows(here / "run" / "split.csv")}
    assert len(split) == 18 and list(split.values()).count("test") == 3 and "defect/größe 0.png" in split
    tested = [row["name"] for row in rows(here / "run" / "predictions.csv")]
    assert sorted(tested) == sorted(name for name, part in split.items() if part == "test")

    # images that came later are in no part of the run, and its own split is evaluated
    for number in range(3):
        write_gray(parts / "good" / f"new {number}.png", noise(70 + number, SIZE))
    code, out, _ = command("evaluate", "--checkpoint", "run/best.pt", "--timing-images", 0, "--output", "again")
    assert code == 0 and "note: 3 images came after the split of the training, or were left out of it, " in out
    assert "and are not used: good/new 0" in out
    assert (here / "again" / "predictions.csv").read_text() == (here / "run" / "predictions.csv").read_text()
    code, out, err = command("train", "--resume", "run")
    assert code == 0 and "3 images came after the split" in out

    # another run on the same split, though the folder has changed
    assert train("--bit-depth", 12, "--split-file", "run/split.csv", "--output", "other")[0] == 0
    assert (here / "other" / "split.csv").read_text() == (here / "run" / "split.csv").read_text()
    assert (here / "other" / "predictions.csv").read_text() == (here / "run" / "predictions.csv").read_text()

    # a line reads its images as the training did
    predictor = Predictor("run/best.pt")
    path = write_gray(here / "line.png", np.full(SIZE, 4095, np.uint16))
    assert predictor.preprocessing.bit_depth == 12 and (predictor.preprocessing.read(path) == 255).all()
    for name in ("again", "other", "run"):
        shutil.rmtree(here / name)


def test_predict_and_threshold_take_the_folder_as_the_training_did(
    parts: Path, here: Path, train: Callable, command: Callable
) -> None:
    """12-bit images among others, a split of one's own, validation images of one kind and one of them damaged."""
    defects = [f"defect/größe {number}.png" for number in range(6)]
    split = dict.fromkeys([f"good/{number}.png" for number in range(6)] + defects[:4], "train")
    split |= dict.fromkeys([f"good/{number}.png" for number in range(6, 9)], "val")
    split |= dict.fromkeys([f"good/{number}.png" for number in range(9, 12)] + defects[4:], "test")
    (here / "split.csv").write_text("name,part\n" + "".join(f"{name},{part}\n" for name, part in split.items()))
    (parts / "good" / "7.png").write_bytes(b"")
    code, out, err = train("--bit-depth", 12, "--split-file", "split.csv", "--on-bad-image", "skip")
    assert (code, err) == (0, "") and "all validation images are defect-free" in out
    code, out, err = command("threshold", "--checkpoint", "run/best.pt")
    assert (code, err) == (0, "") and out.startswith("validation: 0 defective, 2 defect-free images")
    assert command("threshold", "--checkpoint", "run/best.pt", "--on-bad-image", "error")[0] == 2

    tested = {row["name"]: float(row["score"]) for row in rows(here / "run" / "predictions.csv")}
    assert {"good/11.png", "defect/größe 5.png"} < set(tested)  # those of 12 bits
    code, out, err = command("predict", "--checkpoint", "run/best.pt", *(parts / name for name in tested),
                             "--masks", parts / "masks", "--output", "predicted")
    assert code == 0
    for row, score in zip(rows(here / "predicted" / "predictions.csv"), tested.values(), strict=True):
        assert float(row["score"]) == pytest.approx(score, abs=1e-4) and row["error"] == "" and row["overlay"]


def test_bad_images_end_it_or_are_listed(parts: Path, here: Path, train: Callable, command: Callable) -> None:
    (parts / "good" / "0.png").write_bytes(b"")
    (parts / "good" / "1.png").write_text("no image")
    code, out, err = train("--bit-depth", 12)
    assert code == 2 and out.startswith(f"{parts}: 12 defect-free")
    assert err.startswith("error: 2 of 18 images cannot be")
    assert "0.png" in err and "1.png" in err and err.count("\n") == 1 and list(here.iterdir()) == []
    code, out, err = train("--bit-depth", 12, "--on-bad-image", "skip")
    assert (code, err) == (0, "") and "note: skipped 2 of 18 images that cannot be used: good/0.png; good/1.png" in out
    skipped = rows(here / "run" / "skipped.csv")
    assert [row["name"] for row in skipped] == ["good/0.png", "good/1.png"] and "empty file" in skipped[0]["reason"]
    assert any("skipped 2" in note for note in json.loads((here / "run" / "metrics.json").read_text())["notes"])

    tested = next(row["name"] for row in rows(here / "run" / "predictions.csv") if row["label"] == "0")
    (parts / tested).write_bytes(b"")
    code, _, err = command("evaluate", "--checkpoint", "run/best.pt", "--timing-images", 0, "--on-bad-image", "error")
    assert code == 2 and tested in err
    code, out, err = command("evaluate", "--checkpoint", "run/best.pt", "--timing-images", 0, "--output", "ev")
    assert (code, err) == (0, "") and tested in out and tested not in (here / "ev" / "predictions.csv").read_text()


def test_a_run_goes_on_without_a_lost_test_image(parts: Path, here: Path, train: Callable, command: Callable) -> None:
    assert train("--bit-depth", 12)[0] == 0
    split = (here / "run" / "split.csv").read_text()
    tested = next(row["name"] for row in rows(here / "run" / "predictions.csv") if row["label"] == "0")
    content = (parts / tested).read_bytes()
    (parts / tested).unlink()
    code, _, err = command("train", "--resume", "run")
    assert code == 2 and tested in err and "--split-file" not in err
    code, _, err = command("train", "--resume", "run", "--split-file", "run/split.csv")
    assert code == 2 and "a run on one's own folder keeps its own split: leave out --split-file" in err
    code, out, _ = command("train", "--resume", "run", "--on-bad-image", "skip")
    assert code == 0 and f"1 images of this run are no longer there and left out: {tested}" in out
    assert tested not in (here / "run" / "predictions.csv").read_text()
    (parts / tested).write_bytes(content)  # once it is there again, it belongs to the run again
    for path in [*parts.rglob("größe*.png")]:  # on the way through a Mac
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    code, out, _ = command("train", "--resume", "run")
    assert code == 0 and tested in (here / "run" / "predictions.csv").read_text()
    assert (here / "run" / "split.csv").read_text() == split


def test_without_a_test_part_the_run_says_so(parts: Path, here: Path, train: Callable, command: Callable) -> None:
    code, out, err = train("--bit-depth", 12, "--test-fraction", 0, "--val-fraction", 0)
    assert (code, err) == (0, "") and "no test images, no evaluation: run/best.pt is trained" in out
    assert "train 6 defective (3 with masks) + 12 defect-free, images 1x32x40" in out
    assert sorted(path.name for path in (here / "run").iterdir()) == [
        "best.pt", "config.json", "last.pt", "log.csv", "split.csv"]
    write_gray(parts / "masks" / "größe 4.png", spot(SIZE))  # other masks are another training
    code, _, err = command("train", "--resume", "run")
    assert code == 2 and "the training images and masks are not those that the run began with" in err
    code, _, err = command("evaluate", "--checkpoint", "run/best.pt")
    assert code == 2 and err.startswith("error: --part test: this run had no test images, see --test-fraction of train")


@pytest.mark.parametrize("more, expected", [
    (("--bit-depth", 7), "--bit-depth: expected 8 to 16, got 7"),
    (("--mask-threshold", 0), "--mask-threshold: expected 1 to 255, got 0"),
    (("--test-fraction", 1), "--test-fraction: expected 0 to below 1"),
    (("--channels", 2), "--channels: invalid choice: 2"),
    (("--good-folder", "ok"), "expected the images of --good-folder, found no such folder"),
    (("--split-file", "no.csv"), "no.csv: expected a CSV of name,part, found no such file"),
    (("--num-segmented", 9), "--num-segmented: expected at most 2, the number of defective training images that have"),
    (("--recipe", "paper"), "--recipe paper: has no settings for folder; use quick"),
    (("--image-size", "8x8"), "--image-size 8x8: --model mffpa needs at least"),
    (("--model", "baseline"), "--image-size 32x40: --model baseline needs at least 64x64"),
    (("--dagm-class", 2), "--dagm-class is for --dataset dagm, not for folder"),
])
def test_settings_that_do_not_fit(more: tuple, expected: str, here: Path, train: Callable) -> None:
    code, _, err = train(*more)
    assert code == 2 and err.startswith("error: ") and expected in err and err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_flag_of_the_folder_is_for_nothing_else(here: Path, command: Callable) -> None:
    code, _, err = command("train", "--bit-depth", 12)
    assert code == 2 and "--bit-depth is for --dataset folder, not for synthetic: leave it out" in err


def test_names_that_cannot_be_printed(parts: Path, here: Path, train: Callable) -> None:
    path = Path(str(parts / "good") + "/\udcff.png")
    path.write_bytes(b"")
    code, out, _ = train("--bit-depth", 12, "--on-bad-image", "skip")
    assert code == 0 and "\\udcff.png" in out
    assert b"\xff.png" in (here / "run" / "split.csv").read_bytes()
    state = torch.load(here / "run" / "best.pt", weights_only=True)
    assert "good/\udcff.png" in state["parts"]
