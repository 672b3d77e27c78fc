"""Stages: time limits, failures that stay alone, and what is recorded of each."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check import stages
from benchmarks.gpu_check.stages import FAILED, PASSED, TIMED_OUT, UNAVAILABLE, Ended, Job, Stage, Verdict, run_stage


def python(code: str, limit: float = 20.0, **options: object) -> Stage:
    return Stage("try", limit, lambda setup, limit: Job([sys.executable, "-c", code], {"WORD": "given"}), **options)


def run(stage: Stage, tmp_path: Path, said: list[str] | None = None) -> dict:
    return run_stage(stage, None, stage.limit, tmp_path / "try.log", (said if said is not None else []).append)


def test_a_stage_that_passes(tmp_path: Path) -> None:
    said: list[str] = []
    entry = run(python("import os, sys; print(os.environ['WORD']); print('two', file=sys.stderr)"), tmp_path, said)
    assert entry["outcome"] == PASSED and entry["limit"] == 20 and 0 <= entry["seconds"] < 20
    assert "log_tail" not in entry and not said
    assert sorted((tmp_path / "try.log").read_text().split()) == ["given", "two"]


def test_a_stage_that_is_shown(tmp_path: Path) -> None:
    said: list[str] = []
    run(python("print('one'); print('two')", is_shown=True), tmp_path, said)
    assert said == ["    one", "    two"]


def test_a_stage_that_fails_keeps_its_last_lines(tmp_path: Path) -> None:
    entry = run(python("import sys; [print(i) for i in range(500)]; sys.exit('what went wrong\\n\\n')"), tmp_path)
    assert (entry["outcome"], entry["detail"]) == (FAILED, "exit code 1: what went wrong")
    assert len(entry["log_tail"]) == stages.TAIL_LINES and "499" in entry["log_tail"]


def test_a_stage_that_crashes(tmp_path: Path) -> None:
    entry = run(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), tmp_path)
    assert (entry["outcome"], entry["detail"]) == (FAILED, "crashed with SIGSEGV")


def test_a_stage_that_is_not_possible_here(tmp_path: Path) -> None:
    entry = run(Stage("try", 9, lambda setup, limit: "there is no GPU"), tmp_path)
    assert (entry["outcome"], entry["detail"]) == (UNAVAILABLE, "there is no GPU")
    entry = run(python("print('no such tool'); raise SystemExit(77)"), tmp_path)
    assert (entry["outcome"], entry["detail"]) == (UNAVAILABLE, "no such tool")


def test_at_the_limit_children_of_the_stage_end_as_well(tmp_path: Path) -> None:
    """Also one that does not listen to SIGTERM, and one that holds the pipe open."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', deaf])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('begun', flush=True); time.sleep(60)\n"
    )
    started = time.monotonic()
    entry = run(python(code, limit=2.0), tmp_path)
    assert entry["outcome"] == TIMED_OUT and entry["detail"] == "stopped after 2 s"
    assert "begun" in entry["log_tail"] and time.monotonic() - started < 15
    assert not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """A killed process stays as a zombie until its parent, by then init or this one's, asks for it."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_mistake_of_this_program_stays_in_its_stage(tmp_path: Path) -> None:
    def judge(setup: None, ended: Ended) -> Verdict:
        raise KeyError("figures")

    entry = run(python("print('fine')", judge=judge), tmp_path)
    assert (entry["outcome"], entry["detail"]) == (FAILED, "KeyError: 'figures'")
    assert run(Stage("try", 9, lambda setup, limit: setup.missing), tmp_path)["outcome"] == FAILED
    missing = Stage("try", 9, lambda setup, limit: Job([str(tmp_path / "no-such-program")]))
    assert run(missing, tmp_path)["detail"].startswith("FileNotFoundError")


def test_an_interrupt_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "HEARTBEAT", 0.0)
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    stage = python(code)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, None, 20, tmp_path / "try.log", interrupted)
    assert not _runs(int((tmp_path / "pid").read_text()))


def test_a_silent_stage_says_that_it_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "HEARTBEAT", 0.5)
    said: list[str] = []
    run(python("import time; time.sleep(2.5)"), tmp_path, said)
    assert said and all(line.strip().startswith("…") for line in said)


def test_the_limit_reaches_the_stage(tmp_path: Path) -> None:
    stage = Stage("try", 9, lambda setup, limit: Job([sys.executable, "-c", f"print({limit})"]), is_shown=True)
    said: list[str] = []
    run_stage(stage, None, 12.5, tmp_path / "try.log", said.append)
    assert said == ["    12.5"] and os.path.getsize(tmp_path / "try.log")
