"""results.json as a Markdown table for people."""

from __future__ import annotations

import re
from typing import Any

NOTHING = "–"


def render(results: dict[str, Any]) -> str:
    """The table, what deviates from the published protocol, and the notes that its numbers refer to."""
    metric = results["metric"].upper()
    lines = [f"# Table {results['table']}: {results['title']}", ""]
    if results["deviations"]:
        lines += ["**Not the published protocol:**", "", *(f"- {line}" for line in results["deviations"]), ""]
    lines += [f"{metric} in percent; ours: {_averaged(results)}; difference: ours - paper. "
              "What the paper leaves open: docs/paper.md.", ""]
    notes = _Notes()
    rows = [_row(results, cell, notes) for cell in results["cells"]]
    for average in results["averages"]:
        numbers = _numbers(average["percent"])
        rows.append(["average", average["column"], *numbers, "", _fewer_seeds(average["seeds"], results)])
    lines += text_table(_header(results), rows)
    if notes.lines:
        lines += ["", *notes.lines]
    failed = {f"{run['folder']}: {run['error']}" for cell in results["cells"] for run in cell["runs"]
              if run["state"] == "failed"}
    if failed:
        lines += ["", "Failed; the same command starts them again:", "", *(f"- {line}" for line in sorted(failed))]
    return "\n".join(lines) + "\n"


class _Notes:
    """Numbers notes as they come. Notes that differ in digits alone (folds, seeds) share a number and the first's text.
    """

    def __init__(self) -> None:
        self._alike: dict[str, list[str]] = {}

    def refer(self, notes: list[str]) -> str:
        numbers = []
        for note in notes:
            form = re.sub(r"\d+", "#", note)
            texts = self._alike.setdefault(form, [])
            if note not in texts:
                texts.append(note)
            numbers.append(list(self._alike).index(form) + 1)
        return " ".join(f"[{number}]" for number in dict.fromkeys(numbers))

    @property
    def lines(self) -> list[str]:
        lines = []
        for number, texts in enumerate(self._alike.values(), start=1):
            more = f" (and {len(texts) - 1} more with other numbers, see results.json)" if len(texts) > 1 else ""
            lines.append(f"[{number}] {texts[0]}{more}  ")
        return lines


def _averaged(results: dict[str, Any]) -> str:
    parts = results["parts"]
    kind = {"fold": "folds", "class": "classes"}.get(parts[0].split(" ")[0])
    over_parts = f"mean over {len(parts)} {kind}" if len(parts) > 1 else parts[0] or "one run"
    seeds = results["seeds"]
    return over_parts + (f", then mean ± standard deviation over {seeds} seeds" if seeds > 1 else ", one seed")


def _header(results: dict[str, Any]) -> list[str]:
    beside = list(results["others"])
    return ["N", "network", *beside, "paper", "ours", "difference", "runs", "notes"]


def _row(results: dict[str, Any], cell: dict[str, Any], notes: _Notes) -> list[str]:
    beside = [_published(values[str(cell["n"])]) for values in results["others"].values()]
    finished = sum(run["state"] == "finished" for run in cell["runs"])
    remarks = [_fewer_seeds(len(cell[results["metric"]]["by_seed"]), results), notes.refer(cell["notes"])]
    if cell["official_split"] is False:
        remarks.insert(0, "unofficial split")
    if cell["state"] == "failed":
        remarks.insert(0, "failed")
    return [f"N={cell['n']}", cell["column"], *beside, *_numbers(cell["percent"]),
            f"{finished}/{len(cell['runs'])}", " ".join(filter(None, remarks))]


def _fewer_seeds(averaged: int, results: dict[str, Any]) -> str:
    """Says so where a number is the mean over fewer seeds than stand above the table."""
    return f"{averaged} of {results['seeds']} seeds" if 0 < averaged < results["seeds"] else ""


def _numbers(percent: dict[str, float | None]) -> list[str]:
    """Paper, ours, difference."""
    if percent["mean"] is None:
        return [_published(percent["paper"]), NOTHING, NOTHING]
    ours = f"{percent['mean']:.2f}" + (f" ± {percent['std']:.2f}" if percent["std"] is not None else "")
    return [_published(percent["paper"]), ours, f"{percent['difference']:+.2f}"]


def _published(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def text_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Padded, so that it reads well as text too."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
             for row in [header, *rows]]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
