"""`python -m mffpa_ext.datasets check NAME --data-root DIR`: compares a folder with what its owner published.

Counts the images of every part, reads every file, and lists what is missing, unreadable, of another size, or without
its mask. Exit code 0 where all is as published, 1 where something is not, 2 for wrong flags.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.inventory import KINDS, Examination, examine
from mffpa_ext.data.loading import DATASETS
from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag
from mffpa_ext.files import check_folder, write_json

CHECKED = tuple(name for name, module in DATASETS.items() if hasattr(module, "inventory"))
_WITH_SPLIT = "steel"  # the one whose images have no numbers, so that only a list can name those that are missing


@dataclass(frozen=True)
class CheckConfig:
    """What is checked."""

    data_root: str | None = flag(None, "folder of the data set as its owner publishes it (required)")
    split_file: str | None = flag(None, "steel: split file of MixSup (.pyb), whose images have to be there as well")
    json: str | None = flag(None, "file for the counts and all problems; default: none is written")


def main(arguments: list[str]) -> int:
    parser = flags.make_parser("python -m mffpa_ext.datasets", __doc__)
    parser.add_argument("action", choices=("check",), help="what to do")
    parser.add_argument("name", choices=CHECKED, help="data set")
    flags.add_flags(parser, CheckConfig)
    given = vars(parser.parse_args(arguments))
    name, config = given["name"], flags.build(CheckConfig, given)
    if config.data_root is None:
        raise UserError(f"--data-root: expected the folder of {FACTS[name].title}, none was given")
    root = Path(config.data_root)
    if not root.is_dir():
        raise UserError(f"--data-root: expected the folder of {FACTS[name].title}, found no folder {root}")
    if config.split_file is not None and name != _WITH_SPLIT:
        raise UserError(f"--split-file is for {_WITH_SPLIT}; the images of {name} are numbered: leave it out")
    if config.json is not None:
        check_json(config.json)
    extra = {} if config.split_file is None else {"split_file": Path(config.split_file)}
    examination = examine(DATASETS[name].inventory(root, **extra))
    print(printable("\n".join(lines(FACTS[name].title, examination))), flush=True)
    if config.json is not None:
        write_json(Path(config.json), as_dict(name, examination))
    return 1 if examination.problems else 0


def check_json(path: str) -> None:
    """Raises UserError for a file that could not be written, before minutes of reading."""
    if Path(path).is_dir():
        raise UserError(f"--json {path}: expected a file to write, found a folder")
    check_folder("--json", Path(path).absolute().parent)
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)


def printable(text: str) -> str:
    """Names of files need not be text: what cannot be printed is shown as its bytes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def lines(title: str, examination: Examination) -> list[str]:
    """For people: all problems, then a table of counts, the notes and a summary, which stay in sight at the end."""
    rows = [("", "published", "", "found", "", ""),
            ("part", "defective", "defect-free", "defective", "defect-free", "unreadable")]
    for part, published in examination.published.items():
        rows.append((part, *published, *examination.found[part], examination.unreadable[part]))
    if len(examination.published) > 1:
        totals = [map(sum, zip(*counts.values(), strict=True)) for counts in (examination.published, examination.found)]
        rows.append(("sum", *totals[0], *totals[1], sum(examination.unreadable.values())))
    width = max(len(row[0]) for row in rows)
    table = [f"{row[0]:<{width}}" + "".join(f"{cell:>13}" for cell in row[1:]).rstrip() for row in rows]
    problems = examination.problems
    summary = f"{examination.files} files read: as published"
    if problems:
        counts = {kind: sum(problem.kind == kind for problem in problems) for kind in KINDS}
        summary = (f"{examination.files} files read: {len(problems)} problem{'s' if len(problems) > 1 else ''} ("
                   + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) + ")")
    return [*map(str, problems), f"{title} in {examination.root}", *table,
            *(f"note: {note}" for note in examination.notes), summary]


def as_dict(name: str, examination: Examination) -> dict[str, Any]:
    """For --json. `complete` says that there is no problem."""
    return {
        "dataset": name,
        "data_root": str(examination.root.absolute()),
        "complete": not examination.problems,
        "files": examination.files,
        "parts": {
            part: {
                "published": published._asdict(),
                "found": examination.found[part]._asdict(),
                "unreadable": examination.unreadable[part],
            }
            for part, published in examination.published.items()
        },
        "problems": [asdict(problem) for problem in examination.problems],
        "notes": examination.notes,
    }


if __name__ == "__main__":
    run_command(main)
