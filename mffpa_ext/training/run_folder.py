"""What a training run leaves behind: config.json, log.csv, last.pt, best.pt, metrics.json, predictions.csv.

Of one's own folder also split.csv, and skipped.csv where images were left out.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mffpa_ext.data.bad_images import BadImage
from mffpa_ext.data.part_lists import write_parts
from mffpa_ext.errors import UserError
from mffpa_ext.files import check_folder, write_json, write_text


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def split(self) -> Path:
        return self.path / "split.csv"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped.csv"

    @property
    def last(self) -> Path:
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    @classmethod
    def choose(cls, output: str | None, dataset: str, model: str) -> RunFolder:
        """The folder for a new run; nothing is made yet. Raises UserError where a run could not be written to it."""
        if output is None:
            started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            return cls(Path("runs") / f"{started}-{dataset}-{model}")
        check_folder("--output", output)
        folder = cls(output)
        if folder.path.is_dir() and any(folder.path.iterdir()):
            instead = f"or continue its run with --resume {output}" if folder.last.is_file() else "or empty it"
            raise UserError(f"--output {output}: the folder is not empty; name a new one, {instead}")
        return folder

    def create(self, config: dict[str, Any], may_rename: bool = False) -> None:
        """Makes the folder with config.json. may_rename: take NAME-2, NAME-3, ... where another run has the name."""
        name, number = self.path.name, 1
        try:
            while True:
                try:
                    self.path.mkdir(parents=True, exist_ok=not may_rename)
                    break
                except FileExistsError:
                    if not may_rename:
                        raise
                    number += 1
                    self.path = self.path.with_name(f"{name}-{number}")
            write_json(self.config, config)
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written to: {error.strerror}") from None

    def write_lists(self, parts: Mapping[str, str] | None, skipped: Sequence[BadImage]) -> None:
        """Writes split.csv (name, part), which `--split-file` takes, and skipped.csv (name, reason), as far as any."""
        try:
            if parts is not None:
                write_parts(self.split, parts)
            if skipped:
                write_text(self.skipped, _csv(("name", "reason"), skipped))
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written to: {error.strerror}") from None

    def discard_unless_started(self) -> None:
        """Takes back `create` where no epoch was completed: nothing can be continued, and the name is free again."""
        if not self.last.is_file():
            for path in (self.config, self.split, self.skipped, self.best):  # best.pt is written just before last.pt
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # never made, or somebody put files there
                self.path.rmdir()

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Writes the whole log again, one row an epoch: it never disagrees with the checkpoint that it goes with."""
        try:
            write_text(self.log, _csv(list(rows[0]), (row.values() for row in rows)))
        except OSError as error:
            raise UserError(f"{self.log}: cannot be written ({error.strerror}): make room, then --resume") from None


def _csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
