"""Micro-benchmarks: `pytest benchmarks --benchmark-only`. Prints the ratios of the medians after the tables of times.

A benchmark takes part when it sets `benchmark.group` and `benchmark.extra_info["contender"]` to "eager" or "ours".
"""

import pytest

BASELINE, CANDIDATE = "eager", "ours"


def by_group(benchmarks: list) -> dict[str, dict[str, object]]:
    """For each group, the benchmark of each contender."""
    groups: dict[str, dict[str, object]] = {}
    for entry in benchmarks:
        contender = entry.extra_info.get("contender")
        if contender and not entry.has_error:
            groups.setdefault(entry.group, {})[contender] = entry
    return groups


def ratio_lines(benchmarks: list) -> list[str]:
    rows = []
    for group, entries in by_group(benchmarks).items():
        if {BASELINE, CANDIDATE} <= entries.keys():
            slow, fast = (entries[name].stats.median for name in (BASELINE, CANDIDATE))
            rows.append((group, f"{slow * 1e3:.3f}", f"{fast * 1e3:.3f}", f"{slow / fast:.1f}x"))
    if not rows:
        return []
    table = [("medians", f"{BASELINE} ms", f"{CANDIDATE} ms", "ratio"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]


@pytest.hookimpl(trylast=True)  # after the tables of pytest-benchmark
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    lines = ratio_lines(session.benchmarks) if session else []
    if lines:
        info = session.benchmarks[0].extra_info
        terminalreporter.section(f"{CANDIDATE} against {BASELINE}: {info['threads']} thread(s), {info['isa']}")
        terminalreporter.write_line("\n".join(lines))
