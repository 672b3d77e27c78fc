"""`python -m benchmarks.end_to_end`: images through the whole network, and training steps, side by side.

The contenders are those of `networks.py`. On the CPU all take turns in one process, so that whatever else the machine
does meets them alike. On a GPU (--device cuda) they follow each other, each as its calls are made and as a captured
graph, timed by events. Figures are medians. Before it is timed, the decision logit (in training: the loss) of each is
compared with the same network's in float64. Exit code 1 where one of ours is wrong or fails.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, timing
from benchmarks.json_files import write_json
from benchmarks.networks import KINDS, NAMES, Contender, Networks, contenders, exact, relative_error
from benchmarks.profiles import profile
from mffpa_ext.models import create_model

GRAPH = ", graph"
GPU_SECONDS, GPU_ROUNDS = 0.3, 5  # at least, of a configuration


def take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + rounds):
        for name, run in calls.items():
            started = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - started)
    return times


class Report:
    """What has been measured so far: printed line by line, and stored after each."""

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {**facts, "runs": [], "left_out": [], "faults": []}

    def add(self, kind: str, batch: int, name: str, times: list[float], **more: Any) -> None:
        seconds, *quartiles = timing.median_and_quartiles(times)
        run = {"kind": kind, "batch": batch, "contender": name, "seconds": seconds, "quartiles": quartiles,
               "images_per_second": batch / seconds, **more}  # fmt: skip
        self.content["runs"].append(run)
        yardstick = next(r for r in self.content["runs"] if (r["kind"], r["batch"]) == (kind, batch))
        times_faster = yardstick.get("seconds", float("nan")) / seconds
        error = f"   {'logit' if kind == 'inference' else 'loss'} error {run['error']:.1e}" if "error" in run else ""
        print(f"  {name:24} {seconds * 1e3:9.3f} ms  {batch / seconds:9.1f} images/s  {times_faster:6.2f} times{error}",
              flush=True)  # fmt: skip
        self.store()

    def fail(self, kind: str, batch: int, name: str, reason: str, is_fault: bool) -> None:
        self.content["runs"].append({"kind": kind, "batch": batch, "contender": name, "failure": reason})
        if is_fault:
            self.content["faults"].append(f"{kind}, batch {batch}: {name}: {reason}")
        print(f"  {name:24} {reason}", flush=True)
        self.store()

    def store(self) -> None:
        if self.path:
            write_json(self.path, self.content)


class Wrong(Exception):
    """Says how wrong a result is."""


def check(contender: Contender, result: torch.Tensor, truth: torch.Tensor) -> float:
    error = relative_error(result, truth)
    if not error <= contender.allowed_error:
        raise Wrong(f"wrong result, so no time: relative error {error:.3g}")
    return error


def on_cpu(kind: str, networks: Networks, images: torch.Tensor, rounds: int, report: Report) -> None:
    calls, errors = {}, {}
    truth = {name: exact(kind, network, images) for name, network in networks.items()}
    for contender in contenders(images.device):
        call = contender.in_setting(KINDS[kind](contender, networks, images))
        try:
            errors[contender.name] = check(contender, call(), truth[contender.network])
            calls[contender.name] = call
        except Wrong as reason:
            report.fail(kind, len(images), contender.name, str(reason), contender.ours)
    for name, times in take_turns(calls, rounds).items():
        report.add(kind, len(images), name, times, error=errors[name])


def on_gpu(kind: str, networks: Networks, images: torch.Tensor, report: Report, end: float) -> None:
    truth: dict[str, torch.Tensor] = {}
    for contender in contenders(images.device):
        if time.monotonic() > end:
            report.content["left_out"].append(f"{kind}, batch {len(images)}: {contender.name}")
            continue
        name = contender.name
        try:
            if contender.network not in truth:
                truth[contender.network] = exact(kind, networks[contender.network], images)
            with contender.setting():
                torch.cuda.reset_peak_memory_stats(images.device)
                call = KINDS[kind](contender, networks, images)
                _measure_on_gpu(kind, contender, name, call, images, truth[contender.network], report)
                name += GRAPH
                torch.cuda.reset_peak_memory_stats(images.device)  # before the capture: a replay allocates nothing
                graph = timing.Graph([call])
                _measure_on_gpu(kind, contender, name, graph.replay, images, truth[contender.network], report)
        except torch.OutOfMemoryError:
            report.fail(kind, len(images), name, "out of memory", is_fault=False)
        except Exception as error:
            message = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
            report.fail(kind, len(images), name, " ".join(message.split())[:300], contender.ours)
            timing.synchronize(images.device)  # raises once more where the device is lost
        call = graph = None  # their memory, before the next one takes its own
        gc.collect()
        torch.cuda.empty_cache()


def add_profiles(kind: str, networks: Networks, images: torch.Tensor, report: Report, end: float) -> None:
    """After all timing: a profiler may leave every later launch slower. A captured graph runs the same kernels."""
    for contender in contenders(images.device):
        runs = [
            run for run in report.content["runs"]
            if (run["kind"], run["batch"]) == (kind, len(images)) and "seconds" in run
            and run["contender"].removesuffix(GRAPH) == contender.name
        ]  # fmt: skip
        if not runs or time.monotonic() > end:
            continue
        with contender.setting():
            found = profile(KINDS[kind](contender, networks, images), images.device)
        for run in runs:
            run["profile"] = found
        report.store()
        gc.collect()
        torch.cuda.empty_cache()


def _measure_on_gpu(
    kind: str, contender: Contender, name: str, run: timing.Call, images: torch.Tensor, truth: torch.Tensor,
    report: Report,
) -> None:  # fmt: skip
    error = check(contender, run(), truth)
    times = timing.rounds(run, images.device, GPU_SECONDS, GPU_ROUNDS)
    peak = torch.cuda.max_memory_allocated(images.device)
    report.add(kind, len(images), name, times, error=error, peak_bytes=peak)


def settings(device: torch.device) -> dict[str, Any]:
    """Of torch's arithmetic, as it is for all contenders; matrix products are set for each."""
    if device.type == "cpu":
        return {}
    torch.backends.cudnn.benchmark = True
    return {
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "float32_matmul_precision": {each.name: each.matmul_precision for each in contenders(device)},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--image-size", default="640x232", help="height x width, multiples of 8 (default 640x232)")
    parser.add_argument("--batch-size", type=int, nargs="+", help="one or several (default: 1, on a GPU 1 and 32)")
    parser.add_argument("--rounds", type=int, default=9, help="timed turns on the CPU; a third of it for training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=tuple(KINDS))
    parser.add_argument("--profile", action="store_true", help="on a GPU, also store which kernels take how long")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="on a GPU, begin nothing after this many")
    parser.add_argument("--json", type=Path, help="also store the figures in this file")
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    height, width = map(int, options.image_size.split("x"))
    networks = {name: create_model(name) for name in NAMES}
    facts = {"threads": options.threads, "image_size": [height, width], "torch": torch.__version__,
             "settings": settings(device)}  # fmt: skip
    report = Report(options.json, facts)
    yardstick = contenders(device)[0].name
    for kind in KINDS if options.only is None else (options.only,):
        for batch in options.batch_size or ((1, 32) if device.type == "cuda" else (1,)):
            images = torch.rand(batch, 3, height, width).to(device)
            where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} threads"
            print(f"{kind}, {batch}x3x{height}x{width}, {where}; times: {yardstick} = 1", flush=True)
            if device.type == "cuda":
                on_gpu(kind, networks, images, report, end)
            else:
                rounds = options.rounds if kind == "inference" else max(3, options.rounds // 3)
                on_cpu(kind, networks, images, rounds, report)
    if device.type == "cuda":
        report.content["clocks_after"] = machine.gpu_clocks(device)
    for kind, batch in dict.fromkeys((run["kind"], run["batch"]) for run in report.content["runs"]):
        if options.profile and device.type == "cuda":
            add_profiles(kind, networks, torch.rand(batch, 3, height, width).to(device), report, end)
    report.store()
    if report.content["left_out"]:
        print(f"time was up, left out: {'; '.join(report.content['left_out'])}")
    for fault in report.content["faults"]:
        print(f"FAULT {fault}")
    return 1 if report.content["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
