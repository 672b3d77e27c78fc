"""`python -m benchmarks.micro`: times the operators with nothing but torch, most telling cases first.

What pytest-benchmark does beside it, for a machine that has only torch and little time: --seconds ends the run between
two cases and says which are left out, and what has been measured is written after every case. Exit code 1 where a
result of ours was wrong, or where one of its calls failed.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, timing
from benchmarks.contenders import BASELINE, COMPILED, OURS, Bench, Case, NoTime, WrongResult
from benchmarks.json_files import write_json
from benchmarks.operators import OPERATORS
from benchmarks.profiles import profile
from mffpa_ext import _extension


def choose_cases(device: torch.device, operators: str, small: bool, quick: bool) -> list[Case]:
    """Forward passes in float32 come first, and first of all one case of each operator and batch size."""
    cases = []
    for operator in OPERATORS:
        if operators and not any(word in operator.name for word in operators.split(",")):
            continue
        shapes = operator.small if small else operator.gpu_shapes if device.type == "cuda" else operator.shapes
        cases += operator.cases(shapes)
    seen: set[tuple[Any, ...]] = set()

    def rank(case: Case) -> int:
        if not is_telling(case):
            return 2
        kind = case.operator, case.shape.batch
        first = kind not in seen
        seen.add(kind)
        return 0 if first else 1

    ranked = [(rank(case), case) for case in cases]
    return [case for wanted in range(2 if quick else 3) for place, case in ranked if place == wanted]


def is_telling(case: Case) -> bool:
    return case.direction == "forward" and case.dtype == "float32"


def measure(bench: Bench, contenders: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The figures of a case, and what must not happen in it: a wrong result, a call of ours that fails."""
    case, faults = bench.case, []
    entry: dict[str, Any] = {
        "group": str(case), "operator": case.operator.name, "shape": str(case.shape), "batch": case.shape.batch,
        "direction": case.direction, "dtype": case.dtype, "cold": case.is_cold, **bench.rates(),
        "seconds": {}, "quartiles": {}, "failures": {}, "profiles": {},
    }  # fmt: skip
    for contender in contenders:
        try:
            times = bench.seconds(contender)
        except NoTime as reason:
            entry["failures"][contender] = str(reason)
            if isinstance(reason, WrongResult) and contender != COMPILED:
                faults.append(f"{case}: {contender}: {reason}")
            continue
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            entry["failures"][contender] = message
            if contender != COMPILED:
                faults.append(f"{case}: {contender}: {message}")
            timing.synchronize(bench.device)  # raises once more where the device is lost
            continue
        entry["seconds"][contender], *entry["quartiles"][contender] = timing.median_and_quartiles(times)
    return entry, faults


def add_profiles(bench: Bench, entry: dict[str, Any]) -> None:
    """After all timing: a profiler may leave every later launch slower."""
    for contender in (BASELINE, OURS):
        if contender in entry["seconds"]:
            entry["profiles"][contender] = profile(bench.checked_call(contender), bench.device)


def lines(entry: dict[str, Any]) -> list[str]:
    baseline = entry["seconds"].get(BASELINE)
    rows = [entry["group"]]
    for contender, seconds in entry["seconds"].items():
        times = f"{baseline / seconds:6.1f}x" if baseline else " " * 7
        rate = entry["work"] / seconds
        share = f"{rate / 1e9:8.1f} {entry['unit']} {rate / entry['limit']:5.0%}"
        rows.append(f"  {contender:14} {seconds * 1e6:11.2f} us  {times}  {share}")
    return rows + [f"  {contender:14} {reason}" for contender, reason in entry["failures"].items()]


def library() -> str:
    built = " ".join(_extension.build_info.get("cuda_archs", []))
    return f"CPU kernels {_extension.cpu_isa()}, CUDA kernels {built or _extension.cuda_missing_reason()}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--operators", default="", help="words in the names of those to time, with commas between")
    parser.add_argument("--contenders", default="plain", choices=("plain", "compile"),
                        help="all but torch.compile, or that alone")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="forward passes in float32 only")
    parser.add_argument("--small", action="store_true", help="tiny tensors, to see that everything runs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this many")
    parser.add_argument("--json", type=Path, help="store the figures in this file, anew after every case")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU")

    found: dict[str, Any] = {"rates": machine.rates(device), "groups": [], "left_out": [], "faults": []}
    print(f"{machine.describe(device)}; threads {torch.get_num_threads()}, {library()}", flush=True)

    def store() -> None:
        if options.json:
            write_json(options.json, found)

    # Of the rest torch.compile takes too long for what it tells.
    quick = options.quick or options.contenders == "compile"
    for case in choose_cases(device, options.operators, options.small, quick):
        if time.monotonic() - started > options.seconds:
            found["left_out"].append(str(case))
            continue
        contenders = [name for name in case.operator.contender_names(device) if (name == COMPILED) == (
            options.contenders == "compile")]  # fmt: skip
        entry, faults = measure(Bench(case, device), contenders)
        found["groups"].append(entry)
        found["faults"] += faults
        print("\n".join(lines(entry)), flush=True)
        store()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if device.type == "cuda":
        found["clocks_after"] = machine.gpu_clocks(device)
        entries = {entry["group"]: entry for entry in found["groups"]}
        for case in choose_cases(device, options.operators, options.small, quick):
            if str(case) in entries and is_telling(case) and time.monotonic() - started <= options.seconds:
                add_profiles(Bench(case, device), entries[str(case)])
                torch.cuda.empty_cache()
    store()
    if found["left_out"]:
        print(f"time was up: {len(found['left_out'])} cases left out, from {found['left_out'][0]!r}")
    if not any(group["seconds"] for group in found["groups"]):
        found["faults"].append("nothing could be timed")
        store()
    for fault in found["faults"]:
        print(f"FAULT {fault}")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
