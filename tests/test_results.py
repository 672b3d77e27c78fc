"""Trainings to the accuracy that the README promises, as a user would run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def train(folder: Path, *flags: str) -> dict:
    command = [sys.executable, "-m", "mffpa_ext.train", "--output", str(folder), *flags]
    subprocess.run(command, check=True)
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_default_training_learns_the_synthetic_defects(tmp_path: Path, seed: int) -> None:
    metrics = train(tmp_path / "run", "--seed", str(seed), "--timing-images", "10")
    assert metrics["ap"] >= 0.95
    assert metrics["at_threshold"] is not None  # chosen on validation images


@pytest.mark.skipif("MFFPA_DATA" not in os.environ, reason="MFFPA_DATA names no folder with real images")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_real_dagm_images_are_learned_from_half_of_the_test_half(tmp_path: Path, seed: int) -> None:
    metrics = train(
        tmp_path / "run",
        *("--dataset", "dagm", "--data-root", str(Path(os.environ["MFFPA_DATA"]) / "DAGM"), "--resplit"),
        *("--image-size", "256x256", "--epochs", "8", "--seed", str(seed), "--timing-images", "10"),
    )
    assert metrics["ap"] >= 0.95
    assert metrics["official"] is False
    assert metrics["epoch"] == 8  # the last: nothing was selected
    if seed == 0:  # bfloat16 costs no accuracy
        command = [sys.executable, "-m", "mffpa_ext.evaluate", "--checkpoint", str(tmp_path / "run" / "best.pt")]
        half = ("--precision", "bf16", "--timing-images", "0", "--output", str(tmp_path / "bf16"))
        subprocess.run([*command, *half], check=True)
        bf16 = json.loads((tmp_path / "bf16" / "metrics.json").read_text())
        assert abs(bf16["ap"] - metrics["ap"]) <= 0.002
