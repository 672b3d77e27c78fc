"""`reproduce` as a user runs it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mffpa_ext import cli
from mffpa_ext.command import run_command
from mffpa_ext.reproduction import estimate
from mffpa_ext.reproduction import runner as runner_module
from mffpa_ext.reproduction.locking import output_lock

from tests.data.conftest import write_ksdd_folder

TINY = ("--image-size", "32x32", "--epochs", "2", "--timing-images", "2")


@pytest.fixture
def reproduce(capfd: pytest.CaptureFixture, here: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs `mffpa reproduce ...` in an empty folder: exit code, standard output, standard error."""

    def reproduce(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, ["reproduce", *map(str, arguments)])
        return end.value.code, *capfd.readouterr()

    return reproduce


def results(folder: str = "reproduction") -> dict:
    (path,) = Path(folder).glob("table-*/results.json")
    return json.loads(path.read_text())


def test_a_table_from_beginning_to_end_and_again(reproduce: Callable, stub: pytest.MonkeyPatch) -> None:
    code, out, err = reproduce("--table", 1, "--data-root", ".", "--cells", "N=0,33", "--jobs", 3, "--epochs", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == ("Table 1 (KolektorSDD, AP): 2 of 6 cells x 3 parts x 1 seed = 6 runs: "
                        "0 finished, 0 begun, 6 new")
    assert lines[1].startswith("left: 12 epochs, 832 steps; 270 MB of checkpoints; 3 at a time with ")
    assert lines[2] == "not the published protocol: settings --epochs=2"
    assert sum(line.startswith("[") and "/6] ksdd N=" in line for line in lines) == 6
    table = next(Path("reproduction").glob("table-1-deviating-*/table.md"))
    assert table.read_text() in out and lines[-1] == f"table: {table}"
    assert "| 99.9 |               | 100    | 100  | 100   | 61.00 | -39.00     | 3/3 " in out
    assert "KSDD holds two items twice" in out
    assert results()["command"] == ("python -m mffpa_ext.reproduce --table 1 --data-root . --cells N=0,33 --jobs 3 "
                                    "--epochs 2")
    before = {path: path.stat().st_mtime_ns for path in Path("reproduction/runs").rglob("*")}
    code, out, _ = reproduce("--table", 1, "--cells", "N=33", "--", "--epochs", 2)  # without images, as none are needed
    assert code == 0 and "3 runs: 3 finished, 0 begun, 0 new" in out
    assert "| 61.00 |" in out and "| 51.00 |" in out  # also what is there but was not asked for
    assert {path: path.stat().st_mtime_ns for path in Path("reproduction/runs").rglob("*")} == before


def test_a_failure_is_exit_code_1(reproduce: Callable, stub: pytest.MonkeyPatch) -> None:
    stub.setenv("STUB_FAIL", "--dagm-class=2")
    given = ("--table", 2, "--data-root", ".", "--cells", "N=5", "--classes", "1,2", "--epochs", 2)
    code, out, _ = reproduce(*given)
    assert code == 1 and "1 of 2 runs failed; the same command starts them again" in out
    assert "failed: the images are damaged: copy them again" in out
    stub.delenv("STUB_FAIL")
    code, out, _ = reproduce(*given)
    assert code == 0 and "2 runs: 1 finished, 0 begun, 1 new" in out
    assert results()["cells"][1]["ap"]["mean"] == pytest.approx(0.5 + 0.0005 + 0.015)


def test_interrupted_it_says_how_to_go_on(reproduce: Callable, stub: pytest.MonkeyPatch) -> None:
    def interrupted(self: runner_module.Runner, runs: list) -> None:
        raise KeyboardInterrupt

    stub.setattr(runner_module.Runner, "run", interrupted)
    code, _, err = reproduce("--table", 4, "--data-root", ".", "--cells", "N=0,model=mffpa")
    assert (code, err) == (130, "interrupted: 0 of 1 runs were finished; to continue: python -m mffpa_ext.reproduce "
                                "--table 4 --data-root . --cells N=0,model=mffpa\n")


def test_the_plan_and_its_time_without_images(reproduce: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_TIMED", 1)
    given = ("--table", 7, "--cells", "N=16,model=pa", "--jobs", 2, "--image-size", "32x32")
    code, out, err = reproduce(*given, "--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "2 of 15 cells x 1 part x 1 seed = 2 runs" in lines[0]
    assert lines[1].startswith("left: 100 epochs, 49,200 steps; 90 MB of checkpoints; 2 at a time with ")
    for name in ("pa (se), 1x3x32x32, fp32: ", "pa (ca), 1x3x32x32, fp32: "):
        assert sum(line.startswith(name) and " s a step, " in line for line in lines) == 1
    assert lines[-1].startswith("estimate: ") and "one by one, and as if 2 did not slow each other down" in lines[-1]
    assert list(Path().iterdir()) == []


def test_table_9(reproduce: Callable) -> None:
    code, out, err = reproduce("--table", 9, "--image-size", "64x64", "--timing-images", 3)
    assert (code, err) == (0, "")
    assert out == f"{Path('reproduction/table-9/table.md').read_text()}\ntable: reproduction/table-9/table.md\n"
    assert "Images of 3x64x64" in out and "3 single images, model alone, fp32, cpu" in out
    assert "**Not the published size**, which is 3x640x232." in out
    rows = {row["title"]: row for row in results()["rows"]}
    assert rows["MFF+PA"]["ours"]["parameters"] == 11_291_264 and rows["MaMiNet"]["ours"] is None
    for row in rows.values():
        for who in ("paper", "ours"):
            if row[who]:
                assert row["ratio_to_baseline"][who] == pytest.approx(
                    {key: row[who][key] / rows["Baseline"][who][key] for key in ("parameters", "macs", "fps")})
    assert "| MFF+PA   | 11.29 (0.722)   | 11.29 (0.722) | 33.32 (0.694) |" in out


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("", "--table: expected the number of a table, 1 to 9, none was given"),
        ("--table 10", "--table: invalid choice: 10"),
        ("--table 1", "--data-root: expected the folder of the data set ksdd, none was given"),
        ("--table 1 --data-root nowhere", "--data-root: expected the folder of the data set ksdd, found no folder"),
        ("--table 1 --data-root . --cells N=4", "--cells N=4: no N=4 in Table 1: it has N=0,5,10,15,20,33;"),
        ("--table 1 --data-root . --splits nowhere", "--splits nowhere: expected MixSup's split file KSDD/split_33_0"),
        ("--table 1 --data-root . --seeds 0", "--seeds: expected 1 or more, got 0"),
        ("--table 1 --data-root . --jobs -1", "--jobs: expected 1 or more, got -1"),
        ("--table 1 --data-root . --fold 1", "--fold: the table decides; use --folds"),
        ("--table 1 --data-root . -- --num-segmented 5", "--num-segmented: the table decides; use --cells N=..."),
        ("--table 5 --data-root . --model pa", "--model: the table decides; use --cells model=..."),
        ("--table 1 --data-root . --epoch 3", "unrecognized arguments: --epoch 3"),
        ("--table 1 --data-root . --image-size 8x8", "--image-size 8x8: --model mffpa needs at least 16x16"),
        ("--table 5 --data-root . --image-size 32x32", "--image-size 32x32: --model baseline needs at least 64x64"),
        ("--table 1 --data-root . --device cuda:99", "--device cuda:99: expected a GPU that is there"),
        ("--table 1 --data-root . --output file", "--output file: expected a folder to write to"),
        ("--table 9 --epochs 2", "--epochs is for Tables 1 to 8, not for Table 9: leave it out"),
        ("--table 9 --cells N=0", "--cells is for Tables 1 to 8, not for Table 9: leave it out"),
        ("--table 9 --image-size 8x8", "--image-size 8x8: --model baseline needs at least 64x64"),
        ("--table 9 --image-size=-8x640", "--image-size: expected height x width, multiples of 8 and above 0"),
        ("--table 9 --image-size 100x100 --dry-run", "--image-size: expected height x width, multiples of 8"),
        ("--table 9 --timing-images 0", "--timing-images: expected 1 or more for Table 9, got 0"),
    ],
)
def test_wrong_flags(arguments: str, named: str, reproduce: Callable) -> None:
    Path("file").write_text("mine")
    code, out, err = reproduce(*arguments.split())
    assert (code, out) == (2, "") and err.startswith("error: ") and named in err and err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_two_at_once(reproduce: Callable, stub: pytest.MonkeyPatch) -> None:
    with output_lock(Path("reproduction")):
        code, _, err = reproduce("--table", 1, "--data-root", ".")
        assert code == 2 and f"another reproduce (process {os.getpid()}) works there" in err
        code, _, err = reproduce("--table", 9, "--image-size", "64x64", "--timing-images", 1)
        assert code == 2 and f"another reproduce (process {os.getpid()}) works there" in err
        assert [path.name for path in Path("reproduction").iterdir()] == [".lock"]


@pytest.mark.slow
def test_real_trainings(reproduce: Callable, tmp_path: Path) -> None:
    """On a small KolektorSDD, folds drawn by the seed; the second start only resumes, evaluates and reads."""
    for number in range(1, 10):
        (tmp_path / "ksdd" / f"kos{number:02d}").mkdir(parents=True)
        write_ksdd_folder(tmp_path / "ksdd" / f"kos{number:02d}")
    given = ("--table", 1, "--data-root", tmp_path / "ksdd", "--cells", "N=0,33", "--folds", "0,2", "--jobs", 2)
    code, out, _ = reproduce(*given, *TINY)
    assert code == 0 and out.count("/4] ksdd N=") == 4 and "unofficial" in out
    cells = {cell["n"]: cell for cell in results()["cells"]}
    for n in (0, 33):
        assert cells[n]["state"] == "finished" and 0 < cells[n]["ap"]["mean"] <= 1 and cells[n]["fps"]["mean"] > 0
        assert cells[n]["official_split"] is False and cells[n]["runs"][0]["epoch"] == 2
        assert any("KSDD holds two items twice" in note for note in cells[n]["notes"])
    code, out, _ = reproduce(*given, *TINY)
    assert code == 0 and "4 runs: 4 finished" in out and "[1/" not in out


@pytest.mark.slow
@pytest.mark.skipif("MFFPA_DATA" not in os.environ, reason="MFFPA_DATA names no folder with real images")
def test_real_images_with_the_published_folds(reproduce: Callable) -> None:
    data = Path(os.environ["MFFPA_DATA"])
    code, out, _ = reproduce("--table", 1, "--data-root", data / "KolektorSDD", "--splits", data / "mixsup_splits",
                             "--cells", "N=33", "--folds", "0", "--image-size", "96x32", "--epochs", 1)
    assert code == 0 and "| 1/1 " in out and "unofficial" not in out and "twins on both sides of this fold" in out
    assert [cell["official_split"] for cell in results()["cells"] if cell["n"] == 33] == [True]
    shutil.rmtree("reproduction/runs")
