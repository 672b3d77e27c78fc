"""Training on a folder made of real DAGM images in many formats, then prediction on images that were left out."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mffpa_ext import Predictor, cli
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.images import read_mask
from mffpa_ext.data.loading import plan_splits

from .data.conftest import real_folder
from .data.mixed_folder import KINDS, SIZES, write_mixed_folder

EPOCHS = 5


@pytest.fixture
def half() -> Path:
    """Published images of DAGM, class 1."""
    root = os.environ.get("MFFPA_DATA")
    if not root:
        pytest.skip("set MFFPA_DATA to the folder that holds DAGM")
    return real_folder(Path(root), "DAGM", "Class1", "Test")


def test_the_folder_is_as_mixed_as_it_should_be(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    left_out = write_mixed_folder(tmp_path, half)
    planned = plan_splits(DataConfig("folder", str(tmp_path)), 0)
    defective = len(list((tmp_path / "defect").iterdir()))
    assert len(list((tmp_path / "masks").iterdir())) == -(-defective // 3) >= 10 and len(left_out) >= 20
    assert planned.channels == 3 and planned.config.image_size == (512, 512)
    assert all(f"{side}x{side}" in planned.found[1] for side in SIZES)
    assert all(word in planned.found[2] for word in ("colour", "gray", "16-bit", "PNG", "JPEG", "BMP", "TIFF"))
    assert len({path.suffix for path in (tmp_path / "good").iterdir()}) == len({suffix for suffix, _ in KINDS})


@pytest.mark.slow
def test_training_on_it_finds_the_defects_of_images_left_out(half: Path, here: Path) -> None:
    left_out = write_mixed_folder(here / "parts", half)
    cli.dispatch(["train", "--dataset", "folder", "--data-root", "parts", "--image-size", "256x256", "--channels", "1",
                  "--epochs", str(EPOCHS), "--timing-images", "0", "--output", "run"])
    with (here / "run" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = [int(row["label"]) for row in rows]
    assert average_precision_score(labels, [float(row["score"]) for row in rows]) >= 0.9

    predictor = Predictor("run/best.pt")
    scores, hits = [], []
    labels = [(half / "Label" / f"{path.stem}_label.PNG").is_file() for path in left_out]
    for path, defective in zip(left_out, labels):
        result = predictor(predictor.preprocessing.read(path))
        scores.append(result.score.item())
        if defective:
            hits.append(_hits(path, half, result.mask.numpy()))
    assert average_precision_score(labels, scores) >= 0.9
    assert np.mean(hits) >= 0.8  # the mask is highest on the defect


def _hits(path: Path, half: Path, mask: np.ndarray) -> bool:
    truth = read_mask(half / "Label" / f"{path.stem}_label.PNG")
    row, column = np.unravel_index(mask.argmax(), mask.shape)
    step = truth.shape[0] // mask.shape[0]
    return bool(truth[row * step:(row + 1) * step, column * step:(column + 1) * step].any())
