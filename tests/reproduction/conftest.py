"""Plans on stub trainings, which take no time (see `stub_trainer`)."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mffpa_ext.reproduction import runner as runner_module
from mffpa_ext.reproduction.plan import Choices, Plan, make_plan
from mffpa_ext.reproduction.progress import Progress
from mffpa_ext.reproduction.results import write_results
from mffpa_ext.reproduction.runner import Runner
from mffpa_ext.reproduction.runs import Run
from mffpa_ext.reproduction.tables import TABLES

STUB = (sys.executable, str(Path(__file__).with_name("stub_trainer.py")))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Stub trainings instead of real ones."""
    monkeypatch.setattr(runner_module, "TRAINER", STUB)
    monkeypatch.setattr(runner_module, "_POLL", 0.02)
    return monkeypatch


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan for a table; two epochs, if nothing else is said."""

    def plan(table: int, **choices: Any) -> Plan:
        overrides = {"epochs": 2, **choices.pop("overrides", {})}
        return make_plan(TABLES[table], Choices(tmp_path / "out", ".", overrides=overrides, **choices))

    return plan


@pytest.fixture
def run_plan(stub: pytest.MonkeyPatch) -> Callable[..., Runner]:
    """Runs a plan's wanted runs to their end, or until it is interrupted."""

    def run_plan(plan: Plan, jobs: int = 2, runs: list[Run] | None = None) -> Runner:
        runs = plan.wanted() if runs is None else runs
        runner = Runner(jobs, ["cpu"], Progress(runs), lambda run: write_results(plan, "command"))
        runner.run(runs)
        return runner

    return run_plan


def starts(run: Run) -> list[str]:
    """Command lines of the attempts at a run."""
    return [line for line in run.log.read_text().splitlines() if line.startswith("$ ")]


def epochs_trained(run: Run) -> list[int]:
    """Of all attempts together."""
    return [int(line.split()[-1]) for line in run.log.read_text().splitlines() if line.startswith("trained epoch")]


def is_running(folder: Path) -> bool:
    """Whether some process works on a run below the folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in command and b"stub_trainer" in command:
                return True
        except OSError:
            continue
    return False
