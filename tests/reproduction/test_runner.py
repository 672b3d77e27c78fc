"""Running a plan: side by side, with failures, interrupted and killed, and going on afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mffpa_ext.errors import UserError
from mffpa_ext.reproduction import runner as runner_module
from mffpa_ext.reproduction.locking import output_lock, take
from mffpa_ext.reproduction.plan import Plan
from mffpa_ext.reproduction.progress import duration
from mffpa_ext.reproduction.runs import Run, State

from tests.reproduction.conftest import STUB, epochs_trained, is_running, starts


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def signal_later(when: Callable[[], bool], *numbers: int) -> threading.Thread:
    """Sends signals to this process, as a terminal would, once `when` holds."""

    def send() -> None:
        wait_until(when)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_runs_to_the_end_and_leaves_what_is_needed(plan: Callable, run_plan: Callable, capfd) -> None:
    made = plan(1, cells="N=0")
    runner = run_plan(made)
    assert runner.finished == 3 and not runner.failed
    for run in made.wanted():
        assert run.state() is State.FINISHED and len(starts(run)) == 1 and epochs_trained(run) == [1, 2]
        assert (run.path / "best.pt").is_file() and not (run.path / "last.pt").exists()
        record = json.loads(run.record.read_text())
        assert record["error"] is None and record["jobs"] == 2 and record["settings"]["fold"] == run.settings["fold"]
    out = capfd.readouterr().out.splitlines()
    assert len(out) == 3 and out[0].startswith("[1/3] ksdd N=0 fold ") and "AP 50." in out[0] and " left" in out[0]
    assert " left" not in out[-1]
    assert json.loads((made.folder / "results.json").read_text())["cells"][0]["state"] == "finished"


def test_jobs_run_side_by_side_and_take_turns_on_the_devices(plan: Callable, stub, run_plan: Callable) -> None:
    stub.setenv("STUB_SECONDS", "0.4")
    made = plan(1, cells="N=0")
    started = time.monotonic()
    run_plan(made, jobs=3)
    took = [json.loads(run.record.read_text())["seconds"] for run in made.wanted()]
    assert time.monotonic() - started < 0.8 * sum(took)
    assert all("--device=cpu" in starts(run)[0] for run in made.wanted())


def test_threads_are_divided_among_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module.torch, "get_num_threads", lambda: 8)
    assert [runner_module.threads_per_job(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    environment = runner_module.Runner(2, ["cpu"], None, None)._environment()
    assert environment["OMP_NUM_THREADS"] == "4"
    assert Path(environment["PYTHONPATH"].split(os.pathsep)[0]) == Path(runner_module.mffpa_ext.__file__).parents[1]


def test_a_failure_does_not_stop_the_others_and_is_tried_again(plan: Callable, stub, run_plan: Callable, capfd) -> None:
    made = plan(1, cells="N=0")
    failing = made.wanted()[1]
    stub.setenv("STUB_FAIL", "--fold=1")
    runner = run_plan(made)
    assert runner.finished == 2 and runner.failed == {failing: "the images are damaged: copy them again"}
    assert "] ksdd N=0 fold 1 mffpa ca seed 0: failed: the images are damaged" in capfd.readouterr().out
    stub.delenv("STUB_FAIL")
    assert run_plan(made, runs=[failing]).finished == 1
    assert json.loads(failing.record.read_text())["error"] is None


def test_a_run_that_is_killed_says_so(plan: Callable, stub, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="1")
    stub.setenv("STUB_DIE", "--fold=1")
    runner = run_plan(made)
    assert list(runner.failed.values()) == [
        f"killed by SIGKILL, for want of memory as a rule; see {made.wanted()[0].log}"]
    stub.delenv("STUB_DIE")
    assert run_plan(made).finished == 1  # its folder held a config.json alone, and does not stand in the way


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on_where_it_was(number: int, plan: Callable, stub, run_plan: Callable, capfd) -> None:
    made = plan(1, cells="N=0", overrides={"epochs": 4})
    stub.setenv("STUB_SECONDS", "0.3")
    first = made.wanted()[0]
    thread = signal_later(lambda: first.epochs_done() >= 1, number)
    with pytest.raises(KeyboardInterrupt):
        run_plan(made, jobs=2)
    thread.join()
    assert "interrupted: 2 running" in capfd.readouterr().out
    assert not is_running(made.folder.parent)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert first.state() is State.BEGUN and "interrupted; to continue" in first.log.read_text()
    assert made.wanted()[2].state() is State.NEW  # not begun
    stub.delenv("STUB_SECONDS")
    assert run_plan(made).finished == 3
    for run in made.wanted():
        assert epochs_trained(run) == [1, 2, 3, 4]
    assert "--resume" in starts(first)[1]


def test_a_second_interrupt_kills(plan: Callable, stub, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="0")
    deaf = Path(made.folder.parent, "deaf.py")
    deaf.parent.mkdir()
    deaf.write_text("import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                    "print('deaf', flush=True)\ntime.sleep(600)\n")
    stub.setattr(runner_module, "TRAINER", (sys.executable, str(deaf)))
    log = made.wanted()[0].log
    thread = signal_later(lambda: log.exists() and "deaf" in log.read_text().splitlines(), signal.SIGINT, signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_plan(made)
    thread.join()
    assert time.monotonic() - started < 60


PARENT = """
import sys
from pathlib import Path
from mffpa_ext.reproduction import runner
from mffpa_ext.reproduction.plan import Choices, make_plan
from mffpa_ext.reproduction.progress import Progress
from mffpa_ext.reproduction.tables import TABLES
runner.TRAINER = tuple(sys.argv[2:])
plan = make_plan(TABLES[1], Choices(Path(sys.argv[1]), ".", cells="N=0", overrides={"epochs": 4}))
runner.Runner(2, ["cpu"], Progress(plan.wanted()), lambda run: None).run(plan.wanted())
"""


def test_killed_it_leaves_no_process_and_goes_on(plan: Callable, stub, run_plan: Callable) -> None:
    made: Plan = plan(1, cells="N=0", overrides={"epochs": 4})
    first: Run = made.wanted()[0]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(made.folder.parent), *STUB],
                              env={**os.environ, "STUB_SECONDS": "0.3", "PYTHONPATH": str(Path(__file__).parents[2])})
    wait_until(lambda: first.epochs_done() >= 1, 120)
    parent.kill()
    parent.wait()
    # At once: the trainings that it left may still be ending, and nobody else may touch their folders meanwhile.
    assert run_plan(made).finished == 3
    assert not is_running(made.folder.parent)
    for run in made.wanted():
        assert epochs_trained(run) == [1, 2, 3, 4] and run.state() is State.FINISHED
    assert len(starts(first)) == 2


def test_a_training_of_an_earlier_call_is_waited_for(plan: Callable, run_plan: Callable, capfd) -> None:
    made = plan(1, cells="N=0", folds="0")
    run = made.wanted()[0]
    run.log.parent.mkdir(parents=True)
    with run.log.open("ab") as log:
        assert take(log)
        process = subprocess.Popen(["sleep", "0.5"], stdout=log)
    assert run_plan(made).finished == 1
    assert process.poll() == 0
    assert capfd.readouterr().out.count(f"{run.title}: the process of an earlier call has not ended yet") == 1


def test_what_a_killed_start_leaves_is_cleared(plan: Callable, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="0")
    run = made.wanted()[0]
    run.path.mkdir(parents=True)
    for name in ("config.json", "best.pt", ".last.pt-x.tmp", "metrics.json"):
        (run.path / name).write_text("{")
    assert run.state() is State.NEW
    assert run_plan(made).finished == 1


def test_somebody_else_s_files_are_left_alone(plan: Callable, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="0")
    run = made.wanted()[0]
    run.path.mkdir(parents=True)
    (run.path / "thesis.tex").write_text("mine")
    runner = run_plan(made)
    assert "found thesis.tex: move it away" in runner.failed[run]
    assert (run.path / "thesis.tex").read_text() == "mine"


def test_damaged_metrics_are_measured_again(plan: Callable, stub, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="0")
    run = made.wanted()[0]
    run_plan(made)
    for damage in ("", "{", "[]", '{"ap": null}', '{"ap": 2, "auc": 1, "mask_ap": 1}'):
        (run.path / "metrics.json").write_text(damage)
        assert run.metrics() is None and run.state() is State.NEW  # its last.pt is gone
    assert run_plan(made).finished == 1


def test_a_run_with_other_settings_is_neither_taken_nor_overwritten(plan: Callable, run_plan: Callable) -> None:
    made = plan(1, cells="N=0", folds="0")
    run = made.wanted()[0]
    run_plan(made)
    config = json.loads(run.folder.config.read_text())
    run.folder.config.write_text(json.dumps({**config, "seed": 7}))
    with pytest.raises(UserError, match="expected a run with seed 0, found one with 7: move it away"):
        run.state()
    assert "found one with 7" in run_plan(made).failed[run]


def test_one_process_for_an_output_folder(tmp_path: Path) -> None:
    with output_lock(tmp_path / "out"):
        with pytest.raises(UserError, match=rf"another reproduce \(process {os.getpid()}\) works there"):
            with output_lock(tmp_path / "out"):
                pass
    with output_lock(tmp_path / "out"):
        pass


def test_a_lock_belongs_to_all_who_inherit_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        assert take(log)
        process = subprocess.Popen(["sleep", "60"], stdout=log)
    with (tmp_path / "log").open("ab") as log:
        assert not take(log)
        process.kill()
        process.wait()
        assert take(log)


@pytest.mark.parametrize("seconds, text", [
    (0, "0 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (3600 * 1.5, "1 h 30 min"), (3600 * 50.2, "2 d 2 h"),
])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
