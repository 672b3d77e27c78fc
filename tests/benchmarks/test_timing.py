"""How calls are timed: rounds by the wall clock and by events, captured graphs, inputs in turn."""

import time

import pytest
import torch

from benchmarks import timing
from tests.benchmarks.conftest import FakeCuda

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_rounds_are_of_one_call(fake_cuda: FakeCuda, device: torch.device) -> None:
    times = timing.rounds(lambda: time.sleep(3e-3), device, at_least=0.02, fewest=3)
    assert len(times) >= 3 and all(3e-3 <= seconds < 0.1 for seconds in times)


def test_short_calls_share_a_pair_of_events(fake_cuda: FakeCuda) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        time.sleep(2e-4)

    times = timing.rounds(call, GPU, at_least=0.0, fewest=4)
    assert len(times) == 4 and calls >= timing.WARM_UP + 1 + 3 + 4 * 3
    assert all(seconds >= 2e-4 for seconds in times)


def test_graph_is_captured_after_a_warm_up_on_a_side_stream(fake_cuda: FakeCuda) -> None:
    seen: list[tuple[int, bool]] = []
    runs = [lambda i=i: seen.append((i, fake_cuda.capturing)) or i for i in range(2)]
    graph = timing.Graph(runs)
    assert seen[:-2] == [(0, False), (1, False)] * 2, "at least three"
    assert seen[-2:] == [(0, True), (1, True)]
    assert fake_cuda.log == ["wait", "side stream", "wait", "synchronize", "capture"]
    assert graph.calls == 2 and graph.replay() == 1, "the results of the last call"
    assert fake_cuda.log[-1] == "replay" and len(seen) == 6


def test_in_turn() -> None:
    run = timing.in_turn([lambda: "a", lambda: "b"])
    assert [run() for _ in range(3)] == ["a", "b", "a"]


def test_median_and_quartiles() -> None:
    assert timing.median_and_quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert timing.median_and_quartiles([7.0]) == (7.0, 7.0, 7.0)
