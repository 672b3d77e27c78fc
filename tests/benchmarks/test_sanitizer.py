"""compute-sanitizer as a stage: what counts as working, as a refusal and as clean, on programs that play its part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import sanitizer, tests
from benchmarks.gpu_check.stages import UNAVAILABLE_CODE
from tests.cuda.conftest import toolkit as toolkit

ROOT = Path(__file__).resolve().parents[2]
FOUND = {
    "memcheck": "========= Invalid __global__ write of size 4 bytes\n========= ERROR SUMMARY: 1 error\n",
    "racecheck": "========= Error: Race reported between Write access\n"
    "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n",
}
CLEAN = {
    "memcheck": "========= ERROR SUMMARY: 0 errors\n",
    "racecheck": "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
}
# As seen where a virtual machine refuses it: an error is counted, but it is not the one that was planted.
REFUSED = (
    "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer to the \"Supported Devices\"\n"
    "========= Program hit error 999 on CUDA API call to cudaMalloc.\n========= ERROR SUMMARY: 1 error\n"
)


def answering(output: str, code: int = 9, needs: tuple[str, ...] = ()):
    """A `run` that prints this, unless an option is among the command's that it does not know."""

    def run(command: list[str], environment: dict, seconds: float) -> subprocess.CompletedProcess:
        if any(word in command for word in needs):
            return subprocess.CompletedProcess(command, 1, "unrecognised option '--kernel-name'\n")
        return subprocess.CompletedProcess(command, code, output)

    return run


@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_a_sanitizer_works_if_it_finds_the_planted_fault(tool: str) -> None:
    def filters(run) -> tuple[list[str] | None, str]:
        return sanitizer.working_filters("sanitizer", tool, Path("planted"), run)

    assert filters(answering(FOUND[tool])) == ([*sanitizer.NO_API_ERRORS[tool], *sanitizer.ONLY_OURS], "")
    assert filters(answering(FOUND[tool], needs=("--report-api-errors",)))[0][-2:] == sanitizer.ONLY_OURS
    assert filters(answering(FOUND[tool], needs=("--kernel-name",))) == ([], "")
    none, why = filters(answering(CLEAN[tool], code=0))
    assert none is None and "SUMMARY: 0" in why
    none, why = filters(answering(REFUSED))
    assert none is None and why.startswith("Error: Device not supported")
    none, why = filters(answering("", code=1))
    assert none is None and why == "it printed nothing"

    def hangs(command: list[str], environment: dict, seconds: float) -> None:
        raise subprocess.TimeoutExpired(command, seconds)

    assert filters(hangs) == (None, "it did not end on a program of one kernel")


@pytest.mark.parametrize(
    ("output", "number"),
    [(FOUND["memcheck"], 1), (FOUND["racecheck"], 1), (CLEAN["memcheck"], 0), (CLEAN["racecheck"], 0), ("", None),
     ("========= ERROR SUMMARY: 12 errors\n", 12)],
)  # fmt: skip
def test_reported(output: str, number: int | None) -> None:
    assert sanitizer.reported(output) == number


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on PATH, with an nvcc that compiles nothing."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    write_program(folder / "nvcc", 'while [ $# -gt 1 ]; do [ "$1" = -o ] && touch "$2"; shift; done')
    return folder


def write_program(path: Path, code: str) -> None:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def run_stage(tmp_path: Path, *more: str, tool: str = "memcheck") -> tuple[int, dict]:
    path = tmp_path / "figures.json"
    code = sanitizer.main([tool, str(tmp_path / "work"), "--json", str(path), *more])
    return code, json.loads(path.read_text()) if path.exists() else {}


def play_sanitizer(programs: Path, tests_output: str, tests_code: int) -> None:
    """Finds the planted fault, runs the tests, and prints this and exits so after them."""
    write_program(programs / "compute-sanitizer", f"""
case "$*" in
  *" -m pytest "*)
    while [ "$1" != {sys.executable} ]; do shift; done
    "$@" || true
    printf '{tests_output}'; exit {tests_code};;
  *planted_fault*) printf '{FOUND["memcheck"]}'; exit 9;;
esac""")


@pytest.fixture
def passing_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test_tiny.py"
    cases = "@pytest.mark.parametrize('i', range(20))"
    file.write_text(f"import pytest\n@pytest.mark.cuda\n{cases}\ndef test_tiny(i): pass\ndef test_other(): pass\n")
    monkeypatch.setattr(tests, "files", lambda: [str(file)])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to import


def test_a_clean_run(programs: Path, passing_test: None, tmp_path: Path) -> None:
    play_sanitizer(programs, CLEAN["memcheck"], 0)
    code, figures = run_stage(tmp_path, "--cases", "5")
    assert code == 0 and figures["reported"] == 0 and figures["watched"] == "our kernels"
    assert figures["tests"]["passed"] == 5


def test_reported_errors_fail_the_stage(programs: Path, passing_test: None, tmp_path: Path) -> None:
    play_sanitizer(programs, FOUND["memcheck"], 9)
    code, figures = run_stage(tmp_path)
    assert code == 1 and figures["reported"] == 1 and figures["tests"]["passed"] == 8


def test_without_a_summary_nothing_is_claimed(programs: Path, passing_test: None, tmp_path: Path) -> None:
    play_sanitizer(programs, "", 0)
    assert run_stage(tmp_path)[0] == 1


def test_what_makes_it_unavailable(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = {"nvcc": str(programs / "nvcc")}
    monkeypatch.setattr(sanitizer, "find_tool", found.get)
    assert run_stage(tmp_path) == (UNAVAILABLE_CODE, {})
    assert capsys.readouterr().out.startswith("compute-sanitizer was not found")
    write_program(programs / "compute-sanitizer", f"printf '{REFUSED}'; exit 9")
    found["compute-sanitizer"] = str(programs / "compute-sanitizer")
    assert run_stage(tmp_path) == (UNAVAILABLE_CODE, {})
    assert capsys.readouterr().out.startswith("compute-sanitizer does not find a planted fault here: ")
    write_program(programs / "nvcc", "echo 'fatal error: no such architecture'; exit 1")
    assert run_stage(tmp_path)[0] == UNAVAILABLE_CODE
    assert "nvcc cannot compile planted_fault.cu: fatal error" in capsys.readouterr().out
    del found["nvcc"]
    assert run_stage(tmp_path)[0] == UNAVAILABLE_CODE
    assert "nvcc was not found" in capsys.readouterr().out


def test_planted_fault_compiles(toolkit: None, tmp_path: Path) -> None:
    assert sanitizer.build_planted_fault(tmp_path, "9.0").stat().st_size > 0


SAMPLED = """
import pytest
@pytest.mark.parametrize("i", range(40))
def test_many(i): pass
def test_one(): pass
def test_compile(): pass
"""


@pytest.mark.parametrize(("seconds", "outcome"), [("60", {"passed": 4}), ("-1", {"skipped": 4})])
def test_sampled_tests(tmp_path: Path, seconds: str, outcome: dict[str, int]) -> None:
    (tmp_path / "test_sampled.py").write_text(SAMPLED)
    variables = {"MFFPA_SAMPLE_CASES": "3", "MFFPA_SAMPLE_WITHOUT": "compile,graph", "MFFPA_SAMPLE_SECONDS": seconds,
                 "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # fmt: skip
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu_check.sampled_tests", "-q", "-p",
               "no:cacheprovider", f"--junitxml={report}", "test_sampled.py", "-vv"]  # fmt: skip
    ran = [
        subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
        for _ in range(2)
    ]
    counts = tests.read_report(report)
    assert {name: counts[name] for name in ("passed", "skipped") if counts[name]} == outcome, ran[0].stdout
    names = [[line.split()[0] for line in run.stdout.splitlines() if "::" in line] for run in ran]
    assert names[0] == names[1] and len(names[0]) == 4, "the same cases each time"
    assert [name.partition("[")[0].partition("::")[2] for name in names[0][:2]] == ["test_many", "test_one"]


def test_files_of_the_tests_for_a_gpu(tmp_path: Path) -> None:
    """Each that some test marked `cuda` is in, and no other."""
    (tmp_path / "tests").mkdir()
    for name in ("test_a_gpu.py", "test_b.py"):
        (tmp_path / "tests" / name).write_text("pass\n")
    assert tests.files(tmp_path) == ["tests/test_a_gpu.py"]
    command = [sys.executable, "-m", "pytest", "tests", "-m", "cuda", "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    marked = {line.partition("::")[0] for line in listed.splitlines() if "::" in line}
    assert marked == set(tests.files()) and "tests/cuda/test_outlook_attention_gpu.py" in marked


def test_report_of_tests(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='needs two')\ndef test_two(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError\ndef test_error(broken): pass\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "test_mixed.py"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    counts = tests.read_report(report)
    assert tests.describe(counts) == "1 passed, 1 failed, 1 errors, 1 skipped"
    assert any("test_bad" in line and "1 == 2" in line for line in counts["failures"])
    assert counts["skip_reasons"] == {"needs two": 1}
    assert tests.read_report(tmp_path / "none.xml") == {}
