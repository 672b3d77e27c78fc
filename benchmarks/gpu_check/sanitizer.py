"""`python -m benchmarks.gpu_check.sanitizer memcheck|racecheck FOLDER --json FILE`: the tests under compute-sanitizer.

First it must find a fault that is planted for it (planted_fault.cu). Where it does not, because it is missing or the
machine refuses it, the exit code is 77, the last line says why, and nothing is claimed. Then some cases of each test
marked `cuda` run under it (sampled_tests.py), with only the kernels of this package watched: torch's would take hours.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import tests
from benchmarks.gpu_check.environment import find_tool
from benchmarks.gpu_check.stages import UNAVAILABLE_CODE
from benchmarks.json_files import write_json

TOOLS = ("memcheck", "racecheck")
SOURCE = Path(__file__).with_name("planted_fault.cu")
ERROR_CODE = 9
ONLY_OURS = ["--kernel-name", "kernel_substring=mffpa"]
# torch may ask CUDA what it answers with an error, and then does without. What fails for us is an exception of torch.
NO_API_ERRORS = {"memcheck": ["--report-api-errors", "no"], "racecheck": []}
PLANTED = {"memcheck": "Invalid __global__ write", "racecheck": r"Race reported|Potential \w+ hazard"}
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")
# Compiling is Python's work; 2^31 elements take hours; a stream's test sleeps on the GPU; and a capture may not
# allocate, which every operator does where torch keeps no memory of its own; launches are counted by a profiler, which
# does not work beside the sanitizer.
WITHOUT = "compile,2_to_the_31,stream,graph,launches"
Run = Callable[[list[str], dict[str, str], float], subprocess.CompletedProcess[str]]


def run(command: list[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **environment}, timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip


def sanitized(program: str, tool: str, filters: list[str], command: list[str]) -> list[str]:
    return [program, "--tool", tool, "--error-exitcode", str(ERROR_CODE), *filters, *command]


def reported(output: str) -> int | None:
    """Errors or hazards by the summary at the end; None without one."""
    found = SUMMARY.findall(output)
    return int(next(filter(None, found[-1]))) if found else None


def refusal(output: str) -> str:
    """The first line in which a program says why it did not work, or else its last one."""
    lines = [line.strip("= \t") for line in output.splitlines() if line.strip("= \t")]
    telling = r"not supported|permission|unable|unrecogni|fail|error"
    for line in lines:
        if re.search(telling, line, re.IGNORECASE) and not SUMMARY.search(line):
            return line[:200]
    return lines[-1][:200] if lines else "it printed nothing"


def build_planted_fault(folder: Path, architecture: str) -> Path:
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc was not found, so that no fault could be planted")
    program = folder / "planted_fault"
    folder.mkdir(parents=True, exist_ok=True)
    number = architecture.replace(".", "")
    done = run([nvcc, "-std=c++17", f"-arch=sm_{number}", "-o", str(program), str(SOURCE)], {}, 60)
    if done.returncode:
        raise RuntimeError(f"nvcc cannot compile {SOURCE.name}: {refusal(done.stdout)}")
    return program


def working_filters(program: str, tool: str, planted: Path, run: Run = run) -> tuple[list[str] | None, str]:
    """The options under which the planted fault is found, those that watch only our kernels if they work; or None, and
    what the sanitizer said instead.

    Its count alone proves nothing: that it cannot watch a device is counted as an error, too.
    """
    why = ""
    for filters in ([*NO_API_ERRORS[tool], *ONLY_OURS], ONLY_OURS, []):
        try:
            done = run(sanitized(program, tool, filters, [str(planted), tool]), {}, 60)
        except subprocess.TimeoutExpired:
            why = why or "it did not end on a program of one kernel"
            continue
        if reported(done.stdout) and re.search(PLANTED[tool], done.stdout):
            return filters, ""
        why = why or refusal(done.stdout)
    return None, why


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check.sanitizer", description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--architecture", default="9.0")
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds

    program = find_tool("compute-sanitizer")
    if program is None:
        return unavailable("compute-sanitizer was not found; it comes with the CUDA toolkit")
    try:
        planted = build_planted_fault(options.folder, options.architecture)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return unavailable(str(error))
    filters, why = working_filters(program, options.tool, planted)
    if filters is None:
        return unavailable(f"compute-sanitizer does not find a planted fault here: {why}")
    print(f"the planted fault was found, watching {'our kernels' if filters else 'all kernels'}", flush=True)

    report = options.folder / f"{options.tool}.xml"
    report.unlink(missing_ok=True)
    left = max(10.0, end - time.monotonic())
    environment = {
        "MFFPA_SAMPLE_CASES": str(options.cases), "MFFPA_SAMPLE_WITHOUT": WITHOUT,
        "MFFPA_SAMPLE_SECONDS": str(left - min(8.0, left / 3)),
    }  # fmt: skip
    if options.tool == "memcheck":
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # else one access reaches from tensor to tensor unseen
    command = tests.command(report, "-p", "benchmarks.gpu_check.sampled_tests")
    output, code = stream(sanitized(program, options.tool, filters, command), environment)
    counts, found = tests.read_report(report), reported(output)
    figures: dict[str, Any] = {"tool": options.tool, "watched": "our kernels" if filters else "all kernels",
                               "reported": found, "tests": counts}  # fmt: skip
    write_json(options.json, figures)
    print(f"{options.tool}: {found} reported; tests: {tests.describe(counts) if counts else 'no report'}")
    clean = code == 0 and found == 0 and counts.get("passed", 0) > 0
    return 0 if clean else 1


def stream(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """Prints the child's output as it comes; the stage's limit is kept by who started this."""
    child = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", cwd=tests.ROOT,
    )  # fmt: skip
    lines = []
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    return "".join(lines), child.wait()


def unavailable(why: str) -> int:
    print(why)
    return UNAVAILABLE_CODE


if __name__ == "__main__":
    sys.exit(main())
