"""`python -m mffpa_ext.reproduce --table N`: the paper's tables on your machine, each value beside the published one.

Tables 1 to 8 are grids of trainings (data set, number of pixel masks N, network, weights of the pyramid). Every cell
trains and evaluates all of its folds or classes and averages them. Finished runs are never repeated, interrupted ones
go on, one that fails does not stop the others. Tables that share a run share its folder. OUTPUT/table-N/ receives
results.json and table.md after every run; under another protocol than the published one (other settings, splits drawn
by the seed, some of the folds) OUTPUT/table-N-deviating-.../ does. Table 9 measures the four networks, trains nothing.

The settings of `train` are the published ones; any of its flags below replaces them, and the table says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.data.config import OF_ONE_DATASET, DataConfig
from mffpa_ext.data.config import resolve as resolve_data
from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag
from mffpa_ext.files import check_folder
from mffpa_ext.reproduction import costs
from mffpa_ext.reproduction.cells import GRAMMAR
from mffpa_ext.reproduction.estimate import time_shapes, total_seconds
from mffpa_ext.reproduction.locking import output_lock
from mffpa_ext.reproduction.markdown import render
from mffpa_ext.reproduction.plan import Choices, Plan, make_plan
from mffpa_ext.reproduction.progress import Progress, duration
from mffpa_ext.reproduction.results import write_results
from mffpa_ext.reproduction.runner import Runner, threads_per_job
from mffpa_ext.reproduction.runs import Run, State
from mffpa_ext.reproduction.tables import TABLE_9, TABLE_9_SIZE, TABLES
from mffpa_ext.train import check_size
from mffpa_ext.training.config import TrainConfig, pick_device

# Settings of `train` that the table decides, and what chooses them here.
_DECIDED = {
    "dataset": "--table", "fold": "--folds", "dagm_class": "--classes", "num_segmented": "--cells N=...",
    "model": "--cells model=...", "attention": "--cells attention=...", "seed": "--seeds", "split_file": "--splits",
}
_OF_NO_TABLE = {name for name, dataset in OF_ONE_DATASET.items()
                if dataset not in {table.dataset for table in TABLES.values()}}
_OF_TABLE_9 = ("table", "output", "dry_run", "device", "image_size", "precision", "timing_images")
_CHECKPOINT = 45  # MB; one is kept of a finished run


@dataclass(frozen=True)
class ReproduceConfig:
    """Reproduction."""

    table: int | None = flag(None, "table of the paper (required)", choices=tuple(range(1, 10)))
    data_root: str | None = flag(None, "folder of the table's data set as its owner publishes it")
    splits: str | None = flag(
        None, "folder of the split files published with MixSup, with KSDD, DAGM, KSDD2 and STEEL in it; without it "
              "what they fix is drawn by the seed, and the table says so")
    cells: str | None = flag(None, f"cells to run, default all: {GRAMMAR}")
    seeds: int = flag(1, "runs of every fold or class, with seeds 0, 1, ...; more can be added later")
    jobs: int = flag(1, "trainings side by side, which share the CPU threads")
    folds: str | None = flag(None, "KSDD: only these folds, such as 0,2; default: all 3")
    classes: str | None = flag(None, "DAGM: only these classes, such as 1,7; default: all 10")
    output: str = flag("reproduction", "folder for runs and tables")
    device: str = flag("auto", "cpu, cuda, cuda:1, ...; several with commas between: the jobs take turns")
    dry_run: bool = flag(False, "print the plan and, from a few timed steps, an estimate of its time; needs no images")


def main(arguments: list[str]) -> int:
    config, overrides = parse(arguments)
    command = shlex.join(["python", "-m", "mffpa_ext.reproduce", *arguments])
    devices = [pick_device(name.strip()) for name in config.device.split(",")]
    if config.table == 9:
        measure_costs(config, overrides, devices[0], command)
        return 0
    plan = make_plan(TABLES[config.table], choices(config, overrides))
    if config.dry_run:
        print("\n".join(describe(plan, config.jobs)))
        estimate(plan, config.jobs, devices[0])
        return 0
    check(pending(plan), config)
    with output_lock(Path(config.output)):
        return reproduce(plan, config.jobs, [str(device) for device in devices], command)


def parse(arguments: list[str]) -> tuple[ReproduceConfig, dict[str, Any]]:
    """Our own flags, and those of `train` that were given."""
    parser = flags.make_parser("python -m mffpa_ext.reproduce", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    own = {field.name for field in dataclasses.fields(ReproduceConfig)}
    flags.add_flags(parser, ReproduceConfig)
    flags.add_flags(parser, DataConfig, TrainConfig, leave_out={*own, *_DECIDED, *_OF_NO_TABLE})
    for name in _DECIDED:
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    # `reproduce ... -- --epochs 2` reads like the command of another program; it is the same flag.
    given = vars(parser.parse_args([argument for argument in arguments if argument != "--"]))
    for name, instead in _DECIDED.items():
        if name in given:
            raise UserError(f"--{name.replace('_', '-')}: the table decides; use {instead}")
    config = flags.build(ReproduceConfig, given)
    if config.table is None:
        raise UserError("--table: expected the number of a table, 1 to 9, none was given")
    for name in ("seeds", "jobs"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name}: expected 1 or more, got {getattr(config, name)}")
    if config.table == 9:
        foreign = [name for name in given if name not in _OF_TABLE_9]
        if foreign:
            raise UserError(f"--{foreign[0].replace('_', '-')} is for Tables 1 to 8, not for Table 9: leave it out")
    check_folder("--output", config.output)
    return config, {name: value for name, value in given.items() if name not in own}


def choices(config: ReproduceConfig, overrides: dict[str, Any]) -> Choices:
    return Choices(
        output=Path(config.output),
        data_root=config.data_root,
        splits=None if config.splits is None else Path(config.splits),
        cells=config.cells,
        folds=config.folds,
        classes=config.classes,
        seeds=config.seeds,
        overrides=overrides,
    )


def reproduce(plan: Plan, jobs: int, devices: list[str], command: str) -> int:
    """Runs what is not finished, and prints the table. Returns the exit code: 1 where a run failed."""
    print("\n".join(describe(plan, jobs)), flush=True)
    write_results(plan, command)
    runs = pending(plan)
    progress = Progress(runs)
    runner = Runner(jobs, devices, progress, lambda run: write_results(plan, command))
    try:
        runner.run(runs)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {runner.finished} of {len(runs)} runs were finished; to continue: "
                                f"{command}") from None
    finally:
        progress.close()
    print(f"\n{render(write_results(plan, command))}\ntable: {plan.folder / 'table.md'}")
    if runner.failed:
        print(f"{len(runner.failed)} of {len(runs)} runs failed; the same command starts them again")
    return 1 if runner.failed else 0


def check(runs: list[Run], config: ReproduceConfig) -> None:
    """Raises UserError for what would make every run fail in the same way."""
    if runs and (config.data_root is None or not Path(config.data_root).is_dir()):
        raise UserError(f"--data-root: expected the folder of the data set {runs[0].settings['dataset']}, "
                        f"{'none was given' if config.data_root is None else f'found no folder {config.data_root}'}")
    for run in {run.settings["model"]: run for run in runs}.values():
        data = resolve_data(flags.build(DataConfig, run.settings))
        check_size(data, flags.build(TrainConfig, run.settings))


def pending(plan: Plan) -> list[Run]:
    """The runs that are not finished. One whose folder is in the way fails when it is started."""
    def finished(run: Run) -> bool:
        try:
            return run.state() is State.FINISHED
        except UserError:
            return False

    return [run for run in plan.wanted() if not finished(run)]


def describe(plan: Plan, jobs: int) -> list[str]:
    """The plan for people."""
    wanted, left = plan.wanted(), pending(plan)
    begun = [run for run in left if run.epochs_done()]
    epochs = sum(run.epochs - run.epochs_done() for run in left)
    steps = sum(run.steps - run.steps_done() for run in left)
    megabytes = len(left) * _CHECKPOINT
    lines = [
        f"Table {plan.table.number} ({plan.table.title}): {len(plan.selected)} of {len(plan.cells)} cells x "
        f"{_count(len(plan.parts), 'part')} x {_count(plan.seeds, 'seed')} = {_count(len(wanted), 'run')}: "
        f"{len(wanted) - len(left)} finished, {len(begun)} begun, {len(left) - len(begun)} new",
        f"left: {_count(epochs, 'epoch')}, {_count(steps, 'step')}; "
        f"{f'{megabytes} MB' if megabytes < 1000 else f'{megabytes / 1000:.1f} GB'} of checkpoints; {jobs} at a time "
        f"with {_count(threads_per_job(jobs), 'thread')} each; logs and runs: {plan.runs_folder}",
    ]
    return lines + [f"not the published protocol: {line}" for line in plan.deviations]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def estimate(plan: Plan, jobs: int, device: torch.device) -> None:
    """Prints what a step takes here, and the whole plan."""
    left, threads = pending(plan), torch.get_num_threads()
    torch.set_num_threads(threads_per_job(jobs))
    times = {}
    for shape, measured in time_shapes(left, device):
        times[shape] = measured
        print(f"{shape}: {measured.step:.3f} s a step, {measured.image:.3f} s an image scored ({device})", flush=True)
    torch.set_num_threads(threads)
    seconds = total_seconds(left, times)
    apart = "" if jobs == 1 else f" ({duration(seconds)} one by one, and as if {jobs} did not slow each other down)"
    print(f"estimate: {duration(seconds / min(jobs, max(len(left), 1)))}{apart}")


def measure_costs(config: ReproduceConfig, overrides: dict[str, Any], device: torch.device, command: str) -> None:
    training = replace(TrainConfig(), **{name: overrides[name] for name in ("precision", "timing_images")
                                         if name in overrides})
    data = resolve_data(replace(DataConfig(), image_size=overrides.get("image_size", TABLE_9_SIZE)))
    for row in TABLE_9:
        if row.model is not None:
            check_size(data, TrainConfig(model=row.model))
    size, images = data.image_size, training.timing_images
    if images < 1:
        raise UserError(f"--timing-images: expected 1 or more for Table 9, got {images}")
    if config.dry_run:
        print(f"Table 9: 4 networks, {images} images of 3x{size[0]}x{size[1]} each, {training.precision} on {device}")
        return
    folder = Path(config.output) / "table-9"
    with output_lock(Path(config.output)):  # trainings beside it would be measured too
        results = costs.measure(size, images, training.precision, str(device), command)
        costs.write(results, folder)
    print(f"{costs.render(results)}\ntable: {folder / 'table.md'}")


if __name__ == "__main__":
    run_command(main)
