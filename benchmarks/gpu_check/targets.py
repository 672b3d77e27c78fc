"""What the kernels are to reach on a GPU, and what the stored figures say of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]  # what __main__.py stores
YARDSTICK = "baseline, eager"


@dataclass(frozen=True)
class Reading:
    """value: None where it was not measured. profile: of what was timed, where one was stored."""

    what: str
    value: float | None
    note: str = ""
    profile: dict[str, Any] | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Target:
    """Met where every reading is at least `least`. unit: "times" or "share" (of the copy rate)."""

    text: str
    least: float
    unit: str
    readings: Callable[[Results], Iterator[Reading]]

    def shown(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        return f"{value:.0%}" if self.unit == "share" else f"{value:.1f} times"

    def verdict(self, results: Results) -> str:
        values = [reading.value for reading in self.readings(results)]
        if not values or None in values:
            return "not measured"
        return "met" if min(values) >= self.least else "falls short"


def figures(results: Results, stage: str) -> dict[str, Any]:
    return results["stages"].get(stage, {}).get("figures") or {}


def groups(results: Results, operator: str, batch: int, direction: str = "forward") -> list[dict[str, Any]]:
    return [
        group for group in figures(results, "benchmark").get("groups", [])
        if (group["operator"], group["batch"], group["direction"], group["dtype"])
        == (operator, batch, direction, "float32")
    ]  # fmt: skip


def times_eager(operator: str, batch: int, with_shape: str) -> Callable[[Results], Iterator[Reading]]:
    """As both are called; beside it, both as captured graphs, where launching costs next to nothing."""

    def readings(results: Results) -> Iterator[Reading]:
        for group in groups(results, operator, batch):
            if with_shape not in group["shape"]:
                continue
            seconds = group["seconds"]
            as_graphs = ratio(seconds, "eager, graph", "ours, graph")
            mixed = ratio(seconds, "eager", "ours, graph")
            note = ""
            if mixed and as_graphs:
                note = f"both as graphs {as_graphs:.1f}, ours as a graph against eager calls {mixed:.1f}"
            profile = group["profiles"].get("ours")
            yield Reading(group["group"], ratio(seconds, "eager", "ours"), note, profile, seconds.get("ours"))

    return readings


def share(operator: str, batch: int, with_shape: str, moved: float = 1.0) -> Callable[[Results], Iterator[Reading]]:
    """Of the copy rate, by what the kernels move by design, in a captured graph: their own time.

    moved: that, relative to each tensor counted once.
    """

    def readings(results: Results) -> Iterator[Reading]:
        for group in groups(results, operator, batch):
            if with_shape not in group["shape"] or "pooled" in group["shape"]:
                continue
            seconds = group["seconds"].get("ours, graph")
            value = moved * group["work"] / seconds / group["limit"] if seconds else None
            note = f"{value / moved:.0%} counting each tensor once" if value and moved != 1 else ""
            yield Reading(group["group"], value, note, group["profiles"].get("ours"), seconds)

    return readings


def runs(results: Results, kind: str, batch: int) -> dict[str, dict[str, Any]]:
    return {
        run["contender"]: run for run in figures(results, "end-to-end").get("runs", [])
        if (run["kind"], run["batch"]) == (kind, batch)
    }  # fmt: skip


def times_baseline(kind: str, *batches: int) -> Callable[[Results], Iterator[Reading]]:
    """Ours in bf16 as a graph against the eager baseline."""

    def readings(results: Results) -> Iterator[Reading]:
        for batch in batches:
            of = runs(results, kind, batch)
            ours = of.get("mffpa, ours bf16, graph", {})
            seconds = {name: run["seconds"] for name, run in of.items() if "seconds" in run}
            yield Reading(
                f"{kind}, batch {batch}", ratio(seconds, YARDSTICK, "mffpa, ours bf16, graph"), "",
                ours.get("profile"), ours.get("seconds"),
            )  # fmt: skip

    return readings


def ratio(seconds: dict[str, float], slow: str, fast: str) -> float | None:
    return seconds[slow] / seconds[fast] if slow in seconds and fast in seconds else None


TARGETS = (
    Target("outlook attention forward, batch 1", 20, "times", times_eager("outlook attention", 1, "29x80")),
    Target("outlook attention forward, batch 64, of the copy rate", 0.7, "share",
           share("outlook attention", 64, "29x80")),
    Target("feature norm forward, of the copy rate", 0.7, "share", share("feature norm", 32, "640x232", moved=1.5)),
    Target("weight computation of the pyramid, batch 1", 8, "times", times_eager("pyramid attention", 1, "64x40x14")),
    Target("one image, bf16 as a graph", 8, "times", times_baseline("inference", 1)),
    Target("32 images, bf16 as a graph", 4, "times", times_baseline("inference", 32)),
    Target("training step, bf16 as a graph", 3, "times", times_baseline("training", 1, 32)),
)  # fmt: skip
