"""Inference time by Eq. 8 of the paper: FPS = 100 / (sum of the times of 100 single images)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.inference import Predictor

WARM_UP = 5


@dataclass(frozen=True)
class Timing:
    """Times of single images, in milliseconds. `fps` is Eq. 8, images per second."""

    scope: str
    images: int
    fps: float
    mean_ms: float
    std_ms: float
    p50_ms: float
    p95_ms: float
    device: str
    precision: str
    threads: int


def time_inference(predictor: Predictor, dataset: DefectDataset, images: int = 100) -> list[Timing]:
    """Times `images` single-image passes, after a warm-up, twice: the model alone, and from the source to the result.

    The data set's images are taken in turn. On a GPU every pass is waited for.
    """

    def ready(index: int) -> torch.Tensor:
        return predictor.prepare(dataset.decode(index % len(dataset))[None])

    def whole(index: int) -> object:
        return predictor(dataset.decode(index % len(dataset))).score.item()

    source = "decode" if dataset.from_files else "render"
    scopes = {
        "model": time_passes(predictor, ready, predictor.run, WARM_UP + images),
        f"{source} + resize + copy + model": time_passes(predictor, int, whole, WARM_UP + images),
    }
    return [summarize(predictor, times[WARM_UP:], scope) for scope, times in scopes.items()]


def time_passes(
    predictor: Predictor, prepare: Callable[[int], Any], run: Callable[[Any], object], count: int
) -> list[float]:
    """Seconds that `run` takes on what `prepare` makes of 0, 1, ... `count` - 1, of which no time is taken."""

    def wait() -> None:
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)

    times = []
    for step in range(count):
        argument = prepare(step)
        wait()
        started = time.perf_counter()
        run(argument)
        wait()
        times.append(time.perf_counter() - started)
    return times


def summarize(predictor: Predictor, times: list[float], scope: str) -> Timing:
    """times: seconds of single images."""
    milliseconds = np.array(times) * 1e3
    return Timing(
        scope=scope,
        images=len(times),
        fps=len(times) / sum(times),
        mean_ms=float(milliseconds.mean()),
        std_ms=float(milliseconds.std()),
        p50_ms=float(np.percentile(milliseconds, 50)),
        p95_ms=float(np.percentile(milliseconds, 95)),
        device=torch.cuda.get_device_name(predictor.device) if predictor.device.type == "cuda" else "cpu",
        precision=predictor.precision,
        threads=torch.get_num_threads(),
    )
