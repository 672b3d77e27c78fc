"""`predict` as a user runs it: what it prints and leaves, exit codes, pipes, and interruptions."""

import csv
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext import Predictor, cli
from mffpa_ext.command import run_command
from mffpa_ext.models import create_model
from mffpa_ext.training.checkpoint import model_facts, read_checkpoint, save_checkpoint

POINT = {"rule": "recall", "fpr": None, "margin": 1.0, "part": "validation", "note": "",
         "counts": {"threshold": 0.5, "tp": 3, "fp": 1, "fn": 0, "tn": 9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """best.pt, whose threshold lies between the images a.png and b.png, in `in` beside it."""
    root = tmp_path_factory.mktemp("predict")
    (root / "in").mkdir()
    rng = np.random.default_rng(3)
    for name in ("a.png", "b.png"):
        write_image(root / "in" / name, rng.integers(0, 256, (40, 32)))
    torch.manual_seed(1)
    model = create_model("mffpa", 1)
    state = {
        "config": {"seed": 0, "precision": "fp32"}, "notes": [], "epoch": 7, "best": {"epoch": 7},
        "preprocessing": {"channels": 1, "height": 32, "width": 40, "scale": 1 / 255}, "operating_point": POINT,
        "model_facts": model_facts(model), "model": model.state_dict(),
    }
    save_checkpoint(root / "best.pt", state)
    predictor = Predictor(root / "best.pt", device="cpu")
    scores = [predictor(predictor.preprocessing.read(root / "in" / name)).score.item() for name in ("a.png", "b.png")]
    assert abs(scores[0] - scores[1]) > 1e-4
    save_checkpoint(root / "best.pt", state | {"threshold": sum(scores) / 2})
    if scores[0] > scores[1]:  # b.png is the defective one
        (root / "in" / "a.png").rename(root / "in" / "x.png")
        (root / "in" / "b.png").rename(root / "in" / "a.png")
        (root / "in" / "x.png").rename(root / "in" / "b.png")
    yield root
    (root / "best.pt").unlink()


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, format="PNG")


@pytest.fixture
def predict(folder: Path, here: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Runs `mffpa predict` with the checkpoint: exit code, standard output, standard error."""
    shutil.copytree(folder / "in", here / "in")

    def predict(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, ["predict", "--checkpoint", str(folder / "best.pt"), *map(str, arguments)])
        return end.value.code, *capsys.readouterr()

    return predict


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# folders and files

def test_a_folder_of_images(predict: Callable, here: Path, folder: Path) -> None:
    code, out, err = predict("in", "--output", "out")
    threshold = torch.load(folder / "best.pt")["threshold"]
    assert code == 0 and out.splitlines()[0].split()[1:] == [
        "defect-free", out.split()[2], "ms", "in/a.png"] and out.splitlines()[1].split()[1] == "defective"
    assert f"defective from score {threshold:.6g} on: no defect missed, with a margin of 1; of 3 defective" in err
    assert "2 images: 1 defective, 1 defect-free; " in err and err.endswith("results: out\n")
    listed = rows((here / "out" / "predictions.csv").read_text())
    content = json.loads((here / "out" / "predictions.json").read_text())
    assert content["complete"] and content["threshold"] == threshold and content["operating_point"] == POINT
    assert (content["epoch"], content["precision"]) == (7, "fp32") and len(content["weights"]) == 64
    for line, entry, name, decision in zip(listed, content["predictions"], "ab", ("defect-free", "defective")):
        assert line["path"] == entry["path"] == f"in/{name}.png" and line["decision"] == entry["decision"] == decision
        assert float(line["score"]) == entry["score"] and (entry["score"] >= threshold) == (decision == "defective")
        assert entry["milliseconds"] == pytest.approx(entry["decode_ms"] + entry["model_ms"], abs=2e-3)
        assert entry["overlay"] == f"overlays/{name}.png.png" and (here / "out" / entry["overlay"]).is_file()


def test_the_checkpoint_prepares_the_images(predict: Callable, here: Path, folder: Path) -> None:
    """Of any size and kind."""
    image = Image.open("in/a.png")
    image.convert("RGB").resize((320, 400)).save("in/large.jpg")
    code, out, _ = predict("in/large.jpg", "--format", "jsonl")
    predictor = Predictor(folder / "best.pt", device="cpu")
    expected = predictor(predictor.preprocessing.read("in/large.jpg"))
    assert code == 0 and json.loads(out)["score"] == pytest.approx(expected.score.item(), abs=1e-6)
    assert json.loads(out)["mask_score"] == pytest.approx(expected.mask_score.item(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_bad_images_are_reported_in_their_row(batch_size: int, predict: Callable, here: Path) -> None:
    (here / "in" / "aa.png").write_text("no image")
    (here / "in" / "ab.png").write_bytes((here / "in" / "a.png").read_bytes()[:200])
    code, out, err = predict("in", "nowhere.png", "--batch-size", batch_size, "--output", "out", "--format", "csv")
    assert code == 1 and "5 images: 1 defective, 1 defect-free, 3 failed" in err
    assert out == (here / "out" / "predictions.csv").read_text()
    decisions = [(row["path"], row["decision"]) for row in rows(out)]
    assert decisions == [("in/a.png", "defect-free"), ("in/aa.png", "error"), ("in/ab.png", "error"),
                         ("in/b.png", "defective"), ("nowhere.png", "error")]
    assert [bool(row["error"]) for row in rows(out)] == [False, True, True, False, True]
    assert "in/aa.png: expected an image, got something that is none" in rows(out)[1]["error"]
    overlays = sorted(str(path.relative_to(here / "out")) for path in (here / "out").rglob("*.png"))
    assert overlays == ["overlays/in/a.png.png", "overlays/in/b.png.png"]


def test_an_empty_folder(predict: Callable, here: Path) -> None:
    (here / "empty").mkdir()
    code, out, err = predict("empty")
    assert code == 1 and "empty: expected images, found none" in out and "1 image: 1 failed" in err


def test_equal_names_do_not_meet(predict: Callable, here: Path) -> None:
    shutil.copytree("in", "other/in")
    Image.open("in/a.png").save("in/a.bmp")
    code, out, _ = predict("in", "other/in", "in/a.png", "--output", "out", "--format", "jsonl")
    overlays = [json.loads(line)["overlay"] for line in out.splitlines()]
    assert code == 0 and len(set(overlays)) == 6 and all((here / "out" / path).is_file() for path in overlays)
    assert [path.name for path in here.iterdir() if path.name not in ("in", "other")] == ["out"]


@pytest.mark.parametrize("name", ["new\nline.png", "spaces and, \"quotes\".png", "é漢.png"])
def test_names_that_need_care(name: str, predict: Callable, here: Path) -> None:
    os.rename("in/a.png", f"in/{name}")
    code, out, _ = predict(f"in/{name}", "--output", "out")
    assert code == 0 and out.count("\n") == 1 and out.endswith(f"  in/{name}\n".replace("\nl", "\\nl"))
    with open("out/predictions.csv", encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"in/{name}"]
    (entry,) = json.loads(Path("out/predictions.json").read_text())["predictions"]
    assert entry["path"] == f"in/{name}" and (here / "out" / entry["overlay"]).is_file()


def test_overlays_of_the_defective_or_of_none(predict: Callable, here: Path) -> None:
    predict("in", "--output", "out", "--overlays", "defective", "--format", "none")
    assert [path.name for path in (here / "out" / "overlays").iterdir()] == ["b.png.png"]
    _, out, _ = predict("in", "--output", "none", "--overlays", "none", "--format", "none")
    assert out == "" and not (here / "none" / "overlays").exists()


def test_known_masks_are_shown(predict: Callable, here: Path) -> None:
    mask = np.zeros((40, 32))
    mask[10:20, 10:20] = 255
    write_image(here / "in" / "a_mask.png", mask)
    write_image(here / "masks" / "b.png", mask[:-1])
    code, out, err = predict("in", "--masks", "masks", "--output", "out", "--format", "jsonl")
    with_mask, without = (Image.open(here / "out" / json.loads(line)["overlay"]) for line in out.splitlines())
    assert with_mask.width > without.width + 150
    assert "left out 1 file named as the mask of another image" in err
    wrong = json.loads(out.splitlines()[1])
    assert code == 1 and "b.png: expected the size of its image" in wrong["error"] and wrong["decision"] == "defective"


# the threshold

def test_another_threshold(predict: Callable) -> None:
    for threshold, decision in (("0", "defective"), ("1", "defect-free")):
        code, out, err = predict("in/a.png", "--threshold", threshold)
        assert code == 0 and out.split()[1] == decision and f"from score {threshold} on: given by hand" in err


def test_without_a_threshold_nothing_is_decided(predict: Callable, folder: Path, here: Path) -> None:
    state = read_checkpoint(folder / "best.pt") | {"threshold": None, "operating_point": None}
    save_checkpoint(here / "none.pt", state)
    code, out, err = predict("in", "--checkpoint", "none.pt", "--output", "out")
    assert code == 0 and [line.split()[1] for line in out.splitlines()] == ["unknown"] * 2
    assert "no decisions: no validation images to choose a threshold on. Give --threshold" in err
    assert json.loads((here / "out" / "predictions.json").read_text())["threshold"] is None
    assert "no heat map is drawn" not in err and (here / "out" / "overlays").exists()
    _, _, err = predict("in", "--checkpoint", "none.pt", "--output", "none", "--overlays", "defective")
    assert "note: --overlays defective: nothing is decided, so no heat map is drawn" in err
    assert not (here / "none" / "overlays").exists()


# going on

def test_resume_predicts_what_is_missing(predict: Callable, here: Path) -> None:
    (here / "in" / "c.png").write_text("not copied yet")
    assert predict("in", "--output", "out")[0] == 1
    first = (here / "out" / "predictions.csv").read_text()
    code, _, err = predict("in", "--output", "out")
    assert code == 2 and "holds the predictions of an earlier run" in err
    shutil.copy("in/a.png", "in/c.png")
    code, out, err = predict("in", "--output", "out", "--resume")
    assert code == 0 and out.endswith("in/c.png\n") and out.count("\n") == 1 and "2 images have predictions" in err
    whole = rows((here / "out" / "predictions.csv").read_text())
    assert whole[:2] == rows(first)[:2] and [row["error"] for row in whole] == [""] * 3
    code, _, err = predict("in", "--output", "out", "--resume", "--threshold", 0.9)
    assert code == 2 and "come of other threshold" in err


def test_results_among_the_images_do_not_become_images(predict: Callable, here: Path) -> None:
    assert predict("in", "--recursive", "--output", "in")[0] == 0
    shutil.copy("in/a.png", "in/c.png")
    code, out, _ = predict("in", "--recursive", "--output", "in", "--resume")
    assert code == 0 and out.count("\n") == 1 and out.endswith("in/c.png\n")


# wrong flags: exit code 2, one line, nothing left

@pytest.mark.parametrize(
    "arguments, named",
    [
        ("", "expected images, folders, or - for paths on standard input; none were given"),
        ("in - -", "-: standard input can be read once"),
        ("in -0", "--null is for paths on standard input"),
        ("in --threshold 1.5", "--threshold: expected a score from 0 to 1, got 1.5"),
        ("in --batch-size 0", "--batch-size: expected 1 or more, got 0"),
        ("in --decode-threads 0", "--decode-threads"),
        ("in --masks nowhere", "--masks nowhere: expected a folder of masks, found none"),
        ("in --resume", "--resume: it goes on with the predictions in --output"),
        ("- --resume --output out", "--resume: paths on standard input may be new images under old names"),
        ("in --output in/a.png", "--output in/a.png: expected a folder to write to"),
        ("in --output /proc/nothing", "--output /proc/nothing: cannot be written to"),
        ("in --precision fp8", "--precision"),
        ("in --overlays some", "--overlays: invalid choice: 'some'"),
        ("in --device cuda:99", "--device cuda:99"),
        ("in --checkpoint in/a.png", "in/a.png: expected a checkpoint of mffpa_ext"),
    ],
)
def test_wrong_flags(arguments: str, named: str, predict: Callable, here: Path) -> None:
    code, out, err = predict(*arguments.split())
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("error: ") and named in err
    assert [path.name for path in here.iterdir()] == ["in"]


def test_a_checkpoint_is_needed(here: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(cli.dispatch, ["predict", "x.png"])
    assert end.value.code == 2 and "--checkpoint: expected a checkpoint such as" in capsys.readouterr().err


def test_a_checkpoint_whose_network_does_not_take_its_images(predict: Callable, folder: Path, here: Path) -> None:
    state = read_checkpoint(folder / "best.pt")
    state["preprocessing"] |= {"height": 30}
    save_checkpoint(here / "odd.pt", state)
    code, _, err = predict("in", "--checkpoint", "odd.pt", "--output", "out")
    assert code == 2 and err.startswith("error: odd.pt: damaged: its network does not take its images")
    assert not (here / "out").exists()


# a process of its own: pipes and signals

@pytest.fixture
def start(folder: Path, here: Path) -> Iterator[Callable]:
    started = []

    def start(*arguments: str, **options) -> subprocess.Popen:
        path = [str(Path(__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        command = [sys.executable, "-m", "mffpa_ext.predict", "--checkpoint", str(folder / "best.pt"), *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def answer(process: subprocess.Popen, path: bytes) -> bytes:
    """The line that one path gets while the pipe stays open."""
    process.stdin.write(path + b"\n")
    assert select.select([process.stdout], [], [], 60)[0], process.stderr.read()
    return process.stdout.readline()


def test_a_line_controller_gets_each_answer_at_once_and_may_remove_the_image(
    start: Callable, folder: Path, here: Path
) -> None:
    process = start("-", "--format", "jsonl", "--output", "out")
    for number in range(3):
        shutil.copy(folder / "in" / "b.png", here / "part.png")
        result = json.loads(answer(process, b"part.png"))
        (here / "part.png").unlink()
        assert (result["path"], result["decision"], result["error"]) == ("part.png", "defective", None)
        assert (here / "out" / result["overlay"]).is_file()
        assert len(rows((here / "out" / "predictions.csv").read_text())) == number + 1
    assert json.loads(answer(process, b"part.png"))["decision"] == "error"
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"4 images: 3 defective, 1 failed" in err
    assert len(json.loads((here / "out" / "predictions.json").read_text())["predictions"]) == 4


def test_ended_while_it_waits(start: Callable, folder: Path, here: Path) -> None:
    """The image's name is no UTF-8: its bytes pass through as they are."""
    name = b"latin-\xe9.png"
    shutil.copy(folder / "in" / "a.png", here / os.fsdecode(name))
    process = start("-", "--output", "out")
    assert answer(process, name).endswith(b" ms  " + name + b"\n")
    assert (here / "out" / "overlays" / os.fsdecode(name + b".png")).is_file()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    err = process.stderr.read().decode()
    assert process.returncode == 130 and err.endswith(
        "interrupted after 1 image, whose predictions are in out; to continue, pipe the paths that are left, with a "
        "new folder as --output\n")
    assert "Traceback" not in err and "Fatal" not in err
    content = json.loads((here / "out" / "predictions.json").read_text())
    assert content["complete"] is False and len(content["predictions"]) == 1
    assert b"\n" + name + b"," in (here / "out" / "predictions.csv").read_bytes()


def test_interrupted_in_the_middle_of_a_folder(start: Callable, folder: Path, here: Path) -> None:
    (here / "many").mkdir()
    for index in range(2000):
        (here / "many" / f"{index:04d}.png").symlink_to(folder / "in" / "a.png")
    process = start("many", "--output", "out", "--overlays", "none")
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted after " in err and b"Traceback" not in err
    listed = rows((here / "out" / "predictions.csv").read_text())
    assert 5 <= len(listed) < 2000 and all(row["decision"] == "defect-free" for row in listed)
    assert [row["path"] for row in listed] == [f"many/{index:04d}.png" for index in range(len(listed))]
    assert len(json.loads((here / "out" / "predictions.json").read_text())["predictions"]) == len(listed)


@pytest.mark.slow
def test_a_reader_that_is_gone(start: Callable, folder: Path, here: Path) -> None:
    process = start("-", "--output", "out")
    process.stdout.close()
    process.stdin.write(os.fsencode(folder / "in" / "a.png") + b"\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert b"Traceback" not in process.stderr.read()
    assert len(rows((here / "out" / "predictions.csv").read_text())) == 1
