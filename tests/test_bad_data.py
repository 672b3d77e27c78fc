"""Training on folders of images with something wrong in them: one line that names the file, and nothing left."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mffpa_ext import cli
from mffpa_ext.command import run_command
from mffpa_ext.data import ksdd2, steel
from mffpa_ext.data.published import Counts

from .data.conftest import spot, write_dagm_half, write_gray, write_ksdd2_part, write_ksdd_folder, write_steel

SIZE = (40, 32)


@pytest.fixture
def ksdd(tmp_path: Path) -> Path:
    root = tmp_path / "ksdd"
    for number in range(1, 7):
        (root / f"kos{number:02d}").mkdir(parents=True)
        write_ksdd_folder(root / f"kos{number:02d}", size=SIZE)
    return root


@pytest.fixture
def dagm(tmp_path: Path) -> Path:
    root = tmp_path / "dagm"
    write_dagm_half(root / "Class1" / "Train", 2, 3, SIZE)
    write_dagm_half(root / "Class1" / "Test", 2, 3, SIZE, first=101)
    return root


@pytest.fixture
def train(capsys: pytest.CaptureFixture, here: Path) -> Callable[..., tuple[int, str]]:
    """Trains one epoch; exit code and standard error."""

    def train(dataset: str, root: object, *more: str) -> tuple[int, str]:
        arguments = ["train", "--dataset", dataset, "--data-root", str(root), "--image-size", "40x32", "--epochs", "1",
                     "--timing-images", "0", "--output", "run", *more]
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, arguments)
        return end.value.code, capsys.readouterr().err

    return train


def unlink(path: Path) -> str:
    path.unlink()
    return path.name


def overwrite(content: bytes) -> Callable[[Path], str]:
    def damage(path: Path) -> str:
        path.write_bytes(content)
        return path.name

    return damage


def truncate(path: Path) -> str:
    os.truncate(path, path.stat().st_size // 2)
    return path.name


def resize(path: Path) -> str:
    write_gray(path, spot((48, 32), 1))
    return path.name


@pytest.mark.parametrize(
    "victim, damage, expected",
    [
        ("kos01/Part1_label.bmp", unlink, "Part1.jpg: expected its mask"),
        ("kos01/Part1.jpg", unlink, "Part1_label.bmp: expected its image"),
        ("kos02/Part0.jpg", overwrite(b""), "Part0.jpg: expected an image, got an empty file"),
        ("kos02/Part0.jpg", overwrite(b"no image at all"), "Part0.jpg: expected an image, got something that is none"),
        ("kos02/Part0.jpg", truncate, "Part0.jpg: cannot be read as an image"),
        ("kos03/Part0_label.bmp", overwrite(b""), "Part0_label.bmp: expected an image, got an empty file"),
        ("kos03/Part0_label.bmp", resize, "Part0_label.bmp: expected the size of its image"),
    ],
)
def test_a_damaged_file(
    victim: str, damage: Callable[[Path], str], expected: str, ksdd: Path, here: Path, train: Callable
) -> None:
    damage(ksdd / victim)
    code, err = train("ksdd", ksdd)
    assert code == 2 and err.startswith(f"error: {ksdd / Path(victim).parent}/") and expected in err
    assert err.count("\n") == 1 and list(here.iterdir()) == []


@pytest.mark.parametrize("dataset, victims", [
    ("ksdd", ["kos01/Part0.jpg", "kos03/Part0_label.bmp", "kos05/Part2_label.bmp"]),
    ("dagm", ["Class1/Train/0003.PNG", "Class1/Test/0105.PNG"]),
])
def test_damaged_files_are_named_together_or_skipped(
    dataset: str, victims: list[str], ksdd: Path, dagm: Path, here: Path, train: Callable
) -> None:
    root = {"ksdd": ksdd, "dagm": dagm}[dataset]
    for victim in victims:
        (root / victim).write_bytes(b"")
    code, err = train(dataset, root)
    assert code == 2 and err.count("\n") == 1 and all(str(root / victim) in err for victim in victims)
    assert f"error: {len(victims)} of " in err and "--on-bad-image skip" in err and list(here.iterdir()) == []
    assert train(dataset, root, "--on-bad-image", "skip") == (0, "")
    reasons = (here / "run" / "skipped.csv").read_text()
    assert reasons.count("\n") == 1 + len(victims) and all(str(root / victim) in reasons for victim in victims)
    assert not (here / "run" / "split.csv").exists()


def test_damaged_masks_and_images_of_ksdd2_are_named_together_or_skipped(
    here: Path, tmp_path: Path, train: Callable
) -> None:
    root = tmp_path / "ksdd2"
    write_ksdd2_part(root / "train", 10000, 3, 4)
    write_ksdd2_part(root / "test", 20000, 2, 3)
    victims = ["train/10000_GT.png", "train/10005.png", "test/20004_GT.png"]
    for victim in victims:
        (root / victim).write_bytes(b"")
    code, err = train("ksdd2", root)
    assert code == 2 and err.startswith("error: 3 of 12 images") and err.count("\n") == 1
    assert all(str(root / victim) in err for victim in victims) and list(here.iterdir()) == []
    assert train("ksdd2", root, "--on-bad-image", "skip") == (0, "")
    assert (here / "run" / "skipped.csv").read_text().count("\n") == 4


def test_damaged_rows_and_images_of_steel_are_named_together_or_skipped(
    here: Path, tmp_path: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steel, "STEEL_TEST", Counts(2, 2))
    monkeypatch.setattr(steel, "STEEL_VALIDATION", Counts(2, 2))
    root = tmp_path / "steel"
    write_steel(root, [(3,)] * 8, 8)
    rows = (root / "train.csv").read_text().splitlines()
    rows[1] = "d0.jpg,3,1 2 3"
    (root / "train.csv").write_text("\n".join(rows))
    (root / "train_images" / "g0.jpg").write_bytes(b"")
    more = ("--steel-positives", "4", "--epochs", "1")
    code, err = train("steel", root, *more)
    assert code == 2 and err.startswith("error: 2 of 16 images") and err.count("\n") == 1
    assert f"{root / 'train.csv'}, line 2 (d0.jpg): expected pairs" in err and f"{root}/train_images/g0.jpg: " in err
    assert list(here.iterdir()) == []
    assert train("steel", root, *more, "--on-bad-image", "skip") == (0, "")
    assert (here / "run" / "skipped.csv").read_text().count("\n") == 3


def test_no_defective_image(ksdd: Path, here: Path, train: Callable) -> None:
    for mask in ksdd.rglob("*_label.bmp"):
        write_gray(mask, np.zeros(SIZE, np.uint8))
    code, err = train("ksdd", ksdd)
    assert code == 2 and "expected defective and defect-free ones, found 0 defective" in err and str(ksdd) in err
    assert err.count("\n") == 1 and list(here.iterdir()) == []


@pytest.mark.parametrize(
    "dataset, more, expected",
    [
        ("ksdd", ("--num-segmented", "99"), "--num-segmented: expected at most 4, the number of folders"),
        ("ksdd", ("--split-file", "no.pyb"), "no.pyb"),
        ("ksdd", ("--resplit",), "--resplit is for --dataset dagm"),
        ("ksdd", ("--fold", "3"), "--fold"),
        ("ksdd", ("--image-size", "100x100"), "--image-size"),
        ("ksdd", ("--recipe", "quick"), "--recipe quick: has no settings for ksdd; use paper or mixsup"),
        ("dagm", ("--dagm-class", "2"), "Class2: expected the folder of DAGM class 2"),
        ("dagm", ("--val-fraction", "0.99", "--num-segmented", "2"), "--num-segmented: expected at most 1"),
    ],
)
def test_flags_that_do_not_fit_the_data(
    dataset: str, more: tuple[str, ...], expected: str, ksdd: Path, dagm: Path, here: Path, train: Callable
) -> None:
    code, err = train(dataset, {"ksdd": ksdd, "dagm": dagm}[dataset], *more)
    assert code == 2 and err.startswith("error: ") and expected in err
    assert err.count("\n") == 1 and list(here.iterdir()) == []


@pytest.mark.parametrize("dataset", ["ksdd", "dagm"])
def test_the_folder_of_something_else(dataset: str, tmp_path: Path, here: Path, train: Callable) -> None:
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        if root.name == "empty":
            root.mkdir()
        code, err = train(dataset, root)
        assert code == 2 and str(root) in err and err.count("\n") == 1 and list(here.iterdir()) == []


def test_a_run_outlives_the_move_of_its_data(
    dagm: Path, here: Path, tmp_path: Path, train: Callable, monkeypatch, capsys
) -> None:
    """Trained with a relative path, evaluated from elsewhere, with the data where they were and where they went."""
    monkeypatch.chdir(tmp_path)
    assert train("dagm", "dagm", "--workers", "1", "--batch-size", "2") == (0, "")
    run = tmp_path / "run"
    monkeypatch.chdir(here)

    def evaluate(*more: str) -> tuple[int, str]:
        arguments = ["evaluate", "--checkpoint", str(run / "best.pt"), "--timing-images", "0", "--output", "ev", *more]
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, arguments)
        return end.value.code, capsys.readouterr().err

    assert evaluate() == (0, "")
    assert (here / "ev" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()
    shutil.rmtree(here / "ev")
    dagm.rename(tmp_path / "moved")
    code, err = evaluate()
    assert code == 2 and err.startswith(f"error: --data-root: expected the folder of DAGM 2007, found no folder {dagm}")
    assert list(here.iterdir()) == []
    assert evaluate("--data-root", str(tmp_path / "moved")) == (0, "")
    metrics = json.loads((here / "ev" / "metrics.json").read_text())
    assert metrics["ap"] == json.loads((run / "metrics.json").read_text())["ap"]
    assert train("dagm", "x", "--resume", str(run))[0] == 2  # its own settings, except where the data lie
    with pytest.raises(SystemExit) as end:
        run_command(cli.dispatch, ["train", "--resume", str(run), "--data-root", str(tmp_path / "moved")])
    assert end.value.code == 0
    shutil.rmtree(run)


def test_no_training_image_gets_into_a_part_that_is_drawn_again(
    dagm: Path, here: Path, train: Callable, capsys
) -> None:
    """Images that came after the training change what the seed draws, and published parts stay as they are."""
    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, list(arguments))
        return end.value.code, capsys.readouterr().err

    added = dagm / "Class1" / "Train"
    runs = {"published": ("--val-fraction", "0.5"), "drawn": ("--resplit",)}
    hidden = added.rename(dagm / "later")
    assert train("dagm", dagm, *runs["drawn"], "--output", "drawn") == (0, "")
    evaluate = ("evaluate", "--timing-images", "0", "--checkpoint")
    assert command(*evaluate, "drawn/best.pt") == (0, "")
    hidden.rename(added)
    code, err = command(*evaluate, "drawn/best.pt")
    assert code == 2 and "the test images are not those of the training" in err and err.count("\n") == 1
    assert "--data-root" in err and "--split-file" not in err  # which --resplit excludes
    assert train("dagm", dagm, *runs["published"], "--output", "published") == (0, "")
    threshold = ("threshold", "--checkpoint", "published/best.pt")
    assert command(*threshold) == (0, "")
    write_dagm_half(added, 4, 6, SIZE)
    code, err = command(*threshold)
    assert code == 2 and "the validation images are not those of the training" in err and err.count("\n") == 1
    shutil.rmtree(added)  # the published test half is known without it
    assert command(*evaluate, "published/best.pt") == (0, "")
    state = torch.load(here / "drawn" / "best.pt")
    del state["held_out"]
    torch.save(state, here / "old.pt")
    write_dagm_half(added, 2, 3, SIZE)
    assert command(*evaluate, "old.pt") == (0, "")


def test_ksdd2_from_beginning_to_end(here: Path, tmp_path: Path, train: Callable, monkeypatch) -> None:
    monkeypatch.setattr(ksdd2, "KSDD2_COUNTS", {"train": Counts(2, 3), "test": Counts(2, 2)})
    write_ksdd2_part(tmp_path / "ksdd2" / "train", 10000, 2, 3)
    write_ksdd2_part(tmp_path / "ksdd2" / "test", 20000, 2, 2)
    assert train("ksdd2", tmp_path / "ksdd2", "--num-segmented", "1") == (0, "")
    metrics = json.loads((here / "run" / "metrics.json").read_text())
    assert (metrics["official"], metrics["positives"], metrics["epoch"]) == (True, 2, 1)
    assert metrics["at_threshold"] is None  # nothing is published to choose one by
    assert any("drawn by seed 0" in note for note in metrics["notes"])
    shutil.rmtree(here / "run")
    (tmp_path / "ksdd2" / "train" / "10000_GT.png").unlink()
    code, err = train("ksdd2", tmp_path / "ksdd2")
    assert code == 2 and "10000.png: expected its mask" in err and list(here.iterdir()) == []


def test_steel_chooses_the_epoch_on_its_validation_list(
    here: Path, tmp_path: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steel, "STEEL_TEST", Counts(2, 2))
    monkeypatch.setattr(steel, "STEEL_VALIDATION", Counts(1, 2))
    write_steel(tmp_path / "steel", [(3,)] * 6, 8)
    more = ("--steel-positives", "3", "--recipe", "mixsup", "--epochs", "2", "--num-segmented", "2")
    assert train("steel", tmp_path / "steel", *more) == (0, "")
    metrics = json.loads((here / "run" / "metrics.json").read_text())
    config = json.loads((here / "run" / "config.json").read_text())
    log = (here / "run" / "log.csv").read_text().splitlines()
    assert metrics["at_threshold"] is not None and metrics["official"] is False
    assert all(row.split(",")[log[0].split(",").index("val_ap")] for row in log[1:]) and len(log) == 3
    assert any("highest validation AP" in note for note in metrics["notes"])
    assert (config["steel_positives"], config["theta"], config["batch_size"], config["epochs"]) == (3, 0.1, 10, 2)
    shutil.rmtree(here / "run")
    code, err = train("steel", tmp_path / "steel", "--steel-positives", "4")
    assert code == 2 and err.startswith("error: --steel-positives: expected at most 3") and list(here.iterdir()) == []


@pytest.mark.skipif("MFFPA_DATA" not in os.environ, reason="MFFPA_DATA names no folder with real images")
def test_an_epoch_on_real_dagm_images(here: Path, train: Callable) -> None:
    root = Path(os.environ["MFFPA_DATA"]) / "DAGM"
    assert train("dagm", root, "--resplit", "--image-size", "64x64", "--batch-size", "8", "--lr", "0.01") == (0, "")
    metrics = json.loads((here / "run" / "metrics.json").read_text())
    assert metrics["official"] is False and metrics["positives"] > 20
    assert any("not comparable with published numbers" in note for note in metrics["notes"])
