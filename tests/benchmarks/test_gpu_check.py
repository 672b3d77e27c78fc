"""The whole check, with stages of a few lines in place of its own: order, results, exit codes; and its plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import build, plan
from benchmarks.gpu_check.plan import Setup
from benchmarks.gpu_check.stages import FAILED, PASSED, TIMED_OUT, UNAVAILABLE, Ended, Job, Stage, Verdict
from tests.benchmarks import canned

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_GPU = {"python": "3.12.3", "torch": "2.13.0+cpu", "gpu": None, "no_gpu": "nvidia-smi shows no GPU"}


def stage(name: str, code: str, limit: float = 20.0) -> Stage:
    return Stage(name, limit, lambda setup, limit: Job([sys.executable, "-c", code]))


def machine(facts: dict) -> Stage:
    def judge(setup: Setup, ended: Ended) -> Verdict:
        setup.machine = facts
        return Verdict(PASSED)

    return Stage("environment", 20.0, lambda setup, limit: Job([sys.executable, "-c", "pass"]), judge)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "WORK", tmp_path / "work")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "COMMITTED", tmp_path / "committed")
    monkeypatch.setattr(check, "describe_source", lambda given: {"commit": given or "abc", "source_hash": "feed"})

    def run(*stages: Stage, arguments: tuple[str, ...] = (), facts: dict = canned.MACHINE) -> int:
        monkeypatch.setattr(check, "STAGES", (machine(facts), *stages))
        return check.main(list(arguments))

    return run


def stored(folder: Path) -> dict:
    (path,) = folder.glob("*.json")
    assert (folder / f"{path.stem}.md").read_text().startswith("# ")
    return json.loads(path.read_text())


def test_all_pass(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(stage("build", "pass"), stage("test", "print('hidden')")) == 0
    results = stored(tmp_path / "committed")
    assert list(results["stages"]) == ["environment", "build", "test"] and results["quick"] is False
    assert all(entry["commit"] == "abc" and entry["source_hash"] == "feed" for entry in results["stages"].values())
    printed = capsys.readouterr().out
    assert "3 stages, at most 1.0 minutes" in printed and printed.rstrip().endswith("all passed")
    assert "[2/3] build, at most" in printed and "hidden" not in printed
    assert (tmp_path / "committed" / "nvidia-h100-80gb-hbm3.json").exists()


def test_what_fails_is_recorded_and_the_others_go_on(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    unavailable = Stage("memcheck", 1.0, lambda setup, limit: "Device not supported")
    slow = stage("test", "import time; time.sleep(60)", limit=-37.0)  # with what the others leave, about 3 seconds
    code = run(stage("build", "raise SystemExit('no such header')"), slow, unavailable, stage("end-to-end", "pass"))
    assert code == 1
    outcomes = {name: entry["outcome"] for name, entry in stored(tmp_path / "committed")["stages"].items()}
    assert outcomes == {"environment": PASSED, "build": FAILED, "test": TIMED_OUT, "memcheck": UNAVAILABLE,
                        "end-to-end": PASSED}  # fmt: skip
    printed = capsys.readouterr().out
    assert "| no such header" in printed and "not all passed: build, test" in printed


def test_unavailable_is_no_failure(run, capsys: pytest.CaptureFixture) -> None:
    assert run(Stage("memcheck", 1.0, lambda setup, limit: "Device not supported")) == 0
    assert "all passed, but for what is unavailable here: memcheck" in capsys.readouterr().out


def test_later_stages_may_use_what_earlier_ones_leave(run, tmp_path: Path) -> None:
    run(stage("build", "pass", limit=50.0), stage("test", "pass", limit=10.0))
    limits = [entry["limit"] for entry in stored(tmp_path / "committed")["stages"].values()]
    assert limits[0] <= 20 and 60 < limits[1] <= 70 and 60 < limits[2] <= 80


def test_without_a_gpu_nothing_committed_is_touched(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(stage("build", "pass"), facts=WITHOUT_GPU) == check.NO_GPU
    assert not (tmp_path / "committed").exists()
    assert stored(tmp_path / "work" / "results")["machine"]["gpu"] is None
    assert "no GPU: nvidia-smi shows no GPU. Nothing above ran on one; the dry run passed." in capsys.readouterr().out
    assert run(stage("build", "raise SystemExit(1)"), facts=WITHOUT_GPU) == 1


def test_quick_runs_are_not_for_the_committed_results(run, tmp_path: Path) -> None:
    assert run(stage("build", "pass"), arguments=("--quick",)) == 0
    assert not (tmp_path / "committed").exists() and stored(tmp_path / "work" / "results")["quick"] is True
    assert run(stage("build", "pass"), arguments=("--quick", "--output", str(tmp_path / "mine"))) == 0
    assert stored(tmp_path / "mine")


def test_chosen_stages_keep_the_results_of_the_others(run, tmp_path: Path) -> None:
    both = stage("build", "pass"), stage("test", "pass")
    run(*both, arguments=("--commit", "first"))
    run(*both, arguments=("--commit", "second", "--stages", "test"))
    commits = {name: entry["commit"] for name, entry in stored(tmp_path / "committed")["stages"].items()}
    assert commits == {"build": "first", "environment": "second", "test": "second"}
    other = {**canned.MACHINE, "torch": "2.12.0"}
    run(*both, arguments=("--stages", "test"), facts=other)
    assert list(stored(tmp_path / "committed")["stages"]) == ["environment", "test"], "of another torch"


def test_without_an_environment_nothing_else_runs(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "STAGES", (stage("environment", "raise SystemExit(1)"), stage("build", "pass")))
    assert check.main([]) == 1
    assert not (tmp_path / "committed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "build,tests"], "--stages: expected some of environment, build, test, benchmark, compile"),
        (["--patience", "0"], "--patience: expected a number above 0"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_flags(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_script_passes_its_arguments_on() -> None:
    script = ROOT / "benchmarks" / "gpu_check.sh"
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run([script, "--help"], env=environment, cwd="/", capture_output=True, text=True)
    assert result.returncode == 0 and "--stages" in result.stdout and "under ten minutes" in result.stdout
    assert subprocess.run([script, "--no"], env=environment, capture_output=True).returncode == 2


def test_source_is_described_with_and_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    source = check.describe_source(None)
    assert len(source["source_hash"]) == 16 and source["commit"]
    answers = {"rev-parse": "0123456789ab", "status": ""}
    monkeypatch.setattr(check, "git", lambda command, *rest: answers[command])
    assert check.describe_source("given")["commit"] == "0123456789ab"
    answers["status"] = " M csrc/cuda/launch.h"
    assert check.describe_source(None)["commit"] == "0123456789ab, changed"
    answers.update(dict.fromkeys(answers, ""))
    assert check.describe_source("given")["commit"] == "given" and check.describe_source(None)["commit"] == "unknown"


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_the_whole_is_under_ten_minutes() -> None:
    assert sum(stage.limit for stage in plan.STAGES) <= 575, "seconds; what is left is for ending what is too slow"
    assert [stage.name for stage in plan.STAGES[:3]] == ["environment", "build", "test"]


@pytest.mark.parametrize("gpu", [False, True])
def test_commands_of_the_stages_are_understood(tmp_path: Path, gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own parsers take them; nothing runs."""
    setup = Setup(tmp_path, "feed", machine=canned.MACHINE if gpu else {**WITHOUT_GPU, "packages": {}})
    jobs = {stage.name: stage.job(setup, 60.0) for stage in plan.STAGES}
    if not gpu:
        assert jobs.pop("memcheck") == jobs.pop("racecheck") == "there is no GPU"
    for name, job in jobs.items():
        module, *arguments = job.command[2:]
        assert job.command[1] == "-m" and all(isinstance(word, str) for word in job.command), name
        if name in ("benchmark", "compile", "end-to-end", "memcheck", "racecheck"):
            assert _parses(module, arguments, monkeypatch), (name, arguments)
        assert ("cuda" in arguments) is (gpu and name not in ("environment", "build", "memcheck", "racecheck")) or (
            name == "test"), name  # fmt: skip
        assert job.environment["PYTHONSAFEPATH"] == "1"
        assert ("MFFPA_BACKEND" in job.environment) is gpu
    bare = Setup(tmp_path, "feed", machine={**canned.MACHINE, "packages": {"triton": None}})
    assert plan.compiled(bare, 60.0) == "torch.compile needs triton, which is not installed"


def _parses(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    import argparse
    import importlib

    class Parsed(Exception):
        pass

    plain = argparse.ArgumentParser.parse_args

    def parse_args(parser, given):
        plain(parser, given)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        try:
            importlib.import_module(module).main(arguments)
        except Parsed:
            return True
    return False


def test_a_library_of_other_sources_is_not_used(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "feed")
    assert setup.package_paths() == []
    facts = {"soabi": plan.sysconfig.get_config_var("SOABI"), "source_hash": "feed"}
    (tmp_path / "built.json").write_text(json.dumps(facts))
    assert setup.package_paths() == [str(tmp_path / "package")]
    assert setup.python("x").environment["PYTHONPATH"].split(os.pathsep)[:2] == [str(tmp_path / "package"), str(ROOT)]
    assert Setup(tmp_path, "beef").package_paths() == []
    plan.build(setup, 60.0)
    assert setup.package_paths() == [], "until it is built anew"


def test_what_the_tests_stage_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"passed": 0, "failed": 0, "errors": 0, "skipped": 9}
    monkeypatch.setattr(plan.tests, "read_report", lambda path: counts)
    ended = Ended(0, 1.0, ["9 skipped"])
    without, with_gpu = Setup(tmp_path, "feed", machine=WITHOUT_GPU), Setup(tmp_path, "feed", machine=canned.MACHINE)
    assert plan.read_tests(without, ended).outcome == UNAVAILABLE
    assert plan.read_tests(with_gpu, ended).outcome == FAILED, "on a GPU some must run"
    counts["passed"] = 3
    assert plan.read_tests(with_gpu, ended) == Verdict(PASSED, "3 passed, 9 skipped", counts)
    assert plan.read_tests(with_gpu, Ended(1, 1.0, [])).outcome == FAILED


def test_figures_of_a_benchmark_that_was_cut_off_are_kept(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "feed")
    judge = plan.with_figures("benchmark.json")
    assert judge(setup, Ended(None, 60.0, [])) == Verdict(TIMED_OUT, "stopped after 60 s", None)
    (tmp_path / "benchmark.json").write_text(json.dumps({"groups": [1], "left_out": ["a", "b"]}))
    cut_off = judge(setup, Ended(None, 60.0, []))
    assert cut_off.outcome == TIMED_OUT and cut_off.figures["groups"] == [1]
    assert judge(setup, Ended(0, 60.0, [])).detail == "2 left out for want of time"
    plan.benchmark(setup, 60.0)
    assert not (tmp_path / "benchmark.json").exists(), "the next run does not find the figures of this one"


def test_package_of_links(tmp_path: Path) -> None:
    library = tmp_path / "_C.so"
    library.write_text("first")
    package = tmp_path / "package" / "mffpa_ext"
    for content in ("first", "second"):
        library.write_text(content)
        build.link_package(package, library)
        assert (package / "_C.so").read_text() == content and not (package / "_C.so").is_symlink()
    assert (package / "__init__.py").resolve() == ROOT / "mffpa_ext" / "__init__.py"
    assert (package / "ops" / "backend.py").is_file()
    assert not any(path.name.startswith("_C.cpython") for path in package.iterdir()), "not the checkout's own library"
