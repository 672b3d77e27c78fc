"""What a table is made of, and what its runs share."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mffpa_ext import train
from mffpa_ext.errors import UserError
from mffpa_ext.reproduction.estimate import Shape
from mffpa_ext.reproduction.plan import Choices, make_plan
from mffpa_ext.reproduction.runs import State
from mffpa_ext.reproduction.tables import TABLES


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Split files by name; their content is nobody's business here."""
    for name in ("KSDD/split_33_0", "KSDD/split_33_33", "DAGM/split_5", "KSDD2/split_53", "STEEL/split_3000_50"):
        path = tmp_path / "splits" / f"{name}.pyb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "splits"


@pytest.mark.parametrize(
    "table, runs", [(1, 6 * 3), (2, 5 * 10), (3, 6), (4, 5), (5, 5 * 4), (6, 5 * 4), (7, 5 * 3), (8, 5 * 3)]
)
def test_number_of_runs(table: int, runs: int, plan: Callable) -> None:
    made = plan(table)
    assert len(made.wanted()) == runs
    assert len({run.path for run in made.wanted()}) == runs
    assert len(plan(table, seeds=3).wanted()) == 3 * runs


def test_tables_share_their_runs(plan: Callable) -> None:
    folders = {table: {run.path for run in plan(table).wanted()} for table in TABLES}
    assert folders[5] == folders[6] and folders[7] == folders[8]
    assert folders[4] < folders[5]
    assert len(folders[5] & folders[7]) == 10  # baseline and pa with ca
    assert not folders[1] & folders[2]
    assert len(set.union(*folders.values())) == 18 + 50 + 6 + 20 + 5


def test_a_run_s_arguments(plan: Callable) -> None:
    run = plan(1, cells="N=5", folds="2").wanted()[0]
    assert run.settings == {"dataset": "ksdd", "num_segmented": 5, "model": "mffpa", "seed": 0, "fold": 2,
                            "attention": "ca", "data_root": ".", "recipe": "paper", "epochs": 2}
    assert run.title == "ksdd N=5 fold 2 mffpa ca seed 0"
    assert run.path.name.startswith("ksdd-N5-fold-2-mffpa-ca-seed-0-")
    assert (run.epochs, run.steps) == (2, 2 * 2 * 36)
    run = plan(5, cells="N=0,model=mff").wanted()[0]
    assert "attention" not in run.settings and "fold" not in run.settings and "dagm_class" not in run.settings


@pytest.mark.parametrize("table", [1, 2, 3, 5, 7])
def test_train_takes_every_run_s_arguments(table: int, plan: Callable) -> None:
    for run in plan(table, seeds=2, overrides={"image_size": (352, 128), "precision": "bf16"}).wanted():
        data, training, _ = train.parse(run.arguments(State.NEW, "cpu"))
        parsed = {**asdict(data), **asdict(training)}
        assert {name: parsed[name] for name in run.determined_by} == run.determined_by
        assert (training.output, training.device) == (str(run.path), "cpu")


def test_the_largest_n_means_all_masks_where_the_seed_draws_the_split(plan: Callable, splits: Path) -> None:
    assert [plan(table).wanted()[-1].settings["num_segmented"] for table in (1, 2, 4, 3)] == ["all", "all", "all", 750]
    assert plan(1, splits=splits, cells="N=33").wanted()[0].settings["num_segmented"] == 33


def test_split_files(plan: Callable, splits: Path) -> None:
    for table, n, name in ((1, 33, "KSDD/split_33_33"), (2, 5, "DAGM/split_5"), (4, 53, "KSDD2/split_53"),
                           (3, 50, "STEEL/split_3000_50")):
        run = plan(table, splits=splits, cells=f"N={n}").wanted()[0]
        assert run.settings["split_file"] == str(splits / f"{name}.pyb")
        assert run.determined_by["split_file"] == f"{Path(name).name}.pyb"
    with pytest.raises(UserError, match=r"--splits .*: expected MixSup's split file KSDD/split_33_5.pyb below it"):
        plan(1, splits=splits)


def test_a_split_file_counts_by_its_content_not_by_its_place(plan: Callable, splits: Path) -> None:
    first = plan(1, splits=splits, cells="N=33").wanted()[0]
    moved = splits.rename(splits.with_name("moved"))
    assert plan(1, splits=moved, cells="N=33").wanted()[0].path == first.path
    (moved / "KSDD/split_33_33.pyb").write_bytes(b"another")
    assert plan(1, splits=moved, cells="N=33").wanted()[0].path != first.path
    assert plan(1, cells="N=33").wanted()[0].path != first.path


def test_counts_are_the_published_ones(plan: Callable) -> None:
    parts = {table: plan(table).parts for table in (1, 2, 3, 4)}
    assert [sum(part.test_images for part in parts[table]) for table in (1, 2, 3, 4)] == [399, 8050, 2400, 1004]
    assert [sum(part.positives for part in parts[table]) for table in (1, 2, 3, 4)] == [2 * 52, 1046, 3000, 246]


@pytest.mark.parametrize("positives, epochs", [(300, 90), (750, 80), (1500, 60), (3000, 40)])
def test_epochs_of_mixsup_on_steel_follow_the_positives(
    positives: int, epochs: int, plan: Callable
) -> None:
    overrides = {"recipe": "mixsup", "steel_positives": positives, "epochs": None}
    run = plan(3, cells="N=50", overrides=overrides).wanted()[0]
    assert (run.epochs, run.steps, run.positives) == (epochs, epochs * positives * 2 // 10, positives)
    assert Shape.of(run).batch == 10


def test_no_cell_has_more_masks_than_defective_images(plan: Callable) -> None:
    for cells in (None, "N=50,750"):
        with pytest.raises(UserError, match="--steel-positives 300: N=750 of Table 3 needs as many: .* N=") as error:
            plan(3, cells=cells, overrides={"steel_positives": 300})
    fitting = str(error.value).rpartition(" ")[2]
    assert {run.settings["num_segmented"] for run in plan(3, cells=fitting, overrides={"steel_positives": 300}).wanted()
            } == {cell.n for cell in plan(3).cells} - {750}


def first_path(plan: Callable, table: int = 1, **overrides: object) -> Path:
    return plan(table, overrides=overrides).wanted()[0].path


def test_what_determines_a_result_and_what_does_not(plan: Callable) -> None:
    path = first_path(plan)
    for neutral in ({"workers": 2}, {"cache_memory": 1.0}, {"timing_images": 5}, {"eval_batch_size": 1},
                    {"image_size": (1408, 512)}, {"lr": 0.01}, {"precision": "fp32"}, {"recipe": "paper"}):
        assert first_path(plan, **neutral) == path, neutral
    paths = {first_path(plan, **changed) for changed in (
        {"image_size": (352, 128)}, {"lr": 0.1}, {"precision": "bf16"}, {"recipe": "mixsup"}, {"augment": "flips"},
        {"recipe": "mixsup", "epochs": 3})}
    assert len(paths | {path}) == 7


def test_a_threshold_rule_counts_where_it_has_images(plan: Callable) -> None:
    for table, more, counts in ((4, {}, False), (4, {"val_fraction": 0.2}, True), (4, {"validate_on": "test"}, True),
                                (3, {}, True)):
        for rule in ({"threshold_rule": "recall"}, {"threshold_fpr": 0.2}, {"threshold_margin": 2.0}):
            plain, ruled = (plan(table, cells="N=0", overrides={**more, **given}) for given in ({}, rule))
            assert (ruled.wanted()[0].path != plain.wanted()[0].path) is counts, (table, more, rule)
            assert (ruled.folder != plain.folder) is counts


def test_an_override_that_changes_a_recipe_counts_against_that_recipe(plan: Callable) -> None:
    """lr 0.01 is the paper's, not MixSup's."""
    paths = {plan(1, cells="N=5", overrides={"recipe": "mixsup", **more}).wanted()[0].path
             for more in ({}, {"lr": 0.01}, {"lr": 1.0})}
    assert len(paths) == 2


def test_deviations_and_the_folder_of_the_results(tmp_path: Path, splits: Path) -> None:
    def made(table: int = 1, cells: str | None = "N=0", **choices: object):
        return make_plan(TABLES[table], Choices(tmp_path, ".", splits, cells, **choices))

    published = made()
    assert published.deviations == [] and published.folder == tmp_path / "table-1"
    assert made(overrides={"epochs": 50, "workers": 1}).deviations == []
    lines = made(overrides={"epochs": 2, "image_size": (352, 128), "recipe": "mixsup"}, folds="0,2").deviations
    assert lines == ["recipe mixsup, not the paper's", "settings --image-size=352x128 --epochs=2", "folds 0, 2 of 3"]
    drawn = make_plan(TABLES[2], Choices(tmp_path, ".", overrides={"resplit": True}, classes="1"))
    assert drawn.deviations[0] == "classes 1 of 10" and drawn.deviations[1].startswith("unofficial split")
    assert "no --splits" in make_plan(TABLES[2], Choices(tmp_path, ".")).deviations[0]
    folders = {made(overrides={"epochs": epochs}).folder for epochs in (2, 3, 50)} | {drawn.folder}
    assert len(folders) == 4 and tmp_path / "table-1" in folders


def test_cells_that_are_not_wanted_need_no_split_file(plan: Callable, splits: Path) -> None:
    made = plan(1, splits=splits, cells="N=33")
    assert [cell.n for cell in made.cells if next(made.of(cell))[2] is not None] == [0, 33]


@pytest.mark.parametrize(
    "table, choices, named",
    [
        (1, {"classes": "1"}, "--classes 1: the table's data set ksdd has no classes"),
        (4, {"folds": "0"}, "--folds 0: the table's data set ksdd2 has no folds"),
        (1, {"folds": "0,3"}, "--folds: expected numbers from 0 to 2 with commas between, got '0,3'"),
        (2, {"classes": "0"}, "--classes: expected numbers from 1 to 10"),
        (2, {"splits": Path("splits"), "overrides": {"resplit": True}}, "--splits and --resplit exclude each other"),
        (1, {"overrides": {"resplit": True}}, "--resplit is for --dataset dagm"),
        (1, {"overrides": {"epochs": 0}}, "--epochs: expected 1 or more"),
        (1, {"overrides": {"recipe": "quick"}}, "--recipe quick: has no settings for ksdd"),
        (1, {"overrides": {"image_size": (100, 100)}}, "--image-size: expected height x width, multiples of 8"),
    ],
)
def test_wrong_choices(table: int, choices: dict, named: str, plan: Callable) -> None:
    with pytest.raises(UserError) as error:
        plan(table, **choices)
    assert named in str(error.value)
