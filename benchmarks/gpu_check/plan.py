"""The stages of the check, as data: how each is called, how long it may take, and how its result is read."""

import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import tests
from benchmarks.gpu_check.stages import FAILED, PASSED, UNAVAILABLE, Ended, Job, Stage, Verdict, by_exit_code
from benchmarks.json_files import read_json

ROOT = tests.ROOT
FOR_THE_LAST = 25.0  # seconds kept for importing torch, and for what is under way when the time is up


@dataclass
class Setup:
    """What the stages know of each other.

    Args:
        work: folder for whatever is made on the way.
        source_hash: of the C++ and CUDA sources.
        quick: fewer cases.
        machine: what the stage `environment` found.
    """

    work: Path
    source_hash: str
    quick: bool = False
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def has_gpu(self) -> bool:
        return bool(self.machine.get("gpu"))

    @property
    def architecture(self) -> str:
        return self.machine["gpu"]["capability"] if self.has_gpu else ""

    @property
    def device(self) -> str:
        return "cuda" if self.has_gpu else "cpu"

    def file(self, name: str) -> Path:
        return self.work / name

    def package_paths(self) -> list[str]:
        """The package with the library that was built for this check, where it is of these sources; else the loader
        finds the checkout's own."""
        built = read_json(self.file("built.json")) or {}
        wanted = {"source_hash": self.source_hash, "soabi": sysconfig.get_config_var("SOABI")}
        return [str(self.work / "package")] if wanted.items() <= built.items() else []

    def python(self, module: str, *arguments: object) -> Job:
        """On a GPU whatever has no kernel is an error, and not slow PyTorch code under our name; so is a library of
        other sources."""
        paths = [*self.package_paths(), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        if self.has_gpu:
            environment |= {"MFFPA_BACKEND": "compiled", "PYTHONWARNINGS": "error:mffpa_ext:RuntimeWarning"}
        return Job([sys.executable, "-m", module, *map(str, arguments)], environment)


def with_figures(name: str) -> Callable[[Setup, Ended], Verdict]:
    """By the exit code; the figures are what the child has written by then, however it ended."""

    def judge(setup: Setup, ended: Ended) -> Verdict:
        figures = read_json(setup.file(name))
        verdict = by_exit_code(setup, ended, figures)
        left_out = (figures or {}).get("left_out")
        if verdict.outcome == PASSED and left_out:
            return Verdict(PASSED, f"{len(left_out)} left out for want of time", figures)
        return verdict

    return judge


def fresh(path: Path) -> Path:
    """Without the figures of an earlier run, which must not be taken for those of one that failed."""
    path.unlink(missing_ok=True)
    return path


# ---- what the stages run ---------------------------------------------------------------------------------------------


def environment(setup: Setup, limit: float) -> Job:
    return setup.python("benchmarks.gpu_check.environment", fresh(setup.file("environment.json")))


def read_environment(setup: Setup, ended: Ended) -> Verdict:
    setup.machine = read_json(setup.file("environment.json")) or {}
    return by_exit_code(setup, ended)


def build(setup: Setup, limit: float) -> Job:
    fresh(setup.file("built.json"))
    return setup.python("benchmarks.gpu_check.build", setup.work, setup.architecture)


def read_build(setup: Setup, ended: Ended) -> Verdict:
    facts = read_json(setup.file("built.json"))
    verdict = by_exit_code(setup, ended, facts)
    if verdict.outcome == PASSED:
        return Verdict(PASSED, f"for sm_{facts['cuda_archs'][0].replace('.', '')}, nvcc {facts['cuda_version']}", facts)
    return verdict


def test(setup: Setup, limit: float) -> Job:
    """All cases, one of every test first; those that there is no time for are skipped, and say so."""
    environment = setup.python("pytest").environment
    environment |= {"MFFPA_SAMPLE_CASES": "1000000", "MFFPA_SAMPLE_SECONDS": str(limit - FOR_THE_LAST)}
    plugin = ("-p", "benchmarks.gpu_check.sampled_tests", "--durations=15")
    return Job(tests.command(fresh(setup.file("tests.xml")), *plugin), environment)


def read_tests(setup: Setup, ended: Ended) -> Verdict:
    counts = tests.read_report(setup.file("tests.xml"))
    verdict = by_exit_code(setup, ended, counts)
    if counts:
        verdict = Verdict(verdict.outcome, tests.describe(counts), counts)
    left_out = counts.get("skip_reasons", {}).get("time is up", 0)
    if left_out:
        verdict = Verdict(verdict.outcome, f"{verdict.detail} ({left_out} for want of time)", counts)
    if verdict.outcome == PASSED and not counts.get("passed"):
        none_ran = (FAILED, "no test ran") if setup.has_gpu else (UNAVAILABLE, "there is no GPU")
        return Verdict(none_ran[0], f"{none_ran[1]}: {verdict.detail}", counts)
    return verdict


def benchmark(setup: Setup, limit: float) -> Job:
    return micro(setup, limit, "benchmark", "plain", "--quick" if setup.quick or not setup.has_gpu else "")


def compiled(setup: Setup, limit: float) -> Job | str:
    if setup.has_gpu and setup.machine["packages"].get("triton") is None:
        return "torch.compile needs triton, which is not installed"
    # On the CPU compiling all takes half an hour.
    return micro(setup, limit, "compile", "compile", "" if setup.has_gpu else "--operators=means")


def micro(setup: Setup, limit: float, name: str, contenders: str, *more: str) -> Job:
    options = ["--device", setup.device, "--contenders", contenders, "--seconds", limit - FOR_THE_LAST,
               *filter(None, more)]  # fmt: skip
    if not setup.has_gpu:
        options.append("--small")
    return setup.python("benchmarks.micro", *options, "--json", fresh(setup.file(f"{name}.json")))


def end_to_end(setup: Setup, limit: float) -> Job:
    options: list[object] = ["--device", setup.device, "--seconds", limit - FOR_THE_LAST, "--profile"]
    if not setup.has_gpu:
        options += ["--image-size", "128x64", "--batch-size", 1, 2, "--rounds", 3]
    elif setup.quick:
        options += ["--batch-size", 1]
    return setup.python("benchmarks.end_to_end", *options, "--json", fresh(setup.file("end-to-end.json")))


def sanitizer(tool: str) -> Callable[[Setup, float], Job | str]:
    def job(setup: Setup, limit: float) -> Job | str:
        if not setup.has_gpu:
            return "there is no GPU"
        options = ["--architecture", setup.architecture, "--cases", 3 if setup.quick else 8, "--seconds", limit - 5]
        path = fresh(setup.file(f"{tool}.json"))
        return setup.python("benchmarks.gpu_check.sanitizer", tool, setup.work, *options, "--json", path)

    return job


# Altogether under ten minutes. What a stage leaves of its time is the next one's: the first import of torch may be
# slow, or the build. The sanitizers come last, as nobody knows how slow they are.
STAGES = (
    Stage("environment", 130, environment, read_environment, is_shown=True),
    Stage("build", 30, build, read_build),
    Stage("test", 110, test, read_tests),
    Stage("benchmark", 85, benchmark, with_figures("benchmark.json"), is_shown=True),
    Stage("compile", 45, compiled, with_figures("compile.json"), is_shown=True),
    Stage("end-to-end", 90, end_to_end, with_figures("end-to-end.json"), is_shown=True),
    Stage("memcheck", 45, sanitizer("memcheck"), with_figures("memcheck.json")),
    Stage("racecheck", 35, sanitizer("racecheck"), with_figures("racecheck.json")),
)
