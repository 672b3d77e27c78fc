"""How long a plan would take, from a few timed steps on random images of the right size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mffpa_ext import flags
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.config import resolve as resolve_data
from mffpa_ext.data.facts import FACTS
from mffpa_ext.models import create_model
from mffpa_ext.precision import autocast
from mffpa_ext.reproduction.runs import Run
from mffpa_ext.training.config import TrainConfig
from mffpa_ext.training.config import resolve as resolve_training
from mffpa_ext.training.losses import LossWeights, loss_terms

_TIMED = 3


@dataclass(frozen=True)
class Shape:
    """What the time of a step depends on. batch: images a step, size: H×W."""

    model: str
    attention: str | None
    channels: int
    size: tuple[int, int]
    batch: int
    precision: str
    gradient_stop: bool

    def __str__(self) -> str:
        images = "x".join(map(str, (self.batch, self.channels, *self.size)))
        stop = "" if self.gradient_stop else ", gradient stop off"
        name = f"{self.model} ({self.attention})" if self.attention else self.model
        return f"{name}, {images}, {self.precision}{stop}"

    @classmethod
    def of(cls, run: Run) -> Shape:
        settings = {**run.settings, "data_root": run.settings["data_root"] or "."}
        data = resolve_data(flags.build(DataConfig, settings))
        training = flags.build(TrainConfig, settings)
        training = resolve_training(training, data.dataset, data.num_segmented != 0, run.positives)
        return cls(training.model, settings.get("attention"), FACTS[data.dataset].channels, data.image_size,
                   training.batch_size, training.precision, training.gradient_stop == "on")


@dataclass(frozen=True)
class Times:
    """Seconds of one training step, and of scoring one image."""

    step: float
    image: float


def time_shapes(runs: Sequence[Run], device: torch.device) -> Iterator[tuple[Shape, Times]]:
    """Measures every distinct shape among the runs, one after another."""
    for shape in dict.fromkeys(Shape.of(run) for run in runs):
        yield shape, _time(shape, device)


def total_seconds(runs: Sequence[Run], times: dict[Shape, Times]) -> float:
    """Of what is left of all runs, one after another."""
    seconds = 0.0
    for run in runs:
        shape = times[Shape.of(run)]
        seconds += (run.steps - run.steps_done()) * shape.step + run.scored * shape.image
    return seconds


def _time(shape: Shape, device: torch.device) -> Times:
    # On a CPU a batch takes as long as its images one by one, which need less memory.
    batch = shape.batch if device.type == "cuda" else 1
    model = create_model(shape.model, shape.channels, shape.attention or "ca", shape.gradient_stop)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    images = torch.rand(batch, shape.channels, *shape.size, device=device).contiguous(memory_format=torch.channels_last)
    grid = (batch, 1, shape.size[0] // 8, shape.size[1] // 8)
    truth = {"target": torch.rand(grid, device=device), "weight": torch.ones(grid, device=device),
             "label": torch.ones(batch, device=device), "segmented": torch.ones(batch, dtype=torch.bool, device=device)}

    def step() -> None:
        with autocast(device, shape.precision):
            decision, mask_logits = model(images)
        loss = loss_terms(decision, mask_logits, truth).total(LossWeights(0.5, 0.5))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()  # as the training looks at it

    def forward() -> None:
        with torch.inference_mode(), autocast(device, shape.precision):
            model(images)[0].sum().item()

    step_seconds = _median(step) * shape.batch / batch
    model.eval()
    return Times(step_seconds, _median(forward) / batch)


def _median(run: Callable[[], None]) -> float:
    times = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first warms up
