"""Tiny synthetic runs: eight training images of 32x32 pixels, an epoch in half a second."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.dataset import DataSplits
from mffpa_ext.data.loading import load_splits
from mffpa_ext.models import create_model
from mffpa_ext.training.config import TrainConfig, resolve
from mffpa_ext.training.run_folder import RunFolder
from mffpa_ext.training.trainer import Trainer, Validation

from mffpa_ext.models import create_model

DATA = DataConfig(image_size=(32, 32), synthetic_train=8, synthetic_test=6, val_fraction=0.0)

@pytest.fixture(scope="session")
def splits() -> DataSplits:
    return load_splits(DATA, 0, progress=False)

@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run folder that exists; emptied afterwards, as a checkpoint has 45 MB."""
    path = tmp_path / "run"
    path.mkdir()
    yield RunFolder(path)
    shutil.rmtree(path, ignore_errors=True)

@pytest.fixture
def make_trainer(splits: DataSplits, folder: RunFolder) -> Callable[..., Trainer]:
    """A trainer as a new process would make it: the same seed, nothing shared with another."""

    def make(
        run: RunFolder | None = None,
        validate: Callable[[torch.nn.Module], Validation] | None = None,
        workers: int = 0,
        **settings: Any,
    ) -> Trainer:
        config = resolve(TrainConfig(**{"epochs": 2, "batch_size": 4, **settings}), "synthetic", masks_used=True)
        torch.manual_seed(config.seed)
        model = create_model(config.model, 1, config.attention, config.gradient_stop == "on")
        facts = {"config": {"seed": config.seed, "precision": config.precision}, "preprocessing": {}, "notes": []}
        return Trainer(
            model, splits.train, config, torch.device("cpu"), run or folder, facts, validate, workers
        )

    return make

def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bitwise."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

def without_seconds(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in log]
