"""What the runs of a table have measured, averaged as MixSup does: over folds or classes, then over seeds."""

from __future__ import annotations

import platform
import statistics
from datetime import UTC, datetime
from typing import Any

import torch

from mffpa_ext import __version__
from mffpa_ext.errors import UserError
from mffpa_ext.files import write_json, write_text
from mffpa_ext.reproduction.cells import Cell
from mffpa_ext.reproduction.markdown import render
from mffpa_ext.reproduction.plan import Plan
from mffpa_ext.reproduction.protocol import PROTOCOLS, Part
from mffpa_ext.reproduction.runs import Run, State, read_json

METRICS = ("ap", "auc", "mask_ap", "fps")


def write_results(plan: Plan, command: str) -> dict[str, Any]:
    """Writes results.json and table.md into the plan's folder, each whole or not at all; returns the former."""
    results = collect(plan, command)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_json(plan.folder / "results.json", results)
    write_text(plan.folder / "table.md", render(results))
    return results


def collect(plan: Plan, command: str) -> dict[str, Any]:
    """The table as primitives, from what lies in the folders of the runs now.

    Metrics are in 0..1 as in a run's metrics.json; what stands under `percent` is in percent, as in the paper.
    """
    cells = [_cell(plan, cell) for cell in plan.cells]
    return {
        "table": plan.table.number,
        "title": plan.table.title,
        "dataset": plan.table.dataset,
        "metric": plan.table.metric,
        "published_protocol": not plan.deviations,
        "deviations": plan.deviations,
        "seeds": plan.shown_seeds,
        "parts": [_part_title(plan, part) for part in plan.parts],
        "cells": cells,
        "averages": _averages(plan, cells),
        "others": {method: dict(zip(map(str, plan.table.n), values, strict=True))
                   for method, values in plan.table.others.items()},
        "versions": {"mffpa_ext": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.platform(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def _cell(plan: Plan, cell: Cell) -> dict[str, Any]:
    runs = [_run(plan, seed, part, run) for seed, part, run in plan.of(cell)]
    by_seed = [[run for run in runs if run["seed"] == seed] for seed in range(plan.shown_seeds)]
    # A seed counts when all of its folds or classes are there.
    complete = [group for group in by_seed if all(run["state"] == "finished" for run in group)]
    summary = {metric: _summary(complete, metric) for metric in METRICS}
    measured = summary[plan.table.metric]
    finished = [run for run in runs if run["state"] == "finished"]
    return {
        "n": cell.n, "column": cell.title, "model": cell.model, "attention": cell.attention,
        "selected": cell in plan.selected,
        "state": _state(runs),
        "percent": _percent(cell.paper, measured),
        **summary,
        "official_split": all(run["official"] for run in finished) if finished else None,
        "notes": list(dict.fromkeys(note for run in finished for note in run["notes"])),
        "runs": runs,
    }


def _state(runs: list[dict[str, Any]]) -> str:
    """finished: all of it. failed: a run of it did. partial: some runs are there. missing: none is."""
    states = {run["state"] for run in runs}
    if states == {"finished"}:
        return "finished"
    return "failed" if "failed" in states else "partial" if "finished" in states else "missing"


def _run(plan: Plan, seed: int, part: Part, run: Run | None) -> dict[str, Any]:
    described = {"seed": seed, "part": _part_title(plan, part), "state": "missing", "error": None,
                 "folder": None if run is None else str(run.path)}
    if run is None:
        return described
    record = read_json(run.record) or {}
    try:
        finished, error = run.state() is State.FINISHED, record.get("error")
    except UserError as problem:
        finished, error = False, str(problem)
    if not finished:
        return described | ({"state": "failed", "error": error} if error else {})
    metrics = run.metrics()
    return {
        **described, "state": "finished", **{name: metrics.get(name) for name in METRICS},
        "epoch": metrics.get("epoch"), "official": bool(metrics.get("official")), "notes": metrics.get("notes", []),
        **{name: record.get(name) for name in ("seconds", "jobs", "mffpa_ext", "torch")},
    }


def _summary(seeds: list[list[dict[str, Any]]], metric: str) -> dict[str, Any]:
    """mean and std (of the sample, None for one seed) over the seeds, each the mean over its folds or classes."""
    by_seed = {str(group[0]["seed"]): statistics.fmean(run[metric] for run in group) for group in seeds
               if all(run[metric] is not None for run in group)}
    return {**_spread(list(by_seed.values())), "by_seed": by_seed}


def _spread(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values) if values else None,
            "std": statistics.stdev(values) if len(values) > 1 else None}


def _percent(paper: float, measured: dict[str, Any]) -> dict[str, float | None]:
    mean, std = (None if measured[name] is None else 100 * measured[name] for name in ("mean", "std"))
    return {"paper": paper, "mean": mean, "std": std, "difference": None if mean is None else mean - paper}


def _averages(plan: Plan, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of Tables 5 and 6: of each column over all N, seed by seed, where every N is there."""
    averages = []
    for title, paper in plan.table.averages.items():
        columns = [cell[plan.table.metric]["by_seed"] for cell in cells if cell["column"] == title]
        seeds = [seed for seed in columns[0] if all(seed in column for column in columns)]
        measured = _spread([statistics.fmean(column[seed] for column in columns) for seed in seeds])
        averages.append({"column": title, "percent": _percent(paper, measured), "seeds": len(seeds)})
    return averages


def _part_title(plan: Plan, part: Part) -> str:
    title = PROTOCOLS[plan.table.dataset].part_title
    return f"{title} {part.number}" if title else ""
