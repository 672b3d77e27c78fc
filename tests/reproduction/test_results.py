"""From runs to a table: means over folds, then over seeds; what is missing, failed, or not the published protocol."""

import json
import statistics
from collections.abc import Callable

import pytest

from mffpa_ext.reproduction.markdown import render
from mffpa_ext.reproduction.plan import Plan
from mffpa_ext.reproduction.results import collect, write_results
from mffpa_ext.reproduction.runs import Run


def finish(run: Run, ap: float, **metrics: object) -> None:
    """Writes what a finished run leaves."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.folder.config.write_text(json.dumps(run.determined_by))
    content = {"ap": ap, "auc": ap / 2, "mask_ap": ap / 4, "fps": 10.0, "official": True, "notes": [], **metrics}
    (run.path / "metrics.json").write_text(json.dumps(content))


def cell(plan: Plan, n: int, title: str = "MFFPA") -> dict:
    return next(cell for cell in collect(plan, "command")["cells"] if (cell["n"], cell["column"]) == (n, title))


def test_folds_are_averaged_before_seeds(plan: Callable) -> None:
    made = plan(1, cells="N=5", seeds=2)
    values = {(seed, fold): 0.9 + 0.03 * fold + 0.02 * seed for seed in range(2) for fold in range(3)}
    for run in made.wanted():
        finish(run, values[run.settings["seed"], run.settings["fold"]])
    found = cell(made, 5)
    by_seed = [statistics.fmean(values[seed, fold] for fold in range(3)) for seed in range(2)]
    assert found["state"] == "finished" and found["ap"]["by_seed"] == pytest.approx({"0": by_seed[0], "1": by_seed[1]})
    assert found["percent"] == pytest.approx(
        {"paper": 98.95, "mean": 94.0, "std": 100 * statistics.stdev(by_seed), "difference": 94.0 - 98.95})
    assert found["auc"]["mean"] == pytest.approx(0.47) and found["fps"]["mean"] == 10
    assert "| 94.00 ± 1.41 | -4.95      | 6/6" in render(collect(made, "command"))


def test_with_one_seed_there_is_no_spread(plan: Callable) -> None:
    made = plan(4, cells="N=53")
    finish(made.wanted()[0], 0.9405)
    assert cell(made, 53)["percent"]["std"] is None
    table = render(collect(made, "command"))
    assert "| 93.05 | 94.05 | +1.00 " in table and "±" not in table


def test_a_seed_counts_when_all_its_folds_are_there(plan: Callable) -> None:
    made = plan(1, cells="N=5", seeds=2)
    runs = made.wanted()
    for run in runs[:2]:
        finish(run, 0.9)
    found = cell(made, 5)
    assert (found["state"], found["percent"]["mean"], found["ap"]["by_seed"]) == ("partial", None, {})
    assert "| –    | –          | 2/6 " in render(collect(made, "command"))
    finish(runs[2], 0.6)
    found = cell(made, 5)
    assert found["state"] == "partial" and found["percent"]["mean"] == pytest.approx(80)
    assert found["percent"]["std"] is None and cell(made, 0)["state"] == "missing"


def test_means_over_fewer_seeds_say_so(plan: Callable) -> None:
    made = plan(6, cells="model=mff", seeds=3)
    for run in made.wanted():
        if run.settings["seed"] < 2:
            finish(run, 0.0, auc=0.9)
    lines = render(collect(made, "command")).splitlines()
    row, average = (next(line for line in lines if line.startswith(f"| {start}") and "| MFF  " in line)
                    for start in ("N=16 ", "average"))
    assert "| 90.00 ± 0.00 |" in row and "| 2/3 " in row
    assert "| 2 of 3 seeds" in row and "| 2 of 3 seeds" in average
    for run in made.wanted():
        finish(run, 0.0, auc=0.9)
    assert "of 3 seeds" not in render(collect(made, "command"))


def test_fewer_seeds_do_not_write_over_the_mean_of_more(plan: Callable) -> None:
    first = plan(4, cells="N=53", seeds=3)
    for run, ap in zip(first.wanted()[:2], (0.9, 0.8)):
        finish(run, ap)
    write_results(first, "command")
    again = plan(4, cells="N=53")
    assert [run.settings["seed"] for run in again.wanted()] == [0] and again.wanted()[0].path == first.wanted()[0].path
    assert write_results(again, "command")["seeds"] == 2  # none of the third was finished
    assert cell(again, 53)["percent"]["mean"] == pytest.approx(85)
    assert collect(plan(4, cells="N=53", overrides={"epochs": 3}), "command")["seeds"] == 1  # another protocol
    (first.folder / "results.json").write_text('{"cells": 3}')
    assert collect(plan(4, cells="N=53"), "command")["seeds"] == 1


def test_a_failure_has_its_line(plan: Callable) -> None:
    made = plan(1, cells="N=5")
    runs = made.wanted()
    finish(runs[0], 0.9)
    runs[1].record.write_text(json.dumps({"error": "the images are damaged"}))
    found = cell(made, 5)
    assert found["state"] == "failed" and [run["state"] for run in found["runs"]] == ["finished", "failed", "missing"]
    table = render(collect(made, "command"))
    assert f"- {runs[1].path}: the images are damaged" in table and "| failed" in table
    finish(runs[1], 0.9)  # whatever the record says: the metrics are there
    assert cell(made, 5)["state"] == "partial"


def test_averages_over_n(plan: Callable) -> None:
    made = plan(6, cells="model=mff")
    for run in made.wanted():
        finish(run, 0.0, auc=0.9 + run.settings["num_segmented"] / 1e4 if run.settings["num_segmented"] != "all" else 1)
    averages = {row["column"]: row["percent"] for row in collect(made, "command")["averages"]}
    assert averages["MFF"]["mean"] == pytest.approx(100 * statistics.fmean([0.9, 0.9016, 0.9053, 0.9126, 1]))
    assert averages["MFF"]["paper"] == 95.54 and averages["PA"]["mean"] is None
    assert "| average | MFF      | 95.54 | 92.39 " in render(collect(made, "command"))


def test_tables_of_two_metrics_read_the_same_runs(plan: Callable) -> None:
    finish(plan(5, cells="N=16,model=pa").wanted()[0], 0.9)
    assert cell(plan(5), 16, "PA")["percent"]["mean"] == pytest.approx(90)
    assert cell(plan(8), 16, "CA")["percent"]["mean"] == pytest.approx(45)


def test_notes_stand_beside_their_numbers(plan: Callable) -> None:
    made = plan(1, cells="N=5")
    for run in made.wanted():
        finish(run, 0.9, official=False, notes=["twins on both sides", f"this is fold {run.settings['fold']}"])
    assert cell(made, 5)["official_split"] is False
    table = render(collect(made, "command"))
    row = next(line for line in table.splitlines() if line.startswith("| N=5 "))
    assert "unofficial split [1] [2]" in row
    assert "[1] twins on both sides" in table
    assert "[2] this is fold 0 (and 2 more with other numbers, see results.json)" in table


def test_what_is_not_the_published_protocol_says_so(plan: Callable) -> None:
    made = plan(1, overrides={"image_size": (352, 128)})
    results = write_results(made, "python -m mffpa_ext.reproduce --table 1")
    assert results["published_protocol"] is False and results == json.loads((made.folder / "results.json").read_text())
    table = (made.folder / "table.md").read_text()
    assert "**Not the published protocol:**\n\n- settings --image-size=352x128 --epochs=2\n- no --splits" in table
    assert results["command"] == "python -m mffpa_ext.reproduce --table 1" and results["versions"]["torch"]
    assert [path.name for path in made.folder.iterdir() if path.name.startswith(".")] == []


def test_published_values_stand_beside(plan: Callable) -> None:
    table = render(collect(plan(4), "command"))
    header = next(line for line in table.splitlines() if line.startswith("| N "))
    assert [name.strip() for name in header.strip("|").split("|")][2:10] == [
        "F-AnoGAN", "SDA", "Uninf student", "MixSup", "PSIC", "SGSF", "DSR", "MaMi"]
    row = next(line for line in table.splitlines() if line.startswith("| N=246"))
    assert [text.strip() for text in row.strip("|").split("|")][2:11] == [
        "", "68.7", "", "95.4", "93.3", "", "95.2", "96.2", "95.6"]
