"""Micro-benchmarks: `pytest benchmarks --benchmark-only`; `-k "not compile"` leaves out torch.compile, which is slow.

`--device cuda` runs them on a GPU, where calls are timed by events and captured graphs are contenders as well. After
pytest-benchmark's tables of times comes a summary: for every group and contender the median, how many times faster than
eager that is, the achieved rate, and its share of what this machine reaches at a copy or a matrix product.
`--benchmark-json FILE` stores the same. A fair figure needs an idle machine: look at the quartiles in the tables.
"""

import pytest
import torch

from benchmarks import compiled, machine
from benchmarks.contenders import BASELINE, COMPILED
from benchmarks.operators import OPERATORS

# Why a contender has no time: {group: {contender: reason}}, for the table at the end.
failures: dict[str, dict[str, str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the micro-benchmarks run")


@pytest.fixture
def device(pytestconfig: pytest.Config) -> torch.device:
    device = torch.device(pytestconfig.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda: there is no GPU")
    return device


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device = torch.device(metafunc.config.getoption("--device"))
    metafunc.parametrize(("case", "contender"), list(pairs(device)))


def pairs(device: torch.device):
    """Each case with each of its contenders. Times that are not pytest-benchmark's own need the clock moved by hand."""
    clock = pytest.mark.benchmark(timer=compiled.replay_clock)
    for operator in OPERATORS:
        for case in operator.cases(operator.gpu_shapes if device.type == "cuda" else operator.shapes):
            for contender in operator.contender_names(device):
                marks = clock if device.type == "cuda" or contender == COMPILED else ()
                yield pytest.param(case, contender, marks=marks, id=f"{case}-{contender}")


def by_group(benchmarks: list) -> dict[str, dict[str, object]]:
    """For each group, the benchmark of each contender."""
    groups: dict[str, dict[str, object]] = {}
    for entry in benchmarks:
        contender = entry.extra_info.get("contender")
        if contender and not entry.has_error:
            groups.setdefault(entry.group, {})[contender] = entry
    return groups


def figures(entry, entries: dict) -> dict[str, float]:
    """What is derived from the medians: times faster than the group's eager, achieved rate, share of the machine's."""
    seconds, info = entry.stats.median, entry.extra_info
    derived = {"rate": info["work"] / seconds, "share": info["work"] / seconds / info["limit"]}
    if BASELINE in entries:
        derived["times_eager"] = entries[BASELINE].stats.median / seconds
    return derived


def summary_lines(benchmarks: list) -> list[str]:
    groups = by_group(benchmarks)
    lines = []
    for group in dict.fromkeys([*groups, *failures]):
        lines.append(group)
        entries = groups.get(group, {})
        for contender, entry in entries.items():
            got = figures(entry, entries)
            times = f"{got['times_eager']:6.1f}x" if "times_eager" in got else " " * 7
            rate = f"{got['rate'] / 1e9:8.1f} {entry.extra_info['unit']:7}  {got['share']:5.0%}"
            lines.append(f"  {contender:22} {entry.stats.median * 1e3:10.3f} ms  {times}  {rate}")
        lines += [f"  {contender:22} {reason}" for contender, reason in failures.get(group, {}).items()]
    return lines


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict) -> None:
    groups = by_group(benchmarks)
    stored = {entry["fullname"]: entry for entry in output_json["benchmarks"]}
    for entries in groups.values():
        for entry in entries.values():
            stored[entry.fullname]["extra_info"].update(figures(entry, entries))
    output_json["failures"] = failures
    output_json["machine_info"]["rates"] = machine.describe(torch.device(config.getoption("--device")))


@pytest.hookimpl(trylast=True)  # after the tables of pytest-benchmark
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    lines = summary_lines(session.benchmarks) if session else []
    if lines and session.benchmarks:
        info = session.benchmarks[0].extra_info
        terminalreporter.section(f"median, times faster than {BASELINE}, rate and share of this machine's")
        rates = machine.describe(torch.device(config.getoption("--device")))
        terminalreporter.write_line(f"{info['threads']} thread(s), {info['isa']}; {rates}")
        terminalreporter.write_line("\n".join(lines))
