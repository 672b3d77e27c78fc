"""Runs trainings side by side, each a process of its own that can be stopped, continued, and fail by itself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import mffpa_ext
from mffpa_ext.errors import UserError
from mffpa_ext.files import write_json
from mffpa_ext.reproduction.locking import take
from mffpa_ext.reproduction.progress import Progress, duration
from mffpa_ext.reproduction.runs import Run, State, read_json

# -P: the package that runs here (see `_environment`), whatever the current folder holds.
TRAINER = (sys.executable, "-P", "-m", "mffpa_ext.reproduction.child", "mffpa_ext.train")
_POLL = 0.2  # seconds between two looks at the processes


@dataclass
class _Job:
    run: Run
    slot: int
    process: subprocess.Popen
    log_start: int  # where this attempt begins in the log
    started: float = field(default_factory=time.monotonic)


class Runner:
    """Runs trainings, `jobs` at a time.

    Args:
        jobs: processes side by side; they share the threads that torch would use.
        devices: as `--device` takes them; the jobs take turns.
        progress: shows what is going on.
        ended: called after each run that ended, finished or failed.

    `failed` holds the error line of each run that failed.
    """

    def __init__(self, jobs: int, devices: Sequence[str], progress: Progress, ended: Callable[[Run], None]) -> None:
        self.jobs = jobs
        self.devices = devices
        self.progress = progress
        self.ended = ended
        self.failed: dict[Run, str] = {}
        self.finished = 0
        self._running: list[_Job] = []
        self._awaited: set[Run] = set()
        self._interrupts = 0
        self._stopping = False

    def run(self, runs: Sequence[Run]) -> None:
        """Raises KeyboardInterrupt after Ctrl-C or SIGTERM, when all processes have ended: by themselves after the
        first, killed after the second."""
        waiting = list(runs)
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
                    if signal.getsignal(number) is not signal.SIG_IGN}  # as in a shell's background job
        try:
            while (waiting and not self._interrupts) or self._running:
                self._collect()
                if self._interrupts:
                    self._stop()
                else:
                    self._fill(waiting)
                self.progress.show([job.run for job in self._running])
                time.sleep(_POLL)
        finally:
            for job in self._running:  # none, but for an error of our own
                job.process.terminate()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._interrupts:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: object) -> None:
        self._interrupts += 1

    def _stop(self) -> None:
        """Acts on the signals that came since the last look."""
        if self._running and not self._stopping:
            self._stopping = True
            for job in self._running:
                job.process.terminate()
            self.progress.line(f"interrupted: {len(self._running)} running, which end in order and keep their finished "
                               f"epochs; Ctrl-C again kills them")
        if self._interrupts > 1:
            for job in self._running:
                if job.process.poll() is None:
                    os.killpg(job.process.pid, signal.SIGKILL)  # with the processes that load its batches

    def _fill(self, waiting: list[Run]) -> None:
        """Starts what there is room for."""
        for run in list(waiting):
            taken = {job.slot for job in self._running}
            free = [slot for slot in range(self.jobs) if slot not in taken]
            if not free:
                return
            try:
                started = self._start(run, free[0])
            except (UserError, OSError) as error:
                self._fail(run, str(error))
                started = True
            if started:
                waiting.remove(run)

    def _start(self, run: Run, slot: int) -> bool:
        """False where the process of an earlier call, which was killed, has not ended yet: it still holds the log."""
        run.path.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("ab") as log:
            if not take(log):
                if run not in self._awaited:
                    self._awaited.add(run)
                    self.progress.line(f"{run.title}: the process of an earlier call has not ended yet, waiting for it")
                return False
            state = run.state()
            if state is State.FINISHED:  # by that process
                self._finish(run, 0.0)
                return True
            if state is State.NEW:
                run.clear()
            arguments = run.arguments(state, self.devices[slot % len(self.devices)])
            log.write(f"$ python -m mffpa_ext.train {shlex.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*TRAINER, *arguments],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=self._environment(),
                start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
            )
            self._running.append(_Job(run, slot, process, log.tell()))
        return True

    def _environment(self) -> dict[str, str]:
        package = str(Path(mffpa_ext.__file__).parents[1])
        path = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        if self.jobs > 1:
            environment["OMP_NUM_THREADS"] = str(threads_per_job(self.jobs))
        return environment

    def _collect(self) -> None:
        for job in list(self._running):
            code = job.process.poll()
            if code is None:
                continue
            self._running.remove(job)
            job.process.stdin.close()
            seconds = time.monotonic() - job.started
            if job.run.metrics() is not None and code == 0:
                self._finish(job.run, seconds)
            elif not self._interrupts:
                self._fail(job.run, _reason(job, code), seconds)

    def _finish(self, run: Run, seconds: float) -> None:
        run.folder.last.unlink(missing_ok=True)  # best.pt is what was evaluated
        earlier = (read_json(run.record) or {}).get("seconds") or 0.0
        self._record(run, None, earlier + seconds)
        self.finished += 1
        metrics = run.metrics()
        self.progress.finished(run, f"AP {100 * metrics['ap']:.2f} AUC {100 * metrics['auc']:.2f}, {duration(seconds)}")
        self.ended(run)

    def _fail(self, run: Run, error: str, seconds: float = 0.0) -> None:
        self.failed[run] = error
        earlier = (read_json(run.record) or {}).get("seconds") or 0.0
        self._record(run, error, earlier + seconds)
        self.progress.failed(run, error)
        self.ended(run)

    def _record(self, run: Run, error: str | None, seconds: float) -> None:
        write_json(run.record, {
            "settings": run.determined_by, "error": error, "seconds": round(seconds, 1), "jobs": self.jobs,
            "mffpa_ext": mffpa_ext.__version__, "torch": torch.__version__,
        })


def threads_per_job(jobs: int) -> int:
    return max(1, torch.get_num_threads() // jobs)


def _reason(job: _Job, code: int) -> str:
    """One line: the error that the training printed, or how it ended."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        hint = ", for want of memory as a rule" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}; see {job.run.log}"
    lines = job.run.log.read_bytes()[job.log_start:].decode(errors="replace").splitlines()
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with exit code {code} and said nothing"])[-1]
