"""`threshold` as a user runs it: what it shows, what it stores, and that nothing else changes."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mffpa_ext import cli
from mffpa_ext.data import loading

TINY = ("--synthetic-train", "24", "--synthetic-test", "8", "--image-size", "32x32", "--epochs", "1",
        "--timing-images", "0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    cli.dispatch(["train", *TINY, "--threshold-rule", "recall", "--threshold-margin", "0.5", "--output", str(folder)])
    yield folder
    shutil.rmtree(folder)


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_training_stores_the_threshold_of_its_rule(run: Path, command: Callable) -> None:
    state = torch.load(run / "best.pt")
    assert state["operating_point"]["rule"] == "recall" and state["operating_point"]["margin"] == 0.5
    assert state["operating_point"]["counts"]["fn"] == 0
    assert state["operating_point"]["counts"]["threshold"] == state["threshold"]
    code, out, _ = command("evaluate", "--checkpoint", run / "best.pt", "--part", "validation", "--timing-images", 0)
    assert code == 0 and "2 defects found, 0 missed" in out
    assert "how it was chosen: no defect missed, with a margin of 0.5; of 2 defective" in out


def test_without_a_rule_it_only_shows(run: Path, here: Path, command: Callable) -> None:
    shutil.copy(run / "best.pt", here / "best.pt")
    before = (here / "best.pt").read_bytes()
    code, out, err = command("threshold", "--checkpoint", "best.pt", "--margin", 0)
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0] == "validation: 2 defective, 2 defect-free images; weights of epoch 1"
    assert [line.split()[0] for line in lines[1:]] == ["rule", "f1", "fpr", "recall", "stored"]
    recall, stored = lines[4].split(), lines[5].split()
    assert recall[2] == stored[2] == "0" and float(recall[1]) > float(stored[1])  # the margin was 0.5
    assert (here / "best.pt").read_bytes() == before


@pytest.mark.parametrize("arguments, rule", [(("--rule", "fpr", "--fpr", 0.5), "fpr"), (("--value", 0.25), "manual")])
def test_another_threshold_is_stored_and_nothing_else_changes(
    arguments: tuple, rule: str, run: Path, here: Path, command: Callable
) -> None:
    shutil.copy(run / "last.pt", here / "real.pt")
    (here / "link.pt").symlink_to("real.pt")
    code, out, _ = command("threshold", "--checkpoint", "link.pt", *arguments)
    assert code == 0 and out.splitlines()[-1].startswith("stored in link.pt: defective from score ")
    before, after = torch.load(run / "last.pt"), torch.load(here / "real.pt")
    changed = {key for key in before if not same(before[key], after[key])}
    assert changed == {"threshold", "operating_point"} and list(before) == list(after)
    assert after["operating_point"]["rule"] == rule
    assert rule != "manual" or after["threshold"] == 0.25
    assert (here / "link.pt").is_symlink() and sorted(path.name for path in here.iterdir()) == ["link.pt", "real.pt"]
    shown = command("threshold", "--checkpoint", "real.pt")[1].splitlines()[-1]
    assert shown.endswith("given by hand" if rule == "manual" else "chosen by fpr")


def test_validation_images_of_one_kind(here: Path, command: Callable, monkeypatch) -> None:
    """As of a folder whose few defects all belong to items that train."""
    genuine = loading.carve_validation

    def without_defects(*arguments):
        training, validation = genuine(*arguments)
        return training, [record for record in validation if not record.label]

    monkeypatch.setattr(loading, "carve_validation", without_defects)
    code, out, _ = command("train", *TINY, "--epochs", 2, "--output", "run")
    assert code == 0 and "best.pt is the last epoch: all validation images are defect-free" in out
    assert "the rule f1 needs defective images, the validation part has none, so fpr was taken" in out
    state = torch.load(here / "run" / "best.pt")
    assert state["epoch"] == 2 and state["operating_point"]["rule"] == "fpr" and state["threshold"] > 0
    code, out, _ = command("threshold", "--checkpoint", "run/best.pt", "--rule", "recall")
    assert code == 0 and "the rule recall needs defective images" in out.splitlines()[-1]
    code, _, err = command("evaluate", "--checkpoint", "run/best.pt", "--part", "validation")
    assert code == 2 and "metrics need defective and defect-free images, there are 0 and 2" in err


def test_a_run_without_validation_images(here: Path, command: Callable) -> None:
    assert command("train", *TINY, "--val-fraction", 0, "--output", "run")[0] == 0
    code, _, err = command("threshold", "--checkpoint", "run/best.pt", "--rule", "f1")
    assert code == 2 and "set no validation images aside" in err and "--val-fraction 0.2, or give one by hand" in err
    assert command("threshold", "--checkpoint", "run/best.pt", "--value", 0.5)[0] == 0
    assert torch.load(here / "run" / "best.pt")["threshold"] == 0.5


def test_chosen_on_test_images_it_says_so(here: Path, command: Callable) -> None:
    assert command("train", *TINY, "--validate-on", "test", "--output", "run")[0] == 0
    code, out, _ = command("threshold", "--checkpoint", "run/best.pt", "--rule", "recall")
    assert code == 0 and out.startswith("test: 4 defective")
    assert "chosen on the test images, so their results at it are optimistic" in out.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((), "--checkpoint: expected a checkpoint such as"),
        (("--checkpoint", "RUN", "--value", 2), "--value: expected a score from 0 to 1, got 2.0"),
        (("--checkpoint", "RUN", "--value", 0.5, "--rule", "f1"), "--value and --rule exclude each other"),
        (("--checkpoint", "RUN", "--rule", "f1", "--fpr", 0.1), "--fpr is for --rule fpr, not for f1"),
        (("--checkpoint", "RUN", "--fpr", 1), "--fpr: expected 0 to below 1, got 1.0"),
        (("--checkpoint", "RUN", "--rule", "luck"), "--rule: invalid choice: 'luck'"),
        (("--checkpoint", "RUN", "--batch-size", 0), "--batch-size: expected 1 or more, got 0"),
    ],
)
def test_wrong_flags(arguments: tuple, named: str, run: Path, command: Callable) -> None:
    before = (run / "best.pt").stat().st_mtime_ns
    code, out, err = command("threshold", *(run / "best.pt" if value == "RUN" else value for value in arguments))
    assert (code, out) == (2, "") and err.startswith("error: ") and named in err and err.count("\n") == 1
    assert (run / "best.pt").stat().st_mtime_ns == before
