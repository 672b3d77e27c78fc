"""What a training run leaves behind: config.json, log.csv, last.pt, best.pt, metrics.json, predictions.csv."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import Any

from mffpa_ext.errors import UserError
from mffpa_ext.files import write_json, write_text


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.log = self.path / "log.csv"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.metrics = self.path / "metrics.json"
        self.predictions = self.path / "predictions.csv"

    @classmethod
    def choose(cls, output: str | None, dataset: str, model: str) -> RunFolder:
        """The folder for a new run; nothing is made yet. Raises UserError where it holds a run already."""
        if output is None:
            started = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            return cls(Path("runs") / f"{started}-{dataset}-{model}")
        folder = cls(output)
        if folder.path.is_dir() and any(folder.path.iterdir()):
            raise UserError(
                f"--output {output}: the folder is not empty; name a new one, or continue its run with "
                f"--resume {output}"
            )
        return folder

    def create(self, config: dict[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.config, config)
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written to: {error.strerror}") from None

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Writes the whole log again, one row an epoch: it never disagrees with the checkpoint that it goes with."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.log, text.getvalue())
