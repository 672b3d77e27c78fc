"""Runs one stage after the other, each in a process of its own with a time limit; a stage that fails ends alone."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, TIMED_OUT, UNAVAILABLE = "passed", "failed", "timed out", "unavailable"
UNAVAILABLE_CODE = 77  # a child says so, and why in its last line; automake's code for a skipped test
HEARTBEAT = 15.0  # seconds without a line until one says that the stage is still running
NOISE = "USDT:"  # torch's profiler says that it starts and stops, and has no switch for that
GRACE = 5.0  # between asking and killing
TAIL_LINES = 60


@dataclass(frozen=True)
class Job:
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)  # beside this process's


@dataclass(frozen=True)
class Ended:
    """code: negative for a signal; None where the time was up."""

    code: int | None
    seconds: float
    lines: list[str]

    @property
    def last_line(self) -> str:
        return next((line.strip() for line in reversed(self.lines) if line.strip()), "it printed nothing")


@dataclass(frozen=True)
class Verdict:
    """detail: one line. figures: what the stage found, to be stored."""

    outcome: str
    detail: str = ""
    figures: Any = None


@dataclass(frozen=True)
class Stage:
    """
    Args:
        name: of the stage on the command line and in the results.
        limit: seconds it may take. What a stage leaves of it, later ones may use.
        job: (setup, seconds it may take) to the child's command, or says why there is nothing to run.
        judge: says what came of it; None goes by the exit code.
        is_shown: whether its lines are printed as they come, or only stored.
    """

    name: str
    limit: float
    job: Callable[[Any, float], Job | str]
    judge: Callable[[Any, Ended], Verdict] | None = None
    is_shown: bool = False


def run_stage(stage: Stage, setup: Any, limit: float, log: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """What is stored of a stage: outcome, detail, seconds, limit, figures; and its last lines if it did not pass."""
    started = time.monotonic()
    ended = None
    try:
        job = stage.job(setup, limit)
        if isinstance(job, str):
            verdict = Verdict(UNAVAILABLE, job)
        else:
            ended = run_job(job, limit, log, stage.is_shown, say)
            verdict = (stage.judge or by_exit_code)(setup, ended)
    except Exception as error:  # of this program's own; the later stages have nothing to do with it
        verdict = Verdict(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    entry = {"outcome": verdict.outcome, "detail": verdict.detail, "seconds": round(time.monotonic() - started, 1),
             "limit": round(limit, 1), "figures": verdict.figures}  # fmt: skip
    if verdict.outcome != PASSED and ended is not None:
        entry["log_tail"] = ended.lines[-TAIL_LINES:]
    return entry


def by_exit_code(setup: Any, ended: Ended, figures: Any = None) -> Verdict:
    if ended.code is None:
        return Verdict(TIMED_OUT, f"stopped after {ended.seconds:.0f} s", figures)
    if ended.code == UNAVAILABLE_CODE:
        return Verdict(UNAVAILABLE, ended.last_line, figures)
    if ended.code < 0:
        return Verdict(FAILED, f"crashed with {signal.Signals(-ended.code).name}", figures)
    if ended.code:
        return Verdict(FAILED, f"exit code {ended.code}: {ended.last_line[:300]}", figures)
    return Verdict(PASSED, "", figures)


def run_job(job: Job, limit: float, log: Path, is_shown: bool, say: Callable[[str], None]) -> Ended:
    """The child and its children are one process group, which ends as a whole: at the limit, or when interrupted."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = last = time.monotonic()
    lines: list[str] = []
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            job.command, env={**os.environ, **job.environment}, start_new_session=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip

        def read() -> None:
            nonlocal last
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                file.write(line)
                file.flush()
                if is_shown and not line.startswith(NOISE):
                    say(f"    {lines[-1]}")
                    last = time.monotonic()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        code: int | None = None
        try:
            while code is None and (left := started + limit - time.monotonic()) > 0:
                try:
                    code = process.wait(min(left, 1.0))
                except subprocess.TimeoutExpired:
                    if time.monotonic() - last >= HEARTBEAT:
                        last = time.monotonic()
                        say(f"    … {last - started:.0f} s")
        finally:
            _end_group(process)
            reader.join(GRACE)  # whoever left the group may still hold the pipe
    return Ended(code, time.monotonic() - started, list(lines))


def _end_group(process: subprocess.Popen) -> None:
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):  # interrupted, pytest still reports
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
        if sent is not signal.SIGKILL:
            time.sleep(0.2)  # for its children, who got the signal too
    process.wait()
