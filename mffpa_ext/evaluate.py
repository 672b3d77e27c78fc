"""`python -m mffpa_ext.evaluate`: metrics and inference time of a checkpoint, rebuilt from the checkpoint alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mffpa_ext import flags
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.loading import load_splits
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import Report, Scores, score_dataset, time_inference
from mffpa_ext.files import write_json
from mffpa_ext.flags import flag
from mffpa_ext.training.checkpoint import read_checkpoint, restore_model
from mffpa_ext.training.config import PRECISIONS, pick_device


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    checkpoint: str | None = flag(None, "checkpoint of a run, such as runs/NAME/best.pt (required)")
    data_root: str | None = flag(None, "folder of the data set, where it is not the one of the training")
    split_file: str | None = flag(None, "split file, where it is not in the place of the training")
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
    device = pick_device(config.device)
    state = read_checkpoint(config.checkpoint)
    report, scores = evaluate(state, config, device)
    if config.output is not None:
        write_files(Path(config.output), report, scores)
    print("\n".join(report.lines()))


def write_files(folder: Path, report: Report, scores: Scores) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scores.write_csv(folder / "predictions.csv")
        write_json(folder / "metrics.json", report.as_dict())
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written to: {error.strerror}") from None


def evaluate(state: dict[str, Any], config: EvaluateConfig, device: torch.device) -> tuple[Report, Scores]:
    """Report and scores of the checkpoint on one part of the data set that it was trained on."""
    trained = state["config"]
    precision = config.precision or trained["precision"]
    splits = load_splits(data_config(trained, config), trained["seed"])
    dataset = splits.test if config.part == "test" else splits.validation
    if dataset is None:
        raise UserError("--part validation: this run had no validation images, see --val-fraction of train")
    model = restore_model(state).to(device, memory_format=torch.channels_last)
    scores = score_dataset(model, dataset, device, precision, config.batch_size, config.part)
    images = config.timing_images
    timings = time_inference(model, dataset, device, precision, images) if images else []
    return Report.make(config.part, scores, state["best"]["threshold"], timings, state["notes"]), scores


def data_config(trained: dict[str, Any], config: EvaluateConfig) -> DataConfig:
    """The training's data settings, with the places that may have moved since."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in trained.items()}
    moved = {name: getattr(config, name) for name in ("data_root", "split_file") if getattr(config, name) is not None}
    return replace(flags.build(DataConfig, settings), **moved, cache_memory=config.cache_memory, workers=0)


if __name__ == "__main__":
    flags.run_command(main)
