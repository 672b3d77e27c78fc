"""predictions.csv and predictions.json: whole at any time, whatever ends the program."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mffpa_ext.errors import UserError
from mffpa_ext.files import write_text


@dataclass(frozen=True)
class Row:
    """One line of the results.

    decision: "defective", "defect-free", "unknown" (there is no threshold) or "error". milliseconds: decode_ms and
    model_ms together. overlay: the picture's path in the results folder. error: one line; with a score, what went
    wrong beside the prediction.
    """

    path: str
    score: float | None
    decision: str
    milliseconds: float | None = None
    decode_ms: float | None = None
    model_ms: float | None = None
    mask_score: float | None = None
    overlay: str | None = None
    error: str | None = None

    def as_csv(self) -> str:
        return _csv_line(asdict(self).values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_csv(cls, line: dict[str | None, str | None]) -> Row | None:
        """None for a line that is no whole row, such as the last one after a power cut."""
        if None in line or None in line.values():  # more columns, or fewer
            return None
        try:
            values = {name: text or None for name, text in line.items()}
            return cls(**values | {name: float(values[name]) for name in _NUMBERS if values[name] is not None})
        except (TypeError, ValueError, LookupError):
            return None


COLUMNS = tuple(field.name for field in fields(Row))
_NUMBERS = ("score", "milliseconds", "decode_ms", "model_ms", "mask_score")
HEADER = ",".join(COLUMNS) + "\n"
CSV, JSON = "predictions.csv", "predictions.json"
# A path that comes through a pipe may be of any length; what was written must be read again.
csv.field_size_limit(2**31 - 1)


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)  # a name with any end of line in it is quoted
    return text.getvalue()[:-2] + "\n"


class ResultsFolder:
    """Writes the results of one prediction.

    predictions.csv gets every row at once; predictions.json is made of it by `close`, so that neither memory nor an
    interruption limits them.

    Args:
        path: made where it is missing.
        facts: what predictions.json says beside the rows: primitives.
        resume: go on with the results that are there; rows with an error are dropped and their images due again.

    Raises UserError for a folder that has results and is not to be resumed, that cannot be written to, or whose
    results come of other `facts[COMPARED]`.
    """

    COMPARED = ("weights", "threshold", "precision", "preprocessing")

    def __init__(self, path: Path, facts: dict[str, Any], resume: bool = False) -> None:
        self.path, self.facts = path, facts
        self.csv, self.json = path / CSV, path / JSON
        self.done: set[str] = set()
        self.overlays: set[str] = set()
        with self._writing():
            path.mkdir(parents=True, exist_ok=True)
            if self.csv.exists() and self.csv.stat().st_size > len(HEADER) and not resume:
                raise UserError(
                    f"--output {path}: it holds the predictions of an earlier run: name a new folder, or go on with "
                    f"them with --resume"
                )
            if resume and self.csv.exists():
                self._check_same_facts()
                self._keep_good_rows()
            else:
                write_text(self.csv, HEADER)
            # Unbuffered: a row is in the file, or not at all, when the program ends.
            self._file = open(self.csv, "ab", buffering=0)
            self._write_json(complete=False)

    def write(self, row: Row) -> None:
        """Appends a row. Raises UserError where it cannot be written; those before it stay whole."""
        size = self._file.tell()
        with self._writing():
            content = row.as_csv().encode("utf-8", "surrogateescape")
            try:
                if self._file.write(content) != len(content):
                    raise OSError(28, "No space left on device")
            except BaseException:
                self._file.truncate(size)
                raise

    def close(self, complete: bool) -> None:
        """Writes predictions.json. complete: all images have a row."""
        self._file.close()
        with self._writing():
            self._write_json(complete)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written to ({error.strerror}): make room or choose "
                            f"another folder; the predictions before stay") from None

    def _rows(self) -> Iterator[Row]:
        with open(self.csv, encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield from filter(None, map(Row.from_csv, csv.DictReader(file)))

    def _check_same_facts(self) -> None:
        try:
            earlier = json.loads(self.json.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if not isinstance(earlier, dict):
            raise UserError(f"--resume: {self.json} is missing or damaged, so what {self.csv} comes of is not known: "
                            f"name a new folder")
        for name in self.COMPARED:
            if earlier.get(name) != self.facts.get(name):
                raise UserError(f"--resume: the predictions in {self.path} come of other {name}: "
                                f"{str(earlier.get(name))[:60]}, now {str(self.facts[name])[:60]}: name a new folder")

    def _keep_good_rows(self) -> None:
        temporary = self.csv.with_name(f".{self.csv.name}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(HEADER)
                for row in self._rows():
                    if row.error is None:
                        self.done.add(row.path)
                        if row.overlay is not None:
                            self.overlays.add(row.overlay)
                        file.write(row.as_csv())
            os.replace(temporary, self.csv)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write_json(self, complete: bool) -> None:
        temporary = self.json.with_name(f".{self.json.name}.tmp")
        head = json.dumps({**self.facts, "complete": complete}, indent=2).removesuffix("\n}")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(f'{head},\n  "predictions": [')
                separator = "\n"
                for row in self._rows():
                    file.write(f"{separator}    {json.dumps(row.as_dict())}")
                    separator = ",\n"
                file.write("\n  ]\n}\n")
            os.replace(temporary, self.json)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
