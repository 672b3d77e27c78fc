"""Times a call: on the CPU by the wall clock, on a GPU by events around many calls, also of a captured graph.

On a GPU a call is timed as it is made: where launching takes longer than computing, the time is that of launching. A
captured graph shows what is left without it. Nothing here changes the GPU's settings.
"""

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP = 3
EVENT_PAIR_SECONDS = 2e-3  # events tick in half microseconds, and the first launch after a pause is slow
MOST_CALLS = 500
CALLS_IN_GRAPH = 10  # of something short: launching a graph takes longer than one small kernel

Call = Callable[[], Any]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(run: Call, device: torch.device, at_least: float = 0.1, fewest: int = 10) -> list[float]:
    """Seconds of a call in each round, after a warm-up, until `at_least` seconds and `fewest` rounds are full."""
    for _ in range(WARM_UP if device.type == "cuda" else 1):
        run()
    clock = _events if device.type == "cuda" else _wall_clock
    calls = 1
    if device.type == "cuda" and clock(run, 1) < EVENT_PAIR_SECONDS:
        calls = min(MOST_CALLS, math.ceil(EVENT_PAIR_SECONDS / max(clock(run, 3), 1e-7)))
    times: list[float] = []
    while len(times) < fewest or sum(times) * calls < at_least:
        times.append(clock(run, calls))
    return times


def _wall_clock(run: Call, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls


def _events(run: Call, calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / calls


def in_turn(runs: Sequence[Call]) -> Call:
    """Calls the next one at each call. With inputs that together outgrow the L2 cache, each finds it cold."""
    turn = itertools.cycle(runs)
    return lambda: next(turn)()


class Graph:
    """Some calls captured as one CUDA graph, after a warm-up on a stream beside the current one.

    `calls` is their number, to divide the time of a replay by; `results` what the last one returned: every replay
    writes it anew.
    """

    def __init__(self, runs: Sequence[Call]) -> None:
        self.calls = len(runs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for run in list(runs) * math.ceil(WARM_UP / len(runs)):
                run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        gc.collect()  # no node of a graph of autograd that another stream made may live on into the capture
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for run in runs:
                self.results = run()

    def replay(self) -> Any:
        self._graph.replay()
        return self.results


def median_and_quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (*times,) * 3
    return middle, low, high
