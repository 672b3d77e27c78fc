"""`mffpa datasets check`: counts and every kind of damage, in small trees and in trees of the published size."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mffpa_ext import cli, datasets
from mffpa_ext.command import run_command
from mffpa_ext.data import dagm, inventory, ksdd, ksdd2, steel
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.inventory import examine
from mffpa_ext.data.published import DAGM_SIX, Counts

from .data import published_trees
from .data.conftest import (noise, spot, write_dagm_half, write_gray, write_ksdd2_part, write_ksdd_folder,
                            write_steel)


@pytest.fixture
def check(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str], str]]:
    """Runs `mffpa datasets check`: exit code, lines of standard output, standard error."""

    def check(*arguments: object) -> tuple[int, list[str], str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, ["datasets", "check", *map(str, arguments)])
        out, err = capsys.readouterr()
        return end.value.code, out.splitlines(), err

    return check


# small trees that are "published" as they are written, so that each damage is the only problem

@pytest.fixture
def ksdd2_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ksdd2, "KSDD2_NUMBERS", {"train": range(10000, 10005), "test": range(20000, 20003)})
    monkeypatch.setattr(ksdd2, "KSDD2_COUNTS", {"train": Counts(2, 3), "test": Counts(1, 2)})
    write_ksdd2_part(tmp_path / "ksdd2" / "train", 10000, 2, 3)
    write_ksdd2_part(tmp_path / "ksdd2" / "test", 20000, 1, 2)
    return tmp_path / "ksdd2"


@pytest.fixture
def ksdd_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ksdd, "KSDD_FOLDERS", ("kos01", "kos21"))
    monkeypatch.setattr(ksdd, "KSDD_COUNTS", Counts(2, 13))
    monkeypatch.setattr(ksdd, "KSDD_SMALLEST", (38, 24))
    monkeypatch.setattr(ksdd, "KSDD_LARGEST", (42, 24))
    for name, parts in (("kos01", 8), ("kos21", 8)):  # kos21_Part7 is passed over
        (tmp_path / "ksdd" / name).mkdir(parents=True)
        write_ksdd_folder(tmp_path / "ksdd" / name, parts)
    return tmp_path / "ksdd"


@pytest.fixture
def dagm_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dagm, "DAGM_TEN", (1,))
    monkeypatch.setattr(dagm, "DAGM_SIZE", (24, 32))
    monkeypatch.setattr(dagm, "dagm_numbers", lambda _: {"Train": range(4, 7), "Test": range(1, 4)})
    monkeypatch.setattr(dagm, "dagm_counts", lambda _: {"Train": Counts(1, 2), "Test": Counts(2, 1)})
    write_dagm_half(tmp_path / "dagm" / "Class1" / "Train", 1, 2, first=4)
    write_dagm_half(tmp_path / "dagm" / "Class1" / "Test", 2, 1)
    return tmp_path / "dagm"


@pytest.fixture
def steel_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(steel, "STEEL_COUNTS", Counts(3, 2))
    write_steel(tmp_path / "steel", [(3,), (1, 3), (4,)], 2)
    return tmp_path / "steel"


@pytest.fixture(params=["ksdd2", "ksdd", "dagm", "steel"])
def tree(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(f"{request.param}_tree")


def test_as_published(tree: tuple[str, Path], check: Callable) -> None:
    name, root = tree
    code, out, err = check(name, "--data-root", root)
    assert (code, err) == (0, "") and out[0] == f"{FACTS[name].title} in {root}"
    assert out[-1].endswith("files read: as published")


def test_the_table(dagm_tree: Path, ksdd_tree: Path, check: Callable) -> None:
    _, out, _ = check("dagm", "--data-root", dagm_tree)
    assert [line.split() for line in out[1:6]] == [
        ["published", "found"],
        ["part", "defective", "defect-free", "defective", "defect-free", "unreadable"],
        ["Class1/Train", "1", "2", "1", "2", "0"],
        ["Class1/Test", "2", "1", "2", "1", "0"],
        ["sum", "3", "3", "3", "3", "0"],
    ]
    assert out[-1] == "9 files read: as published"  # six images, three masks
    _, out, _ = check("ksdd", "--data-root", ksdd_tree)
    assert out[3].split() == ["all", "2", "13", "2", "13", "0"] and "kos01 = kos26" in out[4]


def unlink(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def redraw(size: tuple[int, int], value: int = 1) -> Callable[[Path], None]:
    """An image of another size, or with other content: with value 0 it marks nothing."""
    return lambda path: Image.fromarray(spot(size, value)).save(path)


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def append(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(path.read_text() + text)


def copy_to(name: str) -> Callable[[Path], None]:
    return lambda path: shutil.copyfile(path, path.with_name(name)) and None


def cut_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


DAMAGES = [
    # data set, file, what happens to it, the only line of the report, its kind
    ("ksdd2", "train/10003.png", unlink, "train/10003.png: published, found no such file", "missing"),
    ("ksdd2", "train/10003_GT.png", unlink, "train/10003.png: expected its mask 10003_GT.png", "without its mask"),
    ("ksdd2", "train/10003_GT.png", copy_to("10007_GT.png"), "train/10007_GT.png: expected its image 10007.png",
     "mask without image"),
    ("ksdd2", "train/10003.png", copy_to("new.png"), "train/new.png: no such image was published", "not published"),
    ("ksdd2", "test/20001.png", empty, "test/20001.png: expected an image, got an empty file", "unreadable"),
    ("ksdd2", "test/20001.png", truncate, "test/20001.png: cannot be read as an image", "unreadable"),
    ("ksdd2", "test/20000_GT.png", truncate, "test/20000_GT.png: cannot be read as an image", "unreadable"),
    ("ksdd2", "test/20000_GT.png", redraw((48, 24)),
     "test/20000_GT.png: expected the size of its image, 40x24, got 48x24", "another size"),
    ("ksdd2", "test", shutil.rmtree, "test: published, found no such folder", "missing"),
    ("ksdd", "kos01/Part3.jpg", unlink, "kos01/Part3.jpg: published, found no such file", "missing"),
    ("ksdd", "kos01/Part3_label.bmp", unlink, "kos01/Part3.jpg: expected its mask Part3_label.bmp", "without its mask"),
    ("ksdd", "kos01/Part3.jpg", redraw((44, 24)), "kos01/Part3.jpg: expected 38x24 to 42x24", "another size"),
    ("ksdd", "kos01/Part3_label.bmp", redraw((44, 24), 0), "kos01/Part3_label.bmp: expected the size", "another size"),
    ("ksdd", "kos01", shutil.rmtree, "kos01: published, found no such folder", "missing"),
    ("dagm", "Class1/Train/0006.PNG", unlink, "Class1/Train/0006.PNG: published, found no such file", "missing"),
    ("dagm", "Class1/Train/Label/0004_label.PNG", unlink, "Class1/Train/0004.PNG: ", "without its mask"),
    ("dagm", "Class1/Test/Label/0001_label.PNG", redraw((24, 32), 0),
     "Class1/Test/Label/0001_label.PNG: marks no pixel, yet its image counts as defective", "contradiction"),
    ("dagm", "Class1/Test/Label/0001_label.PNG", copy_to("0003_label.PNG"),
     "Class1/Test/Label/0003_label.PNG: ", "listing"),
    ("dagm", "Class1/Test/Label/0001_label.PNG", copy_to("0009_label.PNG"),
     "Class1/Test/Label/0009_label.PNG: expected its image 0009.PNG", "mask without image"),
    ("dagm", "Class1/Test/0003.PNG", redraw((32, 32)), "Class1/Test/0003.PNG: expected 24x32 ", "another size"),
    ("dagm", "Class1/Test", shutil.rmtree, "Class1/Test: published, found no such folder", "missing"),
    ("steel", "train_images/d1.jpg", unlink, "train_images/d1.jpg: named in line 3 of train.csv", "missing"),
    ("steel", "train_images/g1.jpg", unlink, "train_images: 1 more of the 5 published images", "missing"),
    ("steel", "train_images/g1.jpg", truncate, "train_images/g1.jpg: cannot be read as an image", "unreadable"),
    ("steel", "train_images/g1.jpg", redraw((256, 1608)), "train_images/g1.jpg: expected 256x1600 ", "another size"),
    ("steel", "train.csv", replace("d2.jpg,4,", "d2.jpg,4,7 "), "train.csv, line 5 (d2.jpg): expected pairs",
     "unreadable"),
    ("steel", "train.csv", replace("d1.jpg,3,", "d1.jpg,3,0 1 "),
     "train.csv, lines 3, 4 (d1.jpg): line 4: expected runs within", "unreadable"),
    ("steel", "train.csv", append("d2.jpg,4,1 2\n"), "train.csv: line 6: a second row of class 4 of d2.jpg", "listing"),
    # defective images that turn into defect-free ones, though every file can be read
    ("ksdd2", "train/10000_GT.png", redraw((40, 24), 0),
     "train: expected 2 defective + 3 defect-free images, found 1 + 4", "other counts"),
    ("ksdd2", "test/20002_GT.png", redraw((40, 24)), "test: expected 1 defective + 2 defect-free images, found 2 + 1",
     "other counts"),
    ("ksdd", "kos01/Part0_label.bmp", redraw((40, 24), 0),
     "all: expected 2 defective + 13 defect-free images, found 1 + 14", "other counts"),
    ("dagm", "Class1/Train/Label", shutil.rmtree,
     "Class1/Train: expected 1 defective + 2 defect-free images, found 0 + 3", "other counts"),
    ("steel", "train.csv", cut_last_line, "train_images: expected 3 defective + 2 defect-free images, found 2 + 3",
     "other counts"),
]


@pytest.mark.parametrize("name, victim, damage, line, kind", DAMAGES)
def test_damage(name: str, victim: str, damage: Callable, line: str, kind: str, request, tmp_path, check) -> None:
    root = request.getfixturevalue(f"{name}_tree")
    damage(root / victim)
    code, out, err = check(name, "--data-root", root, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (code, err) == (1, "") and len(report["problems"]) == 1 and report["complete"] is False
    assert report["problems"][0]["kind"] == kind
    assert out[-1].endswith(f": 1 problem (1 {kind})") and out[0].startswith(line)
    assert out[0] == f"{report['problems'][0]['path']}: {report['problems'][0]['text']}"


def test_several_problems_and_the_rest_is_counted(ksdd2_tree: Path, check: Callable) -> None:
    unlink(ksdd2_tree / "train" / "10004.png")
    unlink(ksdd2_tree / "train" / "10000_GT.png")
    empty(ksdd2_tree / "train" / "10002.png")
    code, out, _ = check("ksdd2", "--data-root", ksdd2_tree)
    assert out[6].split() == ["train", "2", "3", "1", "1", "2"]
    assert out[-1].endswith("3 problems (1 missing, 1 without its mask, 1 unreadable)") and code == 1


def test_the_report_for_programs(dagm_tree: Path, check: Callable, tmp_path: Path) -> None:
    assert check("dagm", "--data-root", dagm_tree, "--json", tmp_path / "new" / "report.json")[0] == 0
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report == {
        "dataset": "dagm", "data_root": str(dagm_tree), "complete": True, "files": 9, "problems": [], "notes": [],
        "parts": {half: {"published": counts, "found": counts, "unreadable": 0} for half, counts in
                  (("Class1/Train", {"defective": 1, "good": 2}), ("Class1/Test", {"defective": 2, "good": 1}))},
    }


# what is said beside the problems

def test_dagm_classes(dagm_tree: Path, monkeypatch: pytest.MonkeyPatch, check: Callable) -> None:
    monkeypatch.setattr(dagm, "DAGM_TEN", (1, 2, 3))
    monkeypatch.setattr(dagm, "DAGM_SIX", (1, 2))
    code, out, _ = check("dagm", "--data-root", dagm_tree)
    assert code == 1 and out[:2] == [f"Class{number}: published, found no such folder" for number in (2, 3)]
    shutil.copytree(dagm_tree / "Class1", dagm_tree / "Class2")
    code, out, _ = check("dagm", "--data-root", dagm_tree)
    assert code == 0 and any("version of six classes" in line for line in out)
    (dagm_tree / "Class1" / "Test" / "Label" / "Labels.txt").unlink()
    code, out, _ = check("dagm", "--data-root", dagm_tree)
    assert code == 0 and any("Class1/Test/Label/Labels.txt is missing" in line for line in out)


def test_ksdd2_copies_are_named(ksdd2_tree: Path, check: Callable) -> None:
    for name in ("10301 (copy).png", "10301_GT (copy).png"):
        write_gray(ksdd2_tree / "train" / name, noise(1, (40, 24)))
    code, out, _ = check("ksdd2", "--data-root", ksdd2_tree)
    assert code == 0 and any("10301 (copy).png, 10301_GT (copy).png are in the published archive" in s for s in out)


def test_names_that_are_no_text(ksdd2_tree: Path, check: Callable) -> None:
    shutil.copyfile(ksdd2_tree / "train" / "10000.png", os.fsencode(ksdd2_tree) + b"/train/\xff.png")
    code, out, err = check("ksdd2", "--data-root", ksdd2_tree)
    assert (code, err) == (1, "") and out[0] == (
        "train/\\udcff.png: no such image was published: remove it, or training takes it in")


def test_a_split_file_names_good_images_that_are_missing(steel_tree: Path, tmp_path: Path, check: Callable) -> None:
    unlink(steel_tree / "train_images" / "g1.jpg")
    split = tmp_path / "split_1_1.pyb"
    split.write_bytes(pickle.dumps([[("d0", True), ("g0", True)], [("g1", True)], [("d1", True)]]))
    code, out, _ = check("steel", "--data-root", steel_tree, "--split-file", split)
    assert code == 1 and out[0] == f"train_images/g1.jpg: named in {split}, found no such file"


def test_the_older_train_csv_names_all_images(steel_tree: Path, check: Callable) -> None:
    rows = (steel_tree / "train.csv").read_text().splitlines()[1:]
    lines = ["ImageId_ClassId,EncodedPixels"] + ["{}_{},{}".format(*row.split(",")) for row in rows]
    (steel_tree / "train.csv").write_text("\n".join([*lines, "g0.jpg_1,", "g1.jpg_1,"]))
    assert check("steel", "--data-root", steel_tree)[0] == 0
    unlink(steel_tree / "train_images" / "g1.jpg")
    code, out, _ = check("steel", "--data-root", steel_tree)
    assert code == 1 and out[0].startswith("train_images/g1.jpg: named in line 7 of train.csv")


# wrong flags

@pytest.mark.parametrize("arguments, named", [
    ("ksdd2", "--data-root: expected the folder of KolektorSDD2, none was given"),
    ("ksdd2 --data-root nowhere", "--data-root: expected the folder of KolektorSDD2, found no folder nowhere"),
    ("ksdd2 --data-root .", ".: expected the folders train and test"),
    ("ksdd --data-root .", ".: expected folders kos01"),
    ("dagm --data-root .", ".: expected folders Class1 to Class10"),
    ("steel --data-root .", "train.csv: expected the masks of Severstal steel"),
    ("synthetic --data-root .", "argument name: invalid choice: 'synthetic'"),
    ("ksdd2 --data-root . --split-file x.pyb", "--split-file is for steel"),
    ("ksdd2 --data-root . --json .", "--json .: expected a file to write, found a folder"),
    ("ksdd2 --data-root . --json file/report.json", "file is a file"),
])
def test_wrong_flags(arguments: str, named: str, here: Path, check: Callable) -> None:
    (here / "file").write_text("mine")
    code, out, err = check(*arguments.split())
    assert (code, out) == (2, []) and err.startswith("error: ") and named in err and err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["file"]


def test_every_published_data_set_can_be_checked() -> None:
    assert set(datasets.CHECKED) == {name for name, facts in FACTS.items() if facts.num_segmented}


# the published size

def test_full_size(tmp_path: Path, check: Callable) -> None:
    root = published_trees.write_ksdd2(tmp_path / "ksdd2")
    code, out, _ = check("ksdd2", "--data-root", root)
    assert code == 0 and out[-1] == "6670 files read: as published"
    assert [line.split() for line in out[3:6]] == [["train", "246", "2085", "246", "2085", "0"],
                                                   ["test", "110", "894", "110", "894", "0"],
                                                   ["sum", "356", "2979", "356", "2979", "0"]]


@pytest.mark.parametrize("name, module, items", [("ksdd", ksdd, 399), ("dagm", dagm, 16100), ("steel", steel, 12568)])
def test_names_of_the_full_size(name: str, module, items: int, tmp_path: Path) -> None:
    listed = module.inventory(getattr(published_trees, f"write_{name}")(tmp_path / name))
    assert listed.problems == [] and len(listed.items) == items
    assert sum(map(sum, listed.published.values())) == items


def test_six_classes_are_a_version_of_their_own(tmp_path: Path) -> None:
    listed = dagm.inventory(published_trees.write_dagm(tmp_path, DAGM_SIX))
    assert listed.problems == [] and len(listed.items) == 6900 and "six classes" in listed.notes[0]


def test_an_interruption_waits_for_a_few_images_only(ksdd2_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ksdd2.inventory(ksdd2_tree)
    listed.items *= 200
    read = []

    def interrupted(item, root):
        read.append(item)
        if len(read) == 3:
            raise KeyboardInterrupt
        return 0, []

    monkeypatch.setattr(inventory, "_examine_item", interrupted)
    with pytest.raises(KeyboardInterrupt):
        examine(listed, progress=False)
    assert len(read) <= 2 * inventory._AHEAD


# real images

@pytest.mark.skipif("MFFPA_DATA" not in os.environ, reason="MFFPA_DATA names no folder with real images")
def test_real_images(check: Callable) -> None:
    root = Path(os.environ["MFFPA_DATA"])
    if not (root / "KolektorSDD").is_dir() or not (root / "DAGM").is_dir():
        pytest.skip(f"needs KolektorSDD and DAGM in {root}")
    code, out, _ = check("ksdd", "--data-root", root / "KolektorSDD")
    if len(list((root / "KolektorSDD").glob("kos*"))) == 50:
        assert code == 0 and out[3].split() == ["all", "52", "347", "52", "347", "0"]
    _, out, _ = check("dagm", "--data-root", root / "DAGM")
    assert not any(word in out[-1] for word in ("unreadable", "size", "contradiction", "listing", "not published"))
    assert np.shape(Image.open(next((root / "DAGM").rglob("0*.PNG")))) == (512, 512)
