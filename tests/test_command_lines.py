"""`train`, `evaluate` and the console script as a user runs them: what they leave, and how they fail."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mffpa_ext import cli
from mffpa_ext.data.config import DataConfig
from mffpa_ext.datasets import CheckConfig
from mffpa_ext.evaluate import EvaluateConfig
from mffpa_ext.predict import PredictConfig
from mffpa_ext.reproduce import ReproduceConfig
from mffpa_ext.summary import SummaryConfig
from mffpa_ext.threshold import ThresholdConfig
from mffpa_ext.training.config import TrainConfig

TINY = ("--synthetic-train", "16", "--synthetic-test", "8", "--image-size", "32x32", "--timing-images", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One finished run of two epochs, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    cli.dispatch(["train", *TINY, "--epochs", "2", "--seed", "5", "--output", str(folder)])
    yield folder
    shutil.rmtree(folder)


def predictions(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# a run from beginning to end

def test_a_run_leaves_six_files(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "best.pt", "config.json", "last.pt", "log.csv", "metrics.json", "predictions.csv"
    ]
    config = json.loads((run / "config.json").read_text())
    assert (config["seed"], config["epochs"], config["recipe"], config["image_size"]) == (5, 2, "quick", [32, 32])
    assert config["gradient_stop"] == "on" and config["val_fraction"] == 0.2  # resolved
    assert [row["epoch"] for row in predictions(run / "log.csv")] == ["1", "2"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["positives"], metrics["negatives"], metrics["part"]) == (4, 4, "test")
    assert 0 <= metrics["ap"] <= 1 and 0 <= metrics["auc"] <= 1 and metrics["fps"] > 0
    assert metrics["at_threshold"] is not None
    rows = predictions(run / "predictions.csv")
    assert len(rows) == 8 and sum(int(row["label"]) for row in rows) == 4
    assert all(0 < float(row["score"]) < 1 and row["name"].startswith("test/") for row in rows)
    best, last = (torch.load(run / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert last["epoch"] == 2 and best["epoch"] == metrics["epoch"] == last["best"]["epoch"]
    assert metrics["at_threshold"]["threshold"] == best["threshold"]
    assert last["config"] == config


def test_evaluate_gives_the_numbers_of_the_training_from_anywhere(run: Path, here: Path, command: Callable) -> None:
    code, out, err = command("evaluate", "--checkpoint", run / "best.pt", "--output", "ev", "--timing-images", 0)
    assert (code, err) == (0, "")
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (here / "ev", run))
    assert {k: v for k, v in ours.items() if k not in ("fps", "timings")} == {
        k: v for k, v in theirs.items() if k not in ("fps", "timings")
    }
    assert ours["fps"] is None
    assert (here / "ev" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()
    assert f"AP {theirs['ap']:.4f}" in out and "best.pt is the epoch of the highest validation AP" in out


def test_evaluate_writes_nothing_unasked(run: Path, here: Path, command: Callable) -> None:
    code, out, _ = command("evaluate", "--checkpoint", run / "last.pt", "--part", "validation", "--timing-images", 0)
    assert code == 0 and out.startswith("validation: 2 defective, 2 defect-free images; weights of epoch 2")
    assert list(here.iterdir()) == []


def test_evaluate_uses_the_stored_preprocessing(run: Path, here: Path, command: Callable) -> None:
    """Not the settings, which may name a default that has changed since."""
    state = torch.load(run / "best.pt")
    assert state["preprocessing"] == {"channels": 1, "height": 32, "width": 32, "scale": 1 / 255, "bit_depth": 16}
    state["config"]["image_size"] = None
    torch.save(state, here / "best.pt")
    assert command("evaluate", "--checkpoint", "best.pt", "--output", "ev", "--timing-images", 0)[0] == 0
    assert (here / "ev" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()


@pytest.mark.parametrize(
    "change, named",
    [
        ({"channels": 3}, "its images have 3 channels, its network takes 1"),
        ({"channels": "one"}, "damaged: expected a number under 'preprocessing' 'channels', found 'one'"),
        ({"height": None}, "damaged: expected a number under 'preprocessing' 'height', found None"),
        ({"scale": 1.0}, "its images were multiplied by 1, this version multiplies by 1/255"),
        ({"width": 30}, "--image-size"),
    ],
)
def test_stored_preprocessing_that_does_not_fit(
    change: dict, named: str, run: Path, here: Path, command: Callable
) -> None:
    state = torch.load(run / "best.pt")
    state["preprocessing"] |= change
    torch.save(state, here / "best.pt")
    code, out, err = command("evaluate", "--checkpoint", "best.pt", "--output", "ev")
    assert (code, out) == (2, "") and err.startswith("error: ") and named in err and err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["best.pt"]


def test_a_run_s_own_config_repeats_it(run: Path, here: Path, command: Callable) -> None:
    assert command("train", "--config", run / "config.json", "--output", "again")[0] == 0
    assert (here / "again" / "config.json").read_text() == (run / "config.json").read_text()
    assert (here / "again" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()


def test_a_flag_wins_over_the_file(run: Path, here: Path, command: Callable) -> None:
    code, _, _ = command("train", "--config", run / "config.json", "--epochs", 1, "--seed", 6, "--output", "again")
    config = json.loads((here / "again" / "config.json").read_text())
    assert code == 0 and (config["epochs"], config["seed"], config["synthetic_train"]) == (1, 6, 16)


def test_resuming_a_finished_run_evaluates_it_again(run: Path, here: Path, command: Callable) -> None:
    shutil.copytree(run, here / "copy")
    (here / "copy" / "metrics.json").unlink()
    code, _, err = command("train", "--resume", "copy", "--device", "cpu", "--workers", 0)
    assert (code, err) == (0, "")
    assert (here / "copy" / "predictions.csv").read_text() == (run / "predictions.csv").read_text()
    assert json.loads((here / "copy" / "metrics.json").read_text())["epoch"] == torch.load(run / "best.pt")["epoch"]


def test_a_run_is_resumed_with_its_own_settings(run: Path, command: Callable) -> None:
    for given in (["--epochs", 9], ["--output", "x"], ["--config", run / "config.json"]):
        code, _, err = command("train", "--resume", run, *given)
        assert (code, err) == (2, f"error: --resume: a run is continued with its own settings; leave out {given[0]}\n")


def test_validation_on_the_test_images_says_so(here: Path, command: Callable) -> None:
    code, out, _ = command("train", *TINY, "--epochs", 1, "--validate-on", "test", "--output", "run")
    assert code == 0 and "note: validated on the test images" in out and "optimistic" in out
    metrics = json.loads((here / "run" / "metrics.json").read_text())
    assert any("validated on the test images" in note for note in metrics["notes"])
    assert json.loads((here / "run" / "config.json").read_text())["val_fraction"] == 0


def test_without_masks(here: Path, command: Callable) -> None:
    code, out, _ = command("train", *TINY, "--epochs", 1, "--num-segmented", 0, "--output", "run")
    assert code == 0 and "(0 with masks)" in out and "gradient stop off" in out
    assert torch.load(here / "run" / "best.pt")["model_facts"]["gradient_stop"] is False


def test_without_validation_there_is_no_threshold(here: Path, command: Callable) -> None:
    code, out, _ = command("train", *TINY, "--epochs", 1, "--val-fraction", 0, "--output", "run")
    assert code == 0 and "no operating threshold" in out and "best.pt is the last epoch" in out
    assert json.loads((here / "run" / "metrics.json").read_text())["at_threshold"] is None
    code, _, err = command("evaluate", "--checkpoint", "run/best.pt", "--part", "validation")
    assert code == 2 and err.startswith("error: --part validation: this run had no validation images")


def test_default_folders_are_below_runs(here: Path, command: Callable) -> None:
    for number in (1, 2):
        assert command("train", *TINY, "--epochs", 1, "--timing-images", 0)[0] == 0
        assert len(list((here / "runs").glob("*-synthetic-mffpa*/metrics.json"))) == number


# wrong flags: exit code 2, one line that names the culprit, nothing left

@pytest.mark.parametrize(
    "arguments, named",
    [
        ("--foo 1", "unrecognized arguments: --foo 1"),
        ("--epoch 1", "unrecognized arguments: --epoch 1"),
        ("--epochs 0", "--epochs: expected 1 or more, got 0"),
        ("--epochs two", "--epochs: expected a whole number, got 'two'"),
        ("--lr -0.1", "--lr: expected above 0, got -0.1"),
        ("--lr nan", "--lr: expected a finite number"),
        ("--seed -1", "--seed: expected 0 to 2^63 - 1, got -1"),
        ("--theta -1", "--theta"),
        ("--threshold-rule luck", "--threshold-rule: invalid choice: 'luck'"),
        ("--threshold-fpr 1", "--threshold-fpr: expected 0 to below 1, got 1.0"),
        ("--threshold-margin -1", "--threshold-margin: expected 0 or more, got -1.0"),
        ("--batch-size 0", "--batch-size"),
        ("--cache-memory inf", "--cache-memory"),
        ("--workers -1", "--workers"),
        ("--model resnet", "--model: invalid choice: 'resnet'"),
        ("--image-size 100x100", "--image-size: expected height x width, multiples of 8 and above 0, got 100x100"),
        ("--image-size 64", "--image-size"),
        ("--image-size 32x32 --model baseline", "--image-size 32x32: --model baseline needs at least 64x64"),
        ("--image-size 24x24", "--image-size"),
        ("--num-segmented 500", "--num-segmented: expected at most 6"),
        ("--num-segmented -1", "--num-segmented"),
        ("--num-segmented some", "--num-segmented"),
        ("--val-fraction 1", "--val-fraction"),
        ("--validate-on test --val-fraction 0.2", "--validate-on test and --val-fraction"),
        ("--device tpu", "--device tpu: expected auto, cpu, cuda"),
        ("--device meta", "--device meta: expected auto, cpu, cuda"),
        ("--device cuda:99", "--device cuda:99: expected a GPU that is there"),
        ("--recipe paper", "--recipe paper: has no settings for synthetic; use quick"),
        ("--data-root .", "--data-root .: the synthetic data set reads no folder: say with --dataset"),
        ("--dataset dagm", "--data-root: dagm needs the folder"),
        ("--dataset ksdd --data-root .", "--synthetic-train is for --dataset synthetic, not for ksdd: leave it out"),
        ("--fold 2", "--fold is for --dataset ksdd, not for synthetic: leave it out"),
        ("--dagm-class 2", "--dagm-class is for --dataset dagm, not for synthetic: leave it out"),
        ("--split-file x.pyb", "--split-file"),
        ("--config nowhere.toml", "--config nowhere.toml"),
        ("--output occupied", "--output occupied: the folder is not empty"),
        ("--output occupied/file/run", "--output occupied/file/run: expected a folder to write to"),
        ("--output /proc/nothing", "--output /proc/nothing: cannot be written to"),
    ],
)
def test_wrong_flags_of_train(arguments: str, named: str, here: Path, command: Callable) -> None:
    (here / "occupied").mkdir()
    (here / "occupied" / "file").write_text("mine")
    code, out, err = command("train", *TINY, "--epochs", 1, *arguments.split())
    assert code == 2
    assert err.startswith("error: ") and named in err and err.count("\n") == 1
    assert [str(path.relative_to(here)) for path in sorted(here.rglob("*"))] == ["occupied", "occupied/file"]


@pytest.mark.parametrize("given", ["nowhere", "empty", "begun"])
def test_resuming_what_is_no_run(given: str, here: Path, command: Callable) -> None:
    (here / "empty").mkdir()
    (here / "begun").mkdir()
    (here / "begun" / "config.json").write_text("{}")
    code, _, err = command("train", "--resume", given)
    assert (code, err) == (2, f"error: --resume {given}: expected a run folder with last.pt, found none\n")


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("", "--checkpoint: expected a checkpoint such as runs/NAME/best.pt, none was given"),
        ("--checkpoint nowhere.pt", "nowhere.pt: expected a checkpoint of mffpa_ext"),
        ("--checkpoint .", ".: expected a checkpoint of mffpa_ext, such as RUN/best.pt, found a folder"),
        ("--checkpoint foreign.pt", "foreign.pt: expected a checkpoint of mffpa_ext"),
        ("--checkpoint RUN/config.json", "config.json: expected a checkpoint of mffpa_ext"),
        ("--checkpoint RUN/best.pt --precision fp8", "--precision: invalid choice: 'fp8'"),
        ("--checkpoint RUN/best.pt --batch-size 0", "--batch-size: expected 1 or more, got 0"),
        ("--checkpoint RUN/best.pt --timing-images -1", "--timing-images: expected 0 or more, got -1"),
        ("--checkpoint RUN/best.pt --cache-memory -1", "--cache-memory"),
        ("--checkpoint RUN/best.pt --device cuda:99", "--device cuda:99"),
        ("--checkpoint RUN/best.pt --data-root .", "--data-root .: the synthetic data set reads no folder"),
        ("--checkpoint RUN/best.pt --output foreign.pt", "--output foreign.pt: expected a folder to write to"),
    ],
)
def test_wrong_flags_of_evaluate(arguments: str, named: str, run: Path, here: Path, command: Callable) -> None:
    torch.save({"weight": torch.zeros(2)}, here / "foreign.pt")
    code, out, err = command("evaluate", *arguments.replace("RUN", str(run)).split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and named in err and err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["foreign.pt"]


# the console script

CONFIGS = {
    "train": (DataConfig, TrainConfig), "evaluate": (EvaluateConfig,), "threshold": (ThresholdConfig,),
    "predict": (PredictConfig,), "reproduce": (ReproduceConfig,), "datasets": (CheckConfig,),
    "summary": (SummaryConfig,),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_help_mentions_every_flag(name: str, command: Callable) -> None:
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "") and out.startswith(f"usage: python -m mffpa_ext.{name} ")
    for field in (field for config in CONFIGS[name] for field in dataclasses.fields(config)):
        assert f"--{field.name.replace('_', '-')}" in out
    if name == "predict":
        assert "-0, --null" in out and "IMAGE|DIR|-" in out
    if name == "train":
        assert "--config FILE" in out and "--resume RUN" in out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_console_script_lists_its_commands(arguments: list[str], command: Callable) -> None:
    code, out, _ = command(*arguments)
    assert code == 0 and all(f"  {name} " in out for name in cli.COMMANDS)


def test_an_unknown_command(command: Callable) -> None:
    assert command("fly") == (2, "", f"error: mffpa fly: expected one of {', '.join(cli.COMMANDS)}\n")


def test_dispatch_hands_the_arguments_on(command: Callable) -> None:
    code, out, _ = command("summary", "--image-size", "64x64", "--in-channels", 1)
    assert code == 0 and "one image of 1x64x64" in out and "mffpa" in out
