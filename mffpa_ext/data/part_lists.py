"""Lists of which image trains, validates or tests: CSV files with the columns `name` and `part`."""

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from mffpa_ext.data.folder_files import normal
from mffpa_ext.errors import UserError
from mffpa_ext.files import write_text

_PARTS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
_LARGEST = 256 * 2**20  # bytes


def write_parts(path: Path, parts: Mapping[str, str]) -> None:
    """Writes names and parts as `read_parts` takes them, by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "part"])
    writer.writerows(sorted(parts.items()))
    write_text(path, text.getvalue())


def read_parts(path: Path, names: Collection[str]) -> dict[str, str]:
    """Reads a CSV: a name of `names` to "train", "val" or "test".

    The first line names the columns; those beside `name` and `part` are passed over. Separated by commas, semicolons or
    tabs, as spreadsheets write them. Names have forward or backward slashes. Raises UserError with the line for a part
    that is none, a name that is not there, or one that comes twice.
    """
    text = _read_text(path)
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    known = {normal(name): name for name in names}
    parts: dict[str, str] = {}
    lines: dict[str, int] = {}
    columns: dict[str, int] = {}
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = _columns(row, where)
                continue
            if len(row) <= max(columns.values()):
                raise UserError(f"{where}: expected name and part, got {separator.join(row)!r}")
            given, part = row[columns["name"]].strip(), row[columns["part"]].strip()
            name = known.get(normal(given)) or known.get(normal(given.replace("\\", "/")))
            if name is None:
                raise UserError(f"{where}: {given!r} is no image of the folder: names are those below --data-root, "
                                f"such as {min(names)}")
            if part.lower() not in _PARTS:
                raise UserError(f"{where}: expected the part train, val or test, got {part!r}")
            if name in parts:
                raise UserError(f"{where}: {given!r} stands in line {lines[name]} already: list each image once")
            parts[name], lines[name] = _PARTS[part.lower()], reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: expected a CSV of name,part: {error}") from None
    if not parts:
        raise UserError(f"{path}: expected a CSV of name,part, found no image in it")
    return parts


def _read_text(path: Path) -> str:
    expected = "expected a CSV of name,part"
    if not path.is_file():
        raise UserError(f"--split-file {path}: {expected}, found {'a folder' if path.is_dir() else 'no such file'}")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"--split-file {path}: {expected}, got more than {_LARGEST // 2**20} MiB")
    # Names of image files need not be UTF-8: their bytes pass through as `write_parts` lets them.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise UserError(f"--split-file {path}: {expected}, got a file that is no text in UTF-8: save it as such")
    return text


def _columns(row: list[str], where: str) -> dict[str, int]:
    titles = [cell.strip().lower() for cell in row]
    for column in ("name", "part"):
        if titles.count(column) != 1:
            raise UserError(f"{where}: expected a first line that names the columns name and part, got {row!r}")
    return {column: titles.index(column) for column in ("name", "part")}
