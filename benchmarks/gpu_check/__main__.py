"""Checks a GPU in one call: builds the CUDA kernels, tests, benchmarks and sanitizes them, in under ten minutes.

Every stage has a time limit, and one that fails or is not possible here is recorded while the others go on. The results
are stored after every stage, as JSON and as a Markdown table: of a whole run on a GPU in benchmarks/results, of any
other in build/gpu-check/results. It needs no root, and changes no setting of the GPU. Without a GPU everything that
needs none runs on the CPU, at sizes of no interest, to see that it does.

Exit code: 0 all passed (or is unavailable here, and recorded so), 1 a stage failed or ran out of time, 2 a wrong flag,
3 there is no GPU and the dry run passed, 130 interrupted.
"""

import argparse
import datetime
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.plan import ROOT, STAGES, Setup
from benchmarks.gpu_check.stages import FAILED, PASSED, TIMED_OUT, UNAVAILABLE, Stage, run_stage
from benchmarks.gpu_check.table import markdown
from benchmarks.gpu_check.targets import TARGETS
from benchmarks.json_files import read_json, write_json

WORK = ROOT / "build" / "gpu-check"
COMMITTED = ROOT / "benchmarks" / "results"
NO_GPU = 3
FORMAT = 1


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    chosen = [stage for stage in STAGES if stage.name == "environment" or stage.name in options.stages]
    source = describe_source(options.commit)
    setup = Setup(WORK, source["source_hash"], options.quick)
    started, until = time.monotonic(), 0.0
    allowed = sum(stage.limit for stage in chosen) * options.patience
    print(f"{len(chosen)} stages, at most {allowed / 60:.1f} minutes", flush=True)
    results: dict[str, Any] = {}
    path = None
    for index, stage in enumerate(chosen, 1):
        until += stage.limit * options.patience
        limit = started + until - time.monotonic()
        print(f"[{index}/{len(chosen)}] {stage.name}, at most {limit:.0f} s", flush=True)
        entry = run_stage(stage, setup, limit, WORK / "logs" / f"{stage.name}.log", say)
        print("\n".join(outcome_lines(stage, entry)), flush=True)
        if stage.name == "environment":
            if entry["outcome"] != PASSED:
                print("nothing else can run without it")
                return 1
            path = (options.output or default_output(setup)) / f"{slug(setup)}.json"
            results = {"format": FORMAT, "machine": setup.machine, "quick": options.quick,
                       "stages": kept_stages(path, setup.machine, options.quick)}  # fmt: skip
        assert path is not None
        results["stages"].pop(stage.name, None)  # anew, at the end
        results["stages"][stage.name] = {**entry, **source, "date": f"{datetime.date.today()}"}
        store(path, results)
    assert path is not None
    return summary(results, chosen, path, time.monotonic() - started, setup)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_check.sh", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--stages", default=",".join(names), help="which, with commas between: %(default)s; the "
                        "stored results of the others are kept where the machine is the same")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer cases; not for benchmarks/results")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the results are stored")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X", help="multiplies all time limits")
    parser.add_argument("--commit", help="what to record where there is no git repository")
    options = parser.parse_args(arguments)
    options.stages = options.stages.split(",")
    options.output = options.output and options.output.resolve()
    unknown = [name for name in options.stages if name not in names]
    if unknown:
        parser.error(f"--stages: expected some of {', '.join(names)}, got {unknown[0]!r}")
    if not options.patience > 0:
        parser.error(f"--patience: expected a number above 0, got {options.patience}")
    return options


def say(line: str) -> None:
    print(line, flush=True)


def outcome_lines(stage: Stage, entry: dict[str, Any]) -> list[str]:
    lines = [f"    {entry['outcome']} in {entry['seconds']:.0f} s" + f": {entry['detail']}" * bool(entry["detail"])]
    if entry["outcome"] == TIMED_OUT:
        lines.append("    more time for every stage: --patience 3 (what was compiled so far is kept)")
    if entry["outcome"] in (FAILED, TIMED_OUT):
        tail = [] if stage.is_shown else [f"    | {line}" for line in entry.get("log_tail", [])[-20:]]
        lines += [*tail, f"    its whole output: {(WORK / 'logs').relative_to(ROOT)}/{stage.name}.log"]
    return lines


def default_output(setup: Setup) -> Path:
    return COMMITTED if setup.has_gpu and not setup.quick else WORK / "results"


def slug(setup: Setup) -> str:
    name = setup.machine["gpu"]["name"] if setup.has_gpu else "no GPU"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def kept_stages(path: Path, machine: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Of an earlier run on the same machine; each stage bears its own commit and date."""
    earlier = read_json(path) or {}

    def identity(of: dict[str, Any]) -> tuple[Any, ...]:
        smi = of.get("nvidia_smi") or {}
        return of.get("gpu"), of.get("torch"), smi.get("driver_version")

    same = earlier.get("format") == FORMAT and identity(earlier.get("machine", {})) == identity(machine)
    return earlier["stages"] if same and earlier.get("quick") == quick else {}


def describe_source(given: str | None) -> dict[str, str]:
    """The commit, marked where files differ from it, and the fingerprint of the C++ and CUDA sources."""
    spec = importlib.util.spec_from_file_location("_source_hash", ROOT / "mffpa_ext" / "_source_hash.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # importing the package would import torch
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"):
        commit += ", changed"
    return {"commit": commit or given or "unknown", "source_hash": module.source_hash(ROOT)}


def git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def store(path: Path, results: dict[str, Any]) -> None:
    write_json(path, results)
    try:
        table = markdown(results)
    except Exception as error:  # the figures are stored, and the stages go on
        table = f"The table could not be made of {path.name}: {type(error).__name__}: {error}\n"
    path.with_suffix(".md").write_text(table, encoding="utf-8")


def summary(results: dict[str, Any], chosen: list[Stage], path: Path, seconds: float, setup: Setup) -> int:
    entries = {stage.name: results["stages"][stage.name] for stage in chosen}
    print(f"\nafter {seconds / 60:.1f} minutes:")
    for name, entry in entries.items():
        print(f"  {name:12} {entry['outcome']:12} {entry['seconds']:6.1f} s  {entry['detail']}")
    if setup.has_gpu:
        for target in TARGETS:
            values = [target.shown(reading.value) for reading in target.readings(results)]
            print(f"  {target.verdict(results):13} {target.text}: {', '.join(values) or 'not measured'}; at least "
                  f"{target.shown(target.least)}")  # fmt: skip
    print(f"stored in {path} and {path.with_suffix('.md').name}")
    bad = [name for name, entry in entries.items() if entry["outcome"] in (FAILED, TIMED_OUT)]
    if bad:
        print(f"not all passed: {', '.join(bad)}")
        return 1
    if not setup.has_gpu:
        print(f"no GPU: {setup.machine['no_gpu']}. Nothing above ran on one; the dry run passed.")
        return NO_GPU
    unavailable = [name for name, entry in entries.items() if entry["outcome"] == UNAVAILABLE]
    print("all passed" + f", but for what is unavailable here: {', '.join(unavailable)}" * bool(unavailable))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; what was finished is stored", file=sys.stderr)
        sys.exit(130)
