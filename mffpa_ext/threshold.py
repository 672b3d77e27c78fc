"""`python -m mffpa_ext.threshold`: what each rule makes of the validation images; another threshold for a checkpoint.

Without --rule or --value it only shows; with one of them the checkpoint is written again, with nothing else changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.data.bad_images import POLICIES
from mffpa_ext.errors import UserError
from mffpa_ext.evaluate import load_trained_part
from mffpa_ext.evaluation import OperatingPoint, Scores, ThresholdRule, choose_threshold, confusion, score_dataset
from mffpa_ext.fields import flag
from mffpa_ext.inference import Predictor
from mffpa_ext.precision import PRECISIONS
from mffpa_ext.training.checkpoint import read_checkpoint, restore_model, save_checkpoint
from mffpa_ext.training.config import THRESHOLD_RULES, pick_device


@dataclass(frozen=True)
class ThresholdConfig:
    """Operating threshold."""

    checkpoint: str | None = flag(None, "checkpoint of a run, such as runs/NAME/best.pt (required)")
    rule: str | None = flag(
        None,
        "store the threshold of this rule: f1, the best F1; fpr, at most --fpr false alarms; recall, no defect missed, "
        "with --margin; default: nothing is stored",
        choices=THRESHOLD_RULES,
    )
    fpr: float | None = flag(None, "part of the defect-free images that may be called defective; default: 0.01")
    margin: float | None = flag(None, "how far below the weakest defect the threshold lies, in logits; default: 1")
    value: float | None = flag(None, "store this threshold, 0 to 1, instead of one chosen by a rule; needs no images")
    data_root: str | None = flag(None, "folder of the data set, where it is not the one of the training")
    split_file: str | None = flag(None, "split file, where it is not in the place of the training")
    on_bad_image: str | None = flag(
        None, "images that cannot be used: end with a list, or leave them out; default: the training's",
        choices=POLICIES)
    precision: str | None = flag(None, "arithmetic; default: the training's", choices=tuple(PRECISIONS))
    device: str = flag("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    batch_size: int = flag(8, "images per step")
    cache_memory: float = flag(4.0, "memory for decoded images, in GiB")


def main(arguments: list[str]) -> None:
    parser = flags.make_parser("python -m mffpa_ext.threshold", __doc__)
    flags.add_flags(parser, ThresholdConfig)
    config = flags.build(ThresholdConfig, vars(parser.parse_args(arguments)))
    rules = check(config)
    device = pick_device(config.device)
    state = read_checkpoint(config.checkpoint)
    stored = OperatingPoint.of(state, config.checkpoint)
    if config.value is not None:
        store(config.checkpoint, state, OperatingPoint(config.value, "manual"))
        return
    part = "test" if state["config"].get("validate_on") == "test" else "validation"
    dataset = load_trained_part(state, config, "validation").dataset
    if dataset is None:
        raise UserError(
            f"{config.checkpoint}: this run set no validation images aside, and a threshold is chosen on nothing else: "
            f"train with --val-fraction 0.2, or give one by hand with --value"
        )
    predictor = Predictor(restore_model(state), config.precision or state["config"]["precision"], device)
    scores = score_dataset(predictor, dataset, config.batch_size, part)
    points = {name: choose_threshold(scores.labels, scores.score, rule, part) for name, rule in rules.items()}
    print(f"{part}: {int(scores.labels.sum())} defective, {int((scores.labels == 0).sum())} defect-free images; "
          f"weights of epoch {state['epoch']}")
    print("\n".join(table(points, rules, stored, scores)), flush=True)
    if config.rule is not None:
        store(config.checkpoint, state, points[config.rule])


def check(config: ThresholdConfig) -> dict[str, ThresholdRule]:
    """The rules by name. Raises UserError for flags that are out of range or exclude each other."""
    if config.checkpoint is None:
        raise UserError("--checkpoint: expected a checkpoint such as runs/NAME/best.pt, none was given")
    if config.value is not None and not 0 <= config.value <= 1:
        raise UserError(f"--value: expected a score from 0 to 1, got {config.value}")
    if config.value is not None and config.rule is not None:
        raise UserError("--value and --rule exclude each other: give one of them")
    if config.batch_size < 1:
        raise UserError(f"--batch-size: expected 1 or more, got {config.batch_size}")
    given = {name: value for name in ("fpr", "margin") if (value := getattr(config, name)) is not None}
    for name, rule in (("fpr", "fpr"), ("margin", "recall")):
        if name in given and config.rule not in (None, rule):
            raise UserError(f"--{name} is for --rule {rule}, not for {config.rule}: leave it out")
    return {name: ThresholdRule(name, **given) for name in THRESHOLD_RULES}


def table(points: dict[str, OperatingPoint], rules: dict[str, ThresholdRule], stored: OperatingPoint,
          scores: Scores) -> list[str]:
    """A line for each rule, and for the threshold that the checkpoint holds."""
    rows = [("rule", "threshold", "missed", "false alarms", "")]
    for name, point in points.items():
        rows.append((name, f"{point.threshold:.6g}", point.counts.fn, point.counts.fp, point.note or str(rules[name])))
    if stored.threshold is None:
        rows.append(("stored", "none", "", "", ""))
    else:
        now = confusion(scores.labels, scores.score, stored.threshold)
        how = "given by hand" if stored.rule == "manual" else f"chosen by {stored.rule}"
        rows.append(("stored", f"{stored.threshold:.6g}", now.fn, now.fp, how))
    return [f"  {rule:<8}{threshold:>11}{missed:>9}{alarms:>15}  {note}".rstrip()
            for rule, threshold, missed, alarms, note in rows]


def store(checkpoint: str, state: dict[str, Any], point: OperatingPoint) -> None:
    """Writes the checkpoint again with this threshold, whole or not at all."""
    path = Path(checkpoint).resolve()  # a link stays one
    save_checkpoint(path, state | {"threshold": point.threshold, "operating_point": point.as_dict()})
    print(f"stored in {checkpoint}: defective from score {point.threshold:.6g} on: {point.description}")


if __name__ == "__main__":
    run_command(main)
