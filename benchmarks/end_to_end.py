"""`python -m benchmarks.end_to_end`: one image through the whole network, and one training step, side by side.

The yardstick is what a user of the published code runs today: the network `baseline` (Božič et al. 2021) in eager
float32 PyTorch. Beside it: `mffpa` in the same manner, and ours in float32 and bfloat16. All contenders take turns in
one process, so that whatever else the machine does meets them alike; the figures are medians. The error of the decision
logit is taken against the same network in float64.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.published import as_published, eager
from mffpa_ext import Predictor
from mffpa_ext.models import DefectNetwork, create_model
from mffpa_ext.precision import autocast
from mffpa_ext.training.losses import LossWeights, loss_terms

YARDSTICK = "baseline, eager fp32"
Contenders = dict[str, Callable[[], object]]


def take_turns(contenders: Contenders, rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 + rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def in_eager(run: Callable[[], object]) -> Callable[[], object]:
    def inside() -> object:
        with eager():
            return run()

    return inside


def inference(networks: dict[str, DefectNetwork], images: torch.Tensor) -> Contenders:
    def published(name: str) -> Callable[[], object]:
        model = as_published(networks[name]).eval()

        @torch.inference_mode()
        def run() -> object:
            return model(images)

        return in_eager(run)

    def ours(precision: str) -> Callable[[], object]:
        predictor = Predictor(networks["mffpa"], precision, "cpu")
        prepared = predictor.prepare(images)
        return lambda: predictor.run(prepared)

    return {
        YARDSTICK: published("baseline"),
        "mffpa, eager fp32": published("mffpa"),
        "mffpa, ours fp32": ours("fp32"),
        "mffpa, ours bf16": ours("bf16"),
    }


def training(networks: dict[str, DefectNetwork], images: torch.Tensor) -> Contenders:
    batch, _, height, width = images.shape
    mask = (batch, 1, height // 8, width // 8)
    truth = {"target": torch.rand(mask).round(), "weight": torch.ones(mask),
             "label": torch.ones(batch), "segmented": torch.ones(batch, dtype=torch.bool)}
    cpu = torch.device("cpu")

    def step(model: DefectNetwork, images: torch.Tensor, precision: str = "fp32") -> Callable[[], object]:
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(cpu, precision):
                decision, mask_logits = model(images)
            loss_terms(decision, mask_logits, truth).total(LossWeights(1.0, 0.1)).backward()
            optimizer.step()

        return run

    def ours(precision: str) -> Callable[[], object]:
        model = create_model("mffpa").to(memory_format=torch.channels_last)
        model.load_state_dict(networks["mffpa"].state_dict())
        return step(model.train(), images.contiguous(memory_format=torch.channels_last), precision)

    return {
        YARDSTICK: in_eager(step(as_published(networks["baseline"]).train(), images)),
        "mffpa, eager fp32": in_eager(step(as_published(networks["mffpa"]).train(), images)),
        "mffpa, ours fp32": ours("fp32"),
        "mffpa, ours bf16": ours("bf16"),
    }


def logit_errors(network: DefectNetwork, contenders: Contenders, images: torch.Tensor) -> dict[str, float]:
    """Relative, of the decision logit of the contenders that run `mffpa`; the largest over the batch."""
    with torch.inference_mode(), eager():
        exact = as_published(network).double().eval()(images.double())[0]
    found = {name: run()[0].double() for name, run in contenders.items() if name != YARDSTICK}
    return {name: ((logit - exact).abs() / exact.abs()).max().item() for name, logit in found.items()}


def table(title: str, seconds: dict[str, float], errors: dict[str, float]) -> list[str]:
    lines = [title]
    for name, value in seconds.items():
        error = f"   logit error {errors[name]:.1e}" if name in errors else ""
        lines.append(f"  {name:22} {value * 1e3:9.1f} ms  {seconds[YARDSTICK] / value:6.2f} times{error}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--image-size", default="640x232", help="height x width, multiples of 8 (default 640x232)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="timed turns of inference; a third of it for training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("inference", "training"))
    parser.add_argument("--json", type=Path, help="also store the figures in this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    height, width = map(int, options.image_size.split("x"))
    images = torch.rand(options.batch_size, 3, height, width)
    networks = {name: create_model(name) for name in ("baseline", "mffpa")}
    results = {"threads": options.threads, "shape": list(images.shape), "torch": torch.__version__}
    for kind, make, rounds in (
        ("inference", inference, options.rounds), ("training", training, max(3, options.rounds // 3))
    ):
        if options.only not in (None, kind):
            continue
        contenders = make(networks, images)
        errors = logit_errors(networks["mffpa"], contenders, images) if kind == "inference" else {}
        seconds = take_turns(contenders, rounds)
        results[kind] = {"seconds": seconds, "logit_errors": errors}
        heading = f"{kind}, {options.batch_size}x3x{height}x{width}, {options.threads} threads; times: {YARDSTICK} = 1"
        print("\n".join(table(heading, seconds, errors)), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
