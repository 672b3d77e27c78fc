"""One training of a table: what determines its result, the folder that is named after it, and what lies in it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mffpa_ext import flags
from mffpa_ext.errors import UserError
from mffpa_ext.training.run_folder import RunFolder

# Settings of `train` that say where and how fast it runs; the others determine the result.
NEUTRAL = frozenset({"device", "workers", "cache_memory", "eval_batch_size", "timing_images"})
# Without validation images no threshold is chosen, whatever the rule.
THRESHOLD = frozenset({"threshold_rule", "threshold_fpr", "threshold_margin"})
# Those that a run is continued with, as they may have changed since.
_CONTINUED_WITH = ("data_root", "split_file", "workers", "cache_memory")
# What a training that was killed before its first checkpoint may have left behind.
_LEFTOVERS = frozenset({"config.json", "skipped.csv", "log.csv", "best.pt", "metrics.json", "predictions.csv"})


class State(Enum):
    """FINISHED: its metrics are there. BEGUN: a checkpoint continues it. NEW: neither."""

    FINISHED = "finished"
    BEGUN = "begun"
    NEW = "new"


@dataclass(frozen=True, eq=False)
class Run:
    """One training.

    path: its folder; the log lies beside it as NAME.log, and what became of the last attempt as NAME.json.
    settings: fields of `train`'s configuration, places and neutral ones included, the device and the folder left out.
    determined_by: those of them that determine the result. title: for people. positives: defective training images.
    epochs, steps: of the whole training. scored: images that its evaluations take.
    """

    path: Path
    settings: dict[str, Any]
    determined_by: dict[str, Any]
    title: str
    positives: int
    epochs: int
    steps: int
    scored: int

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def record(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def arguments(self, state: State, device: str) -> list[str]:
        """Of `train`, to start the run or to go on with it."""
        if state is State.BEGUN:
            places = {name: self.settings[name] for name in _CONTINUED_WITH if name in self.settings}
            return ["--resume", str(self.path), *flags.as_arguments({**places, "device": device})]
        return flags.as_arguments({**self.settings, "device": device, "output": str(self.path)})

    def state(self) -> State:
        """Raises UserError for a folder that holds a run with other settings, or anything that is not a run's."""
        if not self.path.exists():
            return State.NEW
        if self.metrics() is not None:
            self._check_config()
            return State.FINISHED
        if self.folder.last.is_file():
            return State.BEGUN
        foreign = [path.name for path in sorted(self.path.iterdir()) if not _is_leftover(path)]
        if foreign:
            raise UserError(f"{self.path}: expected a run's folder or none, found {foreign[0]}: move it away")
        return State.NEW

    def clear(self) -> None:
        """Removes what a start left that was killed before its first checkpoint; only for a run in state NEW."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                path.unlink()
            self.path.rmdir()

    def metrics(self) -> dict[str, Any] | None:
        """What the finished run measured; None where it is not there or not whole."""
        metrics = read_json(self.path / "metrics.json")
        if metrics is None or not all(_is_share(metrics.get(name)) for name in ("ap", "auc", "mask_ap")):
            return None
        return metrics

    def epochs_done(self) -> int:
        """Of the training in the folder, as its log says."""
        try:
            return max(0, len(self.folder.log.read_bytes().splitlines()) - 1)
        except OSError:
            return 0

    def steps_done(self) -> int:
        return self.steps * min(self.epochs_done(), self.epochs) // self.epochs

    def _check_config(self) -> None:
        config = read_json(self.folder.config) or {}
        for name, planned in self.determined_by.items():
            if name.startswith("split_"):
                continue  # known by its content, which the folder's name stands for
            found = config.get(name)
            found = tuple(found) if isinstance(found, list) else found
            if found != planned:
                raise UserError(f"{self.path}: expected a run with {name} {planned}, found one with {found}: move it "
                                f"away")


def key_of(settings: dict[str, Any], split: Path | None) -> dict[str, Any]:
    """What determines a result, for `Run.determined_by`.

    settings: those that do. A split file counts by its name and content, not by its place; where the images lie does
    not count.
    """
    if split is None:
        return dict(settings)
    return {**settings, "split_file": split.name, "split_sha256": hashlib.sha256(split.read_bytes()).hexdigest()}


def folder_name(title: str, determined_by: dict[str, Any]) -> str:
    """The same for the same settings, whichever table they belong to. title: of the run."""
    key = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()[:8]
    return f"{title.replace('=', '').replace(' ', '-')}-{key}"


def read_json(path: Path) -> dict[str, Any] | None:
    """The table in a file, None where it is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_leftover(path: Path) -> bool:
    temporary = path.name.startswith(".") and path.name.endswith(".tmp")
    return path.is_file() and (path.name in _LEFTOVERS or temporary)


def _is_share(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and 0 <= value <= 1
