"""`python -m mffpa_ext.predict`: score, decision and heat map of image files, folders, or paths from a pipe.

Exit code: 0 where every image was predicted, 1 where some were not, 2 for wrong flags, 130 when interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mffpa_ext import flags
from mffpa_ext.command import run_command, terminable
from mffpa_ext.errors import UserError
from mffpa_ext.evaluation import OperatingPoint
from mffpa_ext.fields import flag
from mffpa_ext.files import check_folder
from mffpa_ext.inference import Predictor, Preprocessing
from mffpa_ext.inference.inputs import ImageFinder, InputImage, common_folder, read_paths
from mffpa_ext.inference.overlay import Caption
from mffpa_ext.inference.overlay_files import OverlayNames, save_overlay
from mffpa_ext.inference.results import HEADER, ResultsFolder, Row
from mffpa_ext.inference.stream import ImagePrediction, predict_stream, warm_up
from mffpa_ext.precision import PRECISIONS, precision_notes
from mffpa_ext.training.checkpoint import read_checkpoint, restore_model
from mffpa_ext.training.config import pick_device

_TIMES = ("decode_ms: reading and resizing; model_ms: copy to the device and network, of a batch its share; "
          "milliseconds: both; drawing is in none")


@dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    checkpoint: str | None = flag(None, "checkpoint of a run, such as runs/NAME/best.pt (required)")
    output: str | None = flag(
        None, "folder for predictions.csv, predictions.json and overlays; default: nothing is written")
    resume: bool = flag(
        False, "go on with the predictions in --output: images that have one are left out (not for standard input)")
    format: str = flag(
        "text", "a line for each image on standard output", choices=("text", "csv", "jsonl", "none"))
    recursive: bool = flag(False, "look into the folders of folders")
    threshold: float | None = flag(
        None, "score from which on an image counts as defective, 0 to 1; default: the checkpoint's")
    overlays: str = flag("all", "images whose heat map is drawn", choices=("all", "defective", "none"))
    masks: str | None = flag(
        None, "folder of known masks, to be shown beside heat maps: NAME, NAME_label, NAME_mask or NAME_GT; those "
              "beside the images are found without it")
    precision: str | None = flag(None, "arithmetic; default: the training's", choices=tuple(PRECISIONS))
    device: str = flag("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    batch_size: int | None = flag(None, "images per step; default: 8 on a GPU, 1 on a CPU and for standard input")
    decode_threads: int = flag(min(4, os.cpu_count() or 1), "threads that read images ahead")


def main(arguments: list[str]) -> int:
    config, given, separator = parse(arguments)
    device = pick_device(config.device)
    state = read_checkpoint(config.checkpoint)
    preprocessing = Preprocessing.of(state, config.checkpoint)
    point = OperatingPoint.of(state, config.checkpoint)
    if config.threshold is not None:
        point = OperatingPoint(config.threshold, "manual")
    precision = config.precision or state["config"]["precision"]
    predictor = Predictor(restore_model(state), precision, device)
    try:
        warm_up(predictor, preprocessing.channels, preprocessing.image_size)
    except ValueError as error:
        raise UserError(f"{config.checkpoint}: damaged: its network does not take its images: {error}") from None
    heading(config, state, preprocessing, predictor, point)

    results = None
    if config.output is not None:
        results = ResultsFolder(Path(config.output), facts(config, state, preprocessing, predictor, point),
                                config.resume)
    finder = ImageFinder(config.recursive, len(given) > 1, None if config.output is None else Path(config.output))
    piped = "-" in given
    images = find(finder, given, separator) if piped else list(find(finder, given, separator))
    if results is not None and results.done:
        print(f"{len(results.done)} images have predictions in {config.output} already", file=sys.stderr)
        images = [image for image in images if image.given not in results.done]
    if finder.masks_left_out:
        number = finder.masks_left_out
        print(f"left out {number} file{'s' * (number != 1)} named as the mask of another image", file=sys.stderr)
    # Masks of one's own folder are shown as the training took them.
    mask_threshold = state["config"].get("mask_threshold") if state["config"].get("dataset") == "folder" else None
    run = Run(config, preprocessing, point.threshold, results, None if piped else len(images), mask_threshold)
    batch_size = config.batch_size or (8 if device.type == "cuda" and not piped else 1)
    batches = predict_stream(predictor, lambda image: preprocessing.read(image.path), images, batch_size,
                             config.decode_threads, full_batches=not piped)
    complete = False
    try:
        with terminable(), run:
            for batch in batches:
                run.take(batch)
            complete = True
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interrupted(config, run, piped)) from None
    finally:
        batches.close()
        if results is not None:
            results.close(complete)
    print(run.summary(), file=sys.stderr)
    return 1 if run.failed else 0


def parse(arguments: list[str]) -> tuple[PredictConfig, list[str], bytes]:
    """The settings, what is to be predicted, and what parts the paths on standard input."""
    parser = flags.make_parser("python -m mffpa_ext.predict", __doc__)
    parser.add_argument("inputs", nargs="*", metavar="IMAGE|DIR|-",
                        help="image files, folders of them, or - for paths on standard input, one a line")
    parser.add_argument("-0", "--null", action="store_true",
                        help="paths on standard input end with NUL, as find -print0 writes them")
    flags.add_flags(parser, PredictConfig)
    values = vars(parser.parse_args(arguments))
    given, null = values.pop("inputs"), values.pop("null")
    config = flags.build(PredictConfig, values)
    if config.checkpoint is None:
        raise UserError("--checkpoint: expected a checkpoint such as runs/NAME/best.pt, none was given")
    if not given:
        raise UserError("expected images, folders, or - for paths on standard input; none were given")
    if given.count("-") > 1:
        raise UserError("-: standard input can be read once: give it once")
    if "-" in given and sys.stdin is None:
        raise UserError("-: standard input is closed: pipe paths into it")
    if null and "-" not in given:
        raise UserError("--null is for paths on standard input: give - too")
    for name, least in (("batch_size", 1), ("decode_threads", 1)):
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')}: expected {least} or more, got {getattr(config, name)}")
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise UserError(f"--threshold: expected a score from 0 to 1, got {config.threshold}")
    if config.masks is not None and not Path(config.masks).is_dir():
        raise UserError(f"--masks {config.masks}: expected a folder of masks, found none")
    if config.resume and config.output is None:
        raise UserError("--resume: it goes on with the predictions in --output: give that too")
    if config.resume and "-" in given:
        # A line controller writes each part over the last one: a path that has a prediction may be a new image.
        raise UserError("--resume: paths on standard input may be new images under old names, so none can be left out: "
                        "give files or folders, or leave --resume out and name a new folder with --output")
    if config.output is not None:
        check_folder("--output", config.output)
    return config, given, b"\0" if null else b"\n"


def find(finder: ImageFinder, given: list[str], separator: bytes) -> Iterator[InputImage]:
    beside = common_folder(path for path in given if path != "-")
    for path in given:
        if path != "-":
            yield from finder.find(path, beside)
            continue
        for piped in read_paths(sys.stdin.fileno(), separator):
            yield from finder.find(piped)


class Run:
    """Takes predictions: decides, draws, writes, prints, counts. total: None where it is not known beforehand."""

    def __init__(self, config: PredictConfig, preprocessing: Preprocessing, threshold: float | None,
                 results: ResultsFolder | None, total: int | None, mask_threshold: int | None = None) -> None:
        self.config, self.preprocessing, self.threshold, self.results = config, preprocessing, threshold, results
        self.mask_threshold = mask_threshold
        self.counts = {"defective": 0, "defect-free": 0, "unknown": 0, "error": 0}
        self.failed, self.milliseconds = 0, 0.0
        self.names = OverlayNames(() if results is None else results.overlays)
        self._drawing = ThreadPoolExecutor(config.decode_threads, "draw")
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # names need not be text
        if config.format == "csv":
            print(HEADER, end="", flush=True)
        quiet = total is None or total < 2 or not sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="img", dynamic_ncols=True, disable=quiet, leave=False)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._drawing.shutdown(cancel_futures=True)

    def take(self, batch: list[ImagePrediction]) -> None:
        """The overlay is written before the image is reported: whoever reads the report may remove the image."""
        rows = map(self._row, batch)
        for row in [work.result() for work in [self._drawing.submit(self._draw, *pair) for pair in zip(rows, batch)]]:
            if self.results is not None:
                self.results.write(row)
            self.counts[row.decision] += 1
            self.failed += row.error is not None
            self.milliseconds += row.milliseconds or 0.0
            if self.config.format != "none":
                tqdm.write(shown(row, self.config.format), file=sys.stdout, end="")
                sys.stdout.flush()
            self._bar.update()

    @property
    def number(self) -> int:
        return sum(self.counts.values())

    def summary(self) -> str:
        parts = [f"{count} {name}" for name, count in self.counts.items() if count and name != "error"]
        predicted = self.number - self.counts["error"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        times = f"; {self.milliseconds / predicted:.1f} ms an image" if predicted else ""
        where = f"; results: {self.config.output}" if self.config.output is not None else ""
        return f"{self.number} image{'s' * (self.number != 1)}: {', '.join(parts) or 'none'}{times}{where}"

    def _row(self, prediction: ImagePrediction) -> Row:
        path = prediction.image.given
        if prediction.error is not None:
            return Row(path, None, "error", error=prediction.error)
        decision = "unknown"
        if self.threshold is not None:
            decision = "defective" if prediction.score >= self.threshold else "defect-free"
        overlay = None
        if self.results is not None and self.config.overlays in ("all", decision):
            overlay = self.names.choose(prediction.image.name)
        decode, model = prediction.decode_ms, prediction.model_ms
        return Row(path, prediction.score, decision, round(decode + model, 3), round(decode, 3), round(model, 3),
                   prediction.mask_score, overlay)

    def _draw(self, row: Row, prediction: ImagePrediction) -> Row:
        """The row, with what went wrong with its overlay."""
        if row.overlay is None:
            return row
        image = prediction.image
        caption = Caption(image.name, row.score, self.threshold, row.decision)
        masks = None if self.config.masks is None else Path(self.config.masks)
        try:
            problem = save_overlay(self.results.path / row.overlay, image.path, image.name, self.preprocessing,
                                   prediction.mask, caption, masks, self.mask_threshold)
        except UserError as error:
            return replace(row, overlay=None, error=" ".join(str(error).split()))
        return row if problem is None else replace(row, error=" ".join(problem.split()))


def shown(row: Row, format: str) -> str:
    """One line, however the path looks."""
    if format == "csv":
        return row.as_csv()
    if format == "jsonl":
        return json.dumps(row.as_dict()) + "\n"
    if row.score is None:
        return f"       -  error                      {_printable(row.error)}\n"
    problem = f"  ({row.error})" if row.error else ""
    return f"{row.score:.6f}  {row.decision:<11}  {row.milliseconds:8.1f} ms  {_printable(row.path + problem)}\n"


def _printable(text: str) -> str:
    """Bytes of a name that are no text stay as they are; ends of lines and terminal controls are written out."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


def heading(config: PredictConfig, state: dict[str, Any], preprocessing: Preprocessing, predictor: Predictor,
            point: OperatingPoint) -> None:
    height, width = preprocessing.image_size
    lines = [f"{config.checkpoint}: {state['model_facts']['name']}, epoch {state['epoch']}, images "
             f"{preprocessing.channels}x{height}x{width}, {predictor.precision} on {predictor.device}"]
    if point.threshold is None:
        lines.append(f"no decisions: {point.note}. Give --threshold, store one with `mffpa threshold --value`, or "
                     f"train with --val-fraction 0.2")
    else:
        lines.append(f"defective from score {point.threshold:.6g} on: {point.description}")
    if point.threshold is None and config.output is not None and config.overlays == "defective":
        lines.append("note: --overlays defective: nothing is decided, so no heat map is drawn; give --overlays all")
    lines += [f"note: {note}" for note in precision_notes(predictor.precision, predictor.device)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def facts(config: PredictConfig, state: dict[str, Any], preprocessing: Preprocessing, predictor: Predictor,
          point: OperatingPoint) -> dict[str, Any]:
    """What predictions.json says beside the predictions."""
    weights = hashlib.sha256()
    for name, value in state["model"].items():
        weights.update(name.encode() + value.contiguous().numpy().tobytes())
    return {
        "checkpoint": config.checkpoint,
        "model": state["model_facts"]["name"],
        "epoch": state["epoch"],
        "weights": weights.hexdigest(),
        "preprocessing": asdict(preprocessing),
        "precision": predictor.precision,
        "device": str(predictor.device),
        "threshold": point.threshold,
        "operating_point": point.as_dict(),
        "times": _TIMES,
    }


def interrupted(config: PredictConfig, run: Run, piped: bool) -> str:
    text = f"interrupted after {run.number} image{'s' * (run.number != 1)}"
    if config.output is None:
        return text
    output = shlex.quote(config.output)
    text = f"{text}, whose predictions are in {output}; to continue, "
    if piped:
        return text + "pipe the paths that are left, with a new folder as --output"
    return text + "give the same command" + ("" if config.resume else " with --resume")


if __name__ == "__main__":
    run_command(main)
