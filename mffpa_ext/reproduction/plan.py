"""From a table and the user's choices to the trainings that make it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mffpa_ext import flags
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.config import resolve as resolve_data
from mffpa_ext.data.facts import FACTS, STEEL_POSITIVES
from mffpa_ext.errors import UserError
from mffpa_ext.reproduction import cells as grid
from mffpa_ext.reproduction.cells import Cell
from mffpa_ext.reproduction.protocol import PROTOCOLS, Part, Protocol, choose_parts
from mffpa_ext.reproduction.runs import NEUTRAL, THRESHOLD, Run, folder_name, key_of, read_json
from mffpa_ext.reproduction.tables import Table
from mffpa_ext.training.config import TrainConfig
from mffpa_ext.training.config import resolve as resolve_training


@dataclass(frozen=True)
class Choices:
    """What the user chose for a table of trainings.

    overrides: fields of `train`'s configuration that replace the published ones. splits: folder of MixSup's split
    files. cells, folds, classes: text as given, None for all.
    """

    output: Path
    data_root: str | None = None
    splits: Path | None = None
    cells: str | None = None
    folds: str | None = None
    classes: str | None = None
    seeds: int = 1
    overrides: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """A table, and a run for every cell, seed and part of it.

    selected: the cells to run; the others are shown with what is there already, and so are seeds from `seeds` to
    `shown_seeds`, which earlier starts finished. folder: for the results of this table under this protocol.
    deviations: one line for each thing that differs from the published protocol.
    """

    table: Table
    selected: list[Cell]
    parts: tuple[Part, ...]
    seeds: int
    shown_seeds: int
    runs: dict[tuple[Cell, int, int | None], Run]
    folder: Path
    deviations: list[str]

    @property
    def runs_folder(self) -> Path:
        return self.folder.parent / "runs"

    @property
    def cells(self) -> list[Cell]:
        return grid.all_cells(self.table)

    def of(self, cell: Cell) -> Iterator[tuple[int, Part, Run | None]]:
        """(seed, part, run) of a cell; no run for a cell that is not selected and has no split file."""
        for seed in range(self.shown_seeds):
            for part in self.parts:
                yield seed, part, self.runs.get((cell, seed, part.number))

    def wanted(self) -> list[Run]:
        """The runs of the selected cells, each once, seed by seed, so that a first table is there early."""
        return [self.runs[cell, seed, part.number]
                for seed in range(self.seeds) for cell in self.selected for part in self.parts]


def make_plan(table: Table, choices: Choices) -> Plan:
    """Raises UserError for whatever is wrong with the choices and can be seen without the images."""
    protocol = PROTOCOLS[table.dataset]
    selected = grid.select(table, choices.cells)
    parts = choose_parts(table.dataset, {"folds": choices.folds, "classes": choices.classes})
    overrides = dict(choices.overrides or {})
    if choices.splits is not None and overrides.get("resplit"):
        raise UserError("--splits and --resplit exclude each other: give one of them")
    if table.dataset == "steel":
        overrides.setdefault("steel_positives", STEEL_POSITIVES)
        parts = tuple(replace(part, positives=overrides["steel_positives"]) for part in parts)
    splits: dict[Cell, Path | None] = {}
    for cell in grid.all_cells(table):
        try:
            _check_positives(table, cell.n, overrides)
            splits[cell] = _split_file(protocol, choices.splits, cell.n, overrides)
        except UserError:
            if cell in selected:
                raise
    runs: dict[tuple[Cell, int, int | None], Run] = {}
    effective: dict[str, Any] = {}

    def add(seeds: Iterable[int]) -> None:
        for (cell, split), seed, part in itertools.product(splits.items(), seeds, parts):
            runs[cell, seed, part.number], changed = _run(table.dataset, cell, part, seed, split, overrides, choices)
            effective.update(changed)

    add(range(choices.seeds))
    deviations = _deviations(protocol, parts, choices, effective)
    folder = _folder(table, parts, choices, effective, plain=not deviations)
    shown_seeds = max(choices.seeds, _finished_seeds(folder))
    add(range(choices.seeds, shown_seeds))
    return Plan(table, selected, parts, choices.seeds, shown_seeds, runs, folder, deviations)


def _finished_seeds(folder: Path) -> int:
    """Seeds that an earlier start with more of them finished runs of: fewer must not write over their means."""
    earlier = read_json(folder / "results.json") or {}
    try:
        return max((run["seed"] + 1 for cell in earlier["cells"] for run in cell["runs"]
                    if run["state"] == "finished"), default=0)
    except (KeyError, TypeError):  # damaged, or of another version
        return 0


def _run(dataset: str, cell: Cell, part: Part, seed: int, split: Path | None, overrides: dict[str, Any],
         choices: Choices) -> tuple[Run, dict[str, Any]]:
    """The run, and the overrides that change its result."""
    protocol = PROTOCOLS[dataset]
    # A drawn split has as many positives as it happens to have: the N that means all of them is said in words.
    masks = "all" if cell.n == protocol.all_masks and split is None else cell.n
    fixed = {"dataset": dataset, "num_segmented": masks, "model": cell.model, "seed": seed}
    if protocol.part_flag is not None:
        fixed[protocol.part_flag] = part.number
    if cell.attention is not None:
        fixed["attention"] = cell.attention
    places = {"data_root": choices.data_root}
    if split is not None:
        places["split_file"] = str(split)
        overrides = {name: value for name, value in overrides.items() if name != "steel_positives"}  # it has its own
    training, changed = _resolve(fixed, places, overrides, part.positives)
    words = [dataset, f"N={cell.n}", f"{protocol.part_title} {part.number}" if protocol.part_title else "",
             cell.model, cell.attention or "", f"seed {seed}"]
    title = " ".join(filter(None, words))
    determined_by = key_of({**fixed, "recipe": training.recipe, **changed}, split)
    run = Run(
        choices.output / "runs" / folder_name(title, determined_by),
        {**fixed, **places, "recipe": training.recipe, **overrides},
        determined_by,
        title,
        part.positives,
        training.epochs,
        training.epochs * math.ceil(2 * part.positives / training.batch_size),
        training.epochs * protocol.validation_images + part.test_images + 2 * training.timing_images,
    )
    return run, changed


def _resolve(fixed: dict[str, Any], places: dict[str, Any], overrides: dict[str, Any],
             positives: int) -> tuple[TrainConfig, dict[str, Any]]:
    """The whole training configuration of a run, and the overrides that differ from what holds without them."""
    settings = {**fixed, **places, "data_root": places["data_root"] or "."}  # for `resolve`, which reads nothing

    def resolved(settings: dict[str, Any]) -> tuple[DataConfig, TrainConfig]:
        data = resolve_data(flags.build(DataConfig, settings))
        training = flags.build(TrainConfig, settings)
        return data, resolve_training(training, data.dataset, data.num_segmented != 0, positives)

    data, training = resolved({**settings, **overrides})
    published = resolved({**settings, **{name: overrides[name] for name in ("recipe",) if name in overrides}})
    validated = data.validate_on == "test" or data.val_fraction > 0 or FACTS[data.dataset].has_validation
    neutral = NEUTRAL | {"recipe"} | (frozenset() if validated else THRESHOLD)
    changed = {
        field.name: getattr(ours, field.name)
        for ours, theirs in zip((data, training), published, strict=True) for field in fields(ours)
        if field.name in overrides and field.name not in neutral
        and getattr(ours, field.name) != getattr(theirs, field.name)
    }
    return training, changed


def _check_positives(table: Table, n: int, overrides: dict[str, Any]) -> None:
    positives = overrides.get("steel_positives")
    if positives is not None and n > positives:
        fitting = ",".join(str(other) for other in table.n if other <= positives)
        raise UserError(f"--steel-positives {positives}: N={n} of Table {table.number} needs as many: give more, or "
                        f"take the other cells with --cells N={fitting}")


def _split_file(protocol: Protocol, splits: Path | None, n: int, overrides: dict[str, Any]) -> Path | None:
    if splits is None:
        return None
    path = splits / protocol.split.format(n=n, positives=overrides.get("steel_positives"))
    if not path.is_file():
        raise UserError(f"--splits {splits}: expected MixSup's split file {path.relative_to(splits)} below it, "
                        f"found no such file")
    return path


def _deviations(protocol: Protocol, parts: tuple[Part, ...], choices: Choices, effective: dict[str, Any]) -> list[str]:
    lines = []
    recipe = (choices.overrides or {}).get("recipe", "paper")
    if recipe != "paper":
        lines.append(f"recipe {recipe}, not the paper's")
    settings = {name: value for name, value in effective.items() if name not in ("resplit", "steel_positives")}
    if settings:
        lines.append(f"settings {' '.join(flags.as_arguments(settings))}")
    positives = (choices.overrides or {}).get("steel_positives", STEEL_POSITIVES)
    if positives != STEEL_POSITIVES:
        lines.append(f"{positives} defective training images instead of {STEEL_POSITIVES}")
    if len(parts) < len(protocol.parts):
        numbers = ", ".join(str(part.number) for part in parts)
        lines.append(f"{protocol.parts_flag} {numbers} of {len(protocol.parts)}")
    if effective.get("resplit"):
        lines.append("unofficial split: the images that are there, half and half by the seed (--resplit)")
    elif choices.splits is None:
        lines.append("no --splits: what MixSup's split files fix (folds of KSDD, lists of STEEL, which images have "
                     "their mask) is drawn by the seed")
    return lines


def _folder(table: Table, parts: tuple[Part, ...], choices: Choices, effective: dict[str, Any], plain: bool) -> Path:
    """Results under another protocol have a folder of their own: a trial never overwrites a reproduction."""
    if plain:
        return choices.output / f"table-{table.number}"
    given = choices.overrides or {}
    protocol = [effective, given.get("recipe"), given.get("steel_positives"), choices.splits is not None,
                [part.number for part in parts]]
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    return choices.output / f"table-{table.number}-deviating-{digest}"
