"""`python -m benchmarks.gpu_check.table RESULTS.json`: the Markdown table of stored results."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.targets import TARGETS, YARDSTICK, Reading, Results, figures, runs

OPERATOR_CONTENDERS = ("eager", "eager, graph", "torch.compile", "ours", "ours, graph")
SHOWN_KERNELS = 6


def markdown(results: Results) -> str:
    sections = [heading(results), targets(results), end_to_end(results), operators(results), shortfalls(results),
                stages(results)]  # fmt: skip
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def row(*cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def table(titles: tuple[str, ...], rows: list[str]) -> list[str]:
    return [row(*titles), f"|{'---|' * len(titles)}", *rows] if rows else []


def heading(results: Results) -> list[str]:
    machine, stages_of = results["machine"], results["stages"]
    gpu = machine["gpu"]
    name = gpu["name"] if gpu else "no GPU: a dry run on the CPU"
    lines = [f"# {name}", ""]
    commits = sorted({entry["commit"] for entry in stages_of.values()})
    facts = [f"commit {', '.join(commits)}", f"torch {machine.get('torch')}", f"Python {machine['python']}"]
    if gpu:
        smi = machine["nvidia_smi"]
        facts += [f"driver {smi.get('driver_version')}", f"nvcc {machine['nvcc']}",
                  f"{gpu['multiprocessors']} multiprocessors, {gpu['l2_bytes'] / 2**20:.0f} MiB of L2",
                  f"clocks at most {smi.get('clocks.max.sm')} (memory {smi.get('clocks.max.mem')})"]  # fmt: skip
    lines.append("; ".join(facts) + ".")
    rates = figures(results, "benchmark").get("rates", {})
    if rates:
        units = {name: "GFLOP/s" if "GEMM" in name else "GB/s" for name in rates}
        lines.append(f"Measured: {'; '.join(f'{name} {rates[name] / 1e9:,.0f} {units[name]}' for name in rates)}.")
    arithmetic = figures(results, "end-to-end").get("settings")
    if arithmetic:
        lines.append(f"Settings: {json.dumps(arithmetic)}.")
    if results.get("quick"):
        lines.append("A quick run: fewer cases.")
    return lines


def targets(results: Results) -> list[str]:
    if not results["machine"]["gpu"]:
        return []
    rows = []
    for target in TARGETS:
        measured = []
        for reading in target.readings(results):
            note = f" ({reading.note})" if reading.note else ""
            measured.append(f"{reading.what}: {target.shown(reading.value)}{note}")
        cells = "; ".join(measured) or "not measured", target.verdict(results)
        rows.append(row(target.text, target.shown(target.least), *cells))
    note = ("Operators against eager as both are called, end to end against the eager `baseline`; shares of the copy "
            "rate count every input and output once.")  # fmt: skip
    return ["## Targets", "", note, "", *table(("", "at least", "measured", ""), rows)]


def end_to_end(results: Results) -> list[str]:
    lines: list[str] = []
    found = figures(results, "end-to-end").get("runs", [])
    for kind, batch in dict.fromkeys((run["kind"], run["batch"]) for run in found):
        rows = []
        of = runs(results, kind, batch)
        yardstick = next(iter(of.values())).get("seconds")
        for name, run in of.items():
            if "failure" in run:
                rows.append(row(name, run["failure"], *[""] * 5))
                continue
            times = f"{yardstick / run['seconds']:.2f}" if yardstick else ""
            busy = run.get("profile", {}).get("device_us")
            memory = run.get("peak_bytes")
            rows.append(row(name, f"{run['seconds'] * 1e3:.3f} ms", f"{run['images_per_second']:.1f}", times,
                            f"{run['error']:.1e}", f"{busy / run['seconds'] / 1e6:.0%}" if busy else "",
                            f"{memory / 2**30:.2f} GiB" if memory else ""))  # fmt: skip
        what = "logit" if kind == "inference" else "loss"
        titles = ("", "time", "images/s", f"times {YARDSTICK}", f"{what} error", "kernels run", "memory at most")
        lines += ["", f"### {kind}, batch {batch}", "", *table(titles, rows)]
    left_out = figures(results, "end-to-end").get("left_out")
    if left_out:
        lines += ["", f"Left out for want of time: {'; '.join(left_out)}."]
    return ["## End to end", *lines] if lines else []


def operators(results: Results) -> list[str]:
    found = figures(results, "benchmark").get("groups", [])
    compiled = {group["group"]: group for group in figures(results, "compile").get("groups", [])}
    rows = []
    for group in found:
        other = compiled.get(group["group"], {"seconds": {}, "failures": {}})
        seconds = {**group["seconds"], **other["seconds"]}
        failures = {**group["failures"], **other["failures"]}
        names = [name for name in OPERATOR_CONTENDERS if name in seconds or name in failures]
        rest = [name for name in seconds if name not in names]
        for name in (*names, *rest):
            if name not in seconds:
                rows.append(row(group["group"], name, failures[name], "", ""))
                continue
            times = f"{seconds['eager'] / seconds[name]:.2f}" if "eager" in seconds else ""
            of_limit = group["work"] / seconds[name] / group["limit"]
            rate = f"{group['work'] / seconds[name] / 1e9:,.0f} {group['unit']}"
            rows.append(row(group["group"] + (", cold" if group["cold"] else ""), name, f"{seconds[name] * 1e6:.2f} us",
                            times, f"{rate}, {of_limit:.0%}"))  # fmt: skip
    if not rows:
        return []
    lines = ["## Operators", "", *table(("", "", "time", "times eager", "rate, of a copy's"), rows)]
    left_out = figures(results, "benchmark").get("left_out")
    return lines + (["", f"Left out for want of time: {len(left_out)} cases, from {left_out[0]}."] if left_out else [])


def shortfalls(results: Results) -> list[str]:
    """Where the time goes in what does not reach its target."""
    lines: list[str] = []
    for target in TARGETS:
        if target.verdict(results) != "falls short":
            continue
        for reading in target.readings(results):
            if reading.value is not None and reading.value < target.least and reading.profile:
                lines += ["", *kernel_table(target.shown(reading.value), reading)]
    return ["## Where the time goes in what falls short", *lines] if lines else []


def kernel_table(value: str, reading: Reading) -> list[str]:
    profile, seconds = reading.profile or {}, reading.seconds or 0.0
    rows = [row(f"`{kernel['name']}`", f"{kernel['launches']:g}", f"{kernel['us']:.1f} us",
                f"{kernel['us'] / profile['device_us']:.0%}") for kernel in profile["kernels"][:SHOWN_KERNELS]
            ] if profile["device_us"] else []  # fmt: skip
    title = (f"{reading.what}: {value}; {profile['launches']:g} launches, {profile['device_us']:.1f} us in kernels of "
             f"{seconds * 1e6:.1f} us a call")  # fmt: skip
    return [title, "", *table(("kernel", "launches", "time", "share"), rows)]


def stages(results: Results) -> list[str]:
    rows = []
    for name, entry in results["stages"].items():
        detail = entry["detail"]
        rows.append(row(name, entry["outcome"], f"{entry['seconds']:.0f} s", entry["commit"], entry["date"], detail))
    lines = ["## Stages", "", *table(("", "", "time", "commit", "date", ""), rows)]
    for name in ("test", "memcheck", "racecheck"):
        counts = figures(results, name)
        counts = counts.get("tests", counts)
        for failure in counts.get("failures", []):
            lines += ["", f"- {name}: {failure}"]
        for reason, number in counts.get("skip_reasons", {}).items():
            lines += ["", f"- {name}: {number} skipped: {reason}"]
    return lines


def main() -> None:
    path = Path(sys.argv[1])
    path.with_suffix(".md").write_text(markdown(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
