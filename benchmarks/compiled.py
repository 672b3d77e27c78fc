"""torch.compile (inductor) of a function, timed in a child process: some functions crash it, or never finish.

torch.compile of the textbook outlook attention with stride 2 corrupts the heap on torch 2.13's CPU (pytorch#191837).
The child is this file: it reads a pickled call, and writes the times and results of the compiled function.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIMIT_SECONDS = 120
MEASURED_SECONDS, FEWEST_ROUNDS = 1.0, 5


class ChildFailed(Exception):
    """Says in a few words why there is no time."""


def run_in_child(
    run: Callable, function: Callable, shape: Any, inputs: tuple[Tensor, ...], grad: Tensor
) -> tuple[list[float], tuple[Tensor, ...]]:
    """The seconds of each round of `run(torch.compile(function), shape, inputs, grad)`, and what it returns."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        call, answer = Path(folder, "call"), Path(folder, "answer")
        call.write_bytes(pickle.dumps((torch.get_num_threads(), run, function, shape, inputs, grad)))
        command = [sys.executable, "-m", "benchmarks.compiled", str(call), str(answer)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, timeout=LIMIT_SECONDS, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"not done after {LIMIT_SECONDS} s") from None
        if done.returncode < 0:
            raise ChildFailed(f"crashed with {signal.Signals(-done.returncode).name}")
        if done.returncode > 0:
            raise ChildFailed((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
        return pickle.loads(answer.read_bytes())


def _child(call: Path, answer: Path) -> None:
    threads, run, function, shape, inputs, grad = pickle.loads(call.read_bytes())
    torch.set_num_threads(threads)
    compiled = torch.compile(function)
    results = run(compiled, shape, inputs, grad)  # compiles
    times: list[float] = []
    while len(times) < FEWEST_ROUNDS or sum(times) < MEASURED_SECONDS:
        start = time.perf_counter()
        run(compiled, shape, inputs, grad)
        times.append(time.perf_counter() - start)
    answer.write_bytes(pickle.dumps((times, tuple(result.detach() for result in results))))


# pytest-benchmark has no door for times that were taken elsewhere, but takes any timer: this one is moved by hand.
_now = 0.0


def replay_clock() -> float:
    return _now


def replay(benchmark, times: list[float]) -> None:
    """Gives the child's times to the `benchmark` fixture, whose timer must be `replay_clock`."""
    left = iter(times)

    def advance() -> None:
        global _now
        _now += next(left)

    benchmark.pedantic(advance, rounds=len(times))


if __name__ == "__main__":
    _child(*map(Path, sys.argv[1:]))
