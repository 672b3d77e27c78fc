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
    device = predictor.device

    def ready(index: int) -> torch.Tensor:
        return predictor.prepare(dataset.decode(index)[None])

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def measure(prepare: Callable[[int], Any], run: Callable[[Any], object], scope: str) -> Timing:
        times = []
        for step in range(WARM_UP + images):
            argument = prepare(step % len(dataset))
            wait()
            started = time.perf_counter()
            run(argument)
            wait()
            if step >= WARM_UP:
                times.append(time.perf_counter() - started)
        milliseconds = np.array(times) * 1e3
        return Timing(
            scope=scope,
            images=images,
            fps=images / sum(times),
            mean_ms=float(milliseconds.mean()),
            std_ms=float(milliseconds.std()),
            p50_ms=float(np.percentile(milliseconds, 50)),
            p95_ms=float(np.percentile(milliseconds, 95)),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            precision=predictor.precision,
            threads=torch.get_num_threads(),
        )

    source = "decode" if dataset.from_files else "render"
    return [
        measure(ready, predictor.run, "model"),
        measure(lambda index: index, lambda index: predictor(dataset.decode(index)).score.item(),
                f"{source} + resize + copy + model"),
    ]
