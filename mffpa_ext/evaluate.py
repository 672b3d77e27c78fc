"""`python -m mffpa_ext.evaluate`: metrics and inference time of a checkpoint, rebuilt from the checkpoint alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.data.bad_images import POLICIES
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.dataset import DataPart
from mffpa_ext.data.loading import load_part
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import evaluate_checkpoint
from mffpa_ext.files import check_folder
from mffpa_ext.fields import flag
from mffpa_ext.inference import Preprocessing
from mffpa_ext.precision import PRECISIONS
from mffpa_ext.training.checkpoint import read_checkpoint
from mffpa_ext.training.config import pick_device


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    checkpoint: str | None = flag(None, "checkpoint of a run, such as runs/NAME/best.pt (required)")
    data_root: str | None = flag(None, "folder of the data set, where it is not the one of the training")
    split_file: str | None = flag(None, "split file, where it is not in the place of the training")
    on_bad_image: str | None = flag(
        None, "images that cannot be used: end with a list, or leave them out; default: the training's",
        choices=POLICIES)
    part: str = flag("test", "images to evaluate", choices=("test", "validation"))
    precision: str | None = flag(None, "arithmetic; default: the training's", choices=tuple(PRECISIONS))
    device: str = flag("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    batch_size: int = flag(8, "images per step; inference time is always that of single images")
    timing_images: int = flag(100, "images that inference time is measured with, 0 for none")
    cache_memory: float = flag(4.0, "memory for decoded images, in GiB")
    output: str | None = flag(None, "folder for metrics.json and predictions.csv; default: nothing is written")


def main(arguments: list[str]) -> None:
    parser = flags.make_parser("python -m mffpa_ext.evaluate", __doc__)
    flags.add_flags(parser, EvaluateConfig)
    config = flags.build(EvaluateConfig, vars(parser.parse_args(arguments)))
    if config.checkpoint is None:
        raise UserError("--checkpoint: expected a checkpoint such as runs/NAME/best.pt, none was given")
    for name, least in (("batch_size", 1), ("timing_images", 0)):
        if getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: expected {least} or more, got {getattr(config, name)}")
    if config.output is not None:
        check_folder("--output", config.output)
    device = pick_device(config.device)
    state = read_checkpoint(config.checkpoint)
    part = load_trained_part(state, config, config.part)
    if part.dataset is None:
        fraction = {"validation": "--val-fraction", "test": "--test-fraction"}[config.part]
        raise UserError(f"--part {config.part}: this run had no {config.part} images, see {fraction} of train")
    precision = config.precision or state["config"]["precision"]
    report = evaluate_checkpoint(
        state,
        part.dataset,
        config.part,
        part.official,
        device,
        precision,
        config.batch_size,
        config.timing_images,
        part.notes,
    )
    if config.output is not None:
        report.write(Path(config.output))
    print("\n".join(report.lines()))


class Places(Protocol):
    """The settings of a command that reads a training's images again."""

    checkpoint: str | None
    data_root: str | None
    split_file: str | None
    on_bad_image: str | None
    cache_memory: float


def load_trained_part(state: dict[str, Any], places: Places, part: str) -> DataPart:
    """The "test" or "validation" images of a checkpoint's training, prepared as they were then.

    Raises UserError where the data set has changed so that its split gives others, unless a split file is asked for.
    """
    # Whatever the defaults are today.
    trained_on = Preprocessing.of(state, places.checkpoint)
    data = replace(data_config(state["config"], places), image_size=trained_on.image_size)
    # The images of the training, unless another split is asked for.
    parts = state.get("parts") if places.split_file is None else None
    # `parts` name the images themselves. Checkpoints from before `held_out` pass.
    held_out = state.get("held_out") if places.split_file is None and parts is None else None
    loaded = load_part(data, state["config"]["seed"], part, trained_on.channels, parts=parts, held_out=held_out)
    # Training images that were not the published ones make the result unofficial, on whatever test images.
    return replace(loaded, official=loaded.official and state.get("official", True))


def data_config(trained: dict[str, Any], config: Places) -> DataConfig:
    """The training's data settings, with the places that may have moved since."""
    settings = flags.restored(trained)
    moved = {name: getattr(config, name) for name in ("data_root", "split_file", "on_bad_image")
             if getattr(config, name) is not None}
    return replace(flags.build(DataConfig, settings), **moved, cache_memory=config.cache_memory, workers=0)


if __name__ == "__main__":
    run_command(main)
