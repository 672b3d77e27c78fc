"""Ctrl-C and SIGTERM at a training in a process of its own: how it ends, what it leaves, and that it goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TINY = ("--synthetic-train", "16", "--synthetic-test", "8", "--image-size", "32x32", "--timing-images", "0")


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts `train` with the given flags in a process group of its own, and ends it whatever the test does."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "mffpa_ext.train", *TINY, *arguments, "--output", "run"],
            # A shell's background job ignores SIGINT, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *_python_path()])},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for file in (tmp_path / "run").glob("*.pt"):
        file.unlink()


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended without {beginning!r}: {process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_it_says_how_to_go_on(start, tmp_path: Path, number: int) -> None:
    process = start("--epochs", "100000")
    wait_for(process, "epoch 1/")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("interrupted in epoch ") and err.count("\n") == 1
    assert err.endswith("; to continue: python -m mffpa_ext.train --resume run\n")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best.pt", "config.json", "last.pt", "log.csv"]
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert f"interrupted in epoch {last['epoch'] + 1};" in err


def test_interrupted_with_loading_processes(start, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches every process of the group."""
    process = start("--epochs", "100000", "--workers", "2")
    wait_for(process, "epoch 1/")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count("\n") == 1 and "--resume run" in err


def test_interrupted_before_the_first_checkpoint_nothing_is_left(start, tmp_path: Path) -> None:
    process = start("--epochs", "1", "--image-size", "512x512", "--synthetic-test", "2")
    wait_for(process, "note: best.pt is")  # the last line before the first step
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted before the first checkpoint: nothing was kept\n")
    assert list(tmp_path.iterdir()) == []
