"""`python -m mffpa_ext.train`: trains a network, evaluates it on the test images, leaves a run folder.

Without arguments: a synthetic data set, about two minutes on two CPU cores.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from mffpa_ext import __version__, flags
from mffpa_ext.command import run_command, terminable
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.config import resolve as resolve_data
from mffpa_ext.data.dataset import DataSplits
from mffpa_ext.data.loading import Plan, load_plan, plan_splits
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import ThresholdRule, choose_threshold, compute_metrics, evaluate_checkpoint, score_dataset
from mffpa_ext.inference import Predictor
from mffpa_ext.models import DefectNetwork, create_model
from mffpa_ext.precision import precision_notes
from mffpa_ext.training.checkpoint import read_checkpoint, read_training_state
from mffpa_ext.training.config import TrainConfig, pick_device
from mffpa_ext.training.config import resolve as resolve_training
from mffpa_ext.training.run_folder import RunFolder
from mffpa_ext.training.trainer import Trainer, Validation

# What may differ when a run is continued: where it runs, where the data lie, and what becomes of images
# that were lost since. The training images stay those that the run began with.
RESUMABLE = ("device", "workers", "cache_memory", "data_root", "split_file", "on_bad_image")


def main(arguments: list[str]) -> None:
    data, training, resume = parse(arguments)
    # What can be said without the images comes before minutes of loading them.
    resolve_training(training, data.dataset, masks_used=data.num_segmented != 0)
    device = pick_device(training.device)
    check_size(data, training)
    folder = RunFolder(resume) if resume else RunFolder.choose(training.output, data.dataset, training.model)
    kept = read_training_state(folder.last) if resume else {}
    plan = plan_splits(data, training.seed, kept.get("parts"))
    data = plan.config
    print_found(plan)
    check_size(data, training)  # the size may have been chosen just now
    splits = load_plan(plan)
    positives = splits.train.labels == 1
    masks_used = bool((splits.train.annotated & positives).any())
    training = resolve_training(training, data.dataset, masks_used, int(positives.sum()))
    model = make_model(training, splits)
    notes = [*splits.notes, selection_note(splits)]
    facts = {
        "mffpa_ext": __version__,
        "config": describe_config(data, training),
        "preprocessing": preprocessing(splits),
        "notes": notes,
        "official": splits.official,
        "parts": kept.get("parts") or plan.parts,  # what is lost today may be there again tomorrow
        "held_out": plan.held_out,
    }

    rule = ThresholdRule(training.threshold_rule, training.threshold_fpr, training.threshold_margin)

    def validate(network: DefectNetwork) -> Validation:
        predictor = Predictor(network, training.precision, device)
        scores = score_dataset(predictor, splits.validation, training.eval_batch_size)
        part = "test" if data.validate_on == "test" else "validation"
        point = choose_threshold(scores.labels, scores.score, rule, part)
        if one_kind(splits.validation.labels):
            return Validation(None, None, point.threshold, point.as_dict())
        metrics = compute_metrics(scores.labels, scores.score)
        return Validation(metrics.ap, metrics.auc, point.threshold, point.as_dict())

    trainer = Trainer(
        model, splits.train, training, device, folder, facts, validate if splits.validation else None, data.workers
    )
    if resume:
        trainer.load_state_dict(kept)
    with ending(trainer, folder):
        if not resume:
            folder.create(facts["config"], may_rename=training.output is None)
            folder.write_lists(plan.parts, splits.skipped)
        print_heading(data, training, splits, device, notes + precision_notes(training.precision, device))
        trainer.fit()
        if splits.test is None:
            print(f"no test images, no evaluation: {folder.best} is trained and can predict\nrun folder: {folder.path}")
            return
        report = evaluate_checkpoint(
            read_checkpoint(folder.best),
            splits.test,
            "test",
            splits.official,
            device,
            training.precision,
            training.eval_batch_size,
            training.timing_images,
        )
        report.write(folder.path)
    print("\n".join(report.lines()))
    print(f"run folder: {folder.path}")


def parse(arguments: list[str]) -> tuple[DataConfig, TrainConfig, str | None]:
    """The data set's and the training's settings, and the run folder to continue, if any."""
    parser = flags.make_parser("python -m mffpa_ext.train", __doc__)
    parser.add_argument("--config", metavar="FILE", help="settings in TOML, or JSON such as a run's config.json")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder with its own settings")
    flags.add_flags(parser, DataConfig, TrainConfig)
    given = vars(parser.parse_args(arguments))
    file, resume = given.pop("config"), given.pop("resume")
    if resume is not None:
        if not RunFolder(resume).last.is_file():
            raise UserError(f"--resume {resume}: expected a run folder with last.pt, found none")
        foreign = [f"--{name.replace('_', '-')}" for name in given if name not in RESUMABLE]
        if foreign or file:
            raise UserError(
                f"--resume: a run is continued with its own settings; leave out {', '.join(foreign) or '--config'}"
            )
        settings = flags.restored(read_training_state(RunFolder(resume).last)["config"]) | given
        if settings["dataset"] == "folder" and "split_file" in given:
            raise UserError(f"--resume {resume}: a run on one's own folder keeps its own split: leave out --split-file")
    else:
        settings = (flags.read_config_file(file, DataConfig, TrainConfig) if file else {}) | given
    data, training = flags.build(DataConfig, settings), flags.build(TrainConfig, settings)
    return resolve_data(data), training, resume


def make_model(config: TrainConfig, splits: DataSplits) -> DefectNetwork:
    """A fresh network, its weights drawn from the seed."""
    torch.manual_seed(config.seed)
    return create_model(config.model, splits.channels, config.attention, config.gradient_stop == "on")


def check_size(data: DataConfig, training: TrainConfig) -> None:
    """Raises UserError for images that are too small for the network. A size still open is let through."""
    if data.image_size is None:
        return
    with torch.device("meta"):  # a network without weights
        smallest = create_model(training.model, attention=training.attention).min_size
    height, width = data.image_size
    if min(height, width) < smallest:
        raise UserError(
            f"--image-size {height}x{width}: --model {training.model} needs at least {smallest}x{smallest}"
        )


def describe_config(data: DataConfig, training: TrainConfig) -> dict[str, Any]:
    """The resolved settings as primitives, in one flat table that `--config` reads again, from wherever it is run."""
    described = asdict(data) | asdict(replace(training, output=None))
    for name in ("data_root", "split_file"):
        if described[name] is not None:
            described[name] = os.path.abspath(described[name])
    return {name: list(value) if isinstance(value, tuple) else value for name, value in described.items()}


def preprocessing(splits: DataSplits) -> dict[str, Any]:
    height, width = splits.image_size
    return {"channels": splits.channels, "height": height, "width": width, "scale": 1 / 255,
            "bit_depth": splits.train.bit_depth}


def selection_note(splits: DataSplits) -> str:
    if splits.validation is None:
        return "best.pt is the last epoch: there are no validation images to choose one by"
    if one_kind(splits.validation.labels):
        kind = "defective" if splits.validation.labels.any() else "defect-free"
        return f"best.pt is the last epoch: all validation images are {kind}, and AP compares both kinds"
    return "best.pt is the epoch of the highest validation AP"


def print_found(plan: Plan) -> None:
    """What lies in the folder, before the minutes that reading it may take."""
    for number, line in enumerate(plan.found):
        print(f"{'  ' if number else ''}{line}", flush=True)


def one_kind(labels: np.ndarray) -> bool:
    """Whether all images are defective or all are not: there is no AP then."""
    return bool((labels == labels[0]).all())


def print_heading(
    data: DataConfig, training: TrainConfig, splits: DataSplits, device: torch.device, notes: list[str]
) -> None:
    height, width = splits.image_size
    positives = splits.train.labels == 1
    tested = "" if splits.test is None else (
        f"test {int(splits.test.labels.sum())} + {int((splits.test.labels == 0).sum())}, "
    )
    print(
        f"{data.dataset}{'' if splits.official else ' (unofficial split)'}: train {positives.sum()} defective "
        f"({int((positives & splits.train.annotated).sum())} with masks) + {(~positives).sum()} defect-free, "
        f"{tested}images {splits.channels}x{height}x{width}"
    )
    print(
        f"{training.model}, recipe {training.recipe}: {training.epochs} epochs, "
        f"lr {training.lr} ({training.lr_schedule}), batch {training.batch_size}, "
        f"{training.loss_weights} loss weights, theta {training.theta}, "
        f"gradient stop {training.gradient_stop}, {training.precision} on {device}, seed {training.seed}"
    )
    for note in notes:
        print(f"note: {note}", flush=True)


@contextlib.contextmanager
def ending(trainer: Trainer, folder: RunFolder) -> Iterator[None]:
    """Whatever ends a run early, it can be continued, or has left nothing behind. SIGTERM counts as Ctrl-C."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt:
        if not folder.last.is_file():
            raise KeyboardInterrupt("interrupted before the first checkpoint: nothing was kept") from None
        where = "after the last epoch" if trainer.epoch == trainer.config.epochs else f"in epoch {trainer.epoch + 1}"
        raise KeyboardInterrupt(
            f"interrupted {where}; to continue: python -m mffpa_ext.train --resume {shlex.quote(str(folder.path))}"
        ) from None
    finally:
        folder.discard_unless_started()


if __name__ == "__main__":
    run_command(main)
