"""The published counts: of the layouts in full size, of MixSup's split files, and of what the seed draws instead."""

import pickle
from pathlib import Path

import pytest

from mffpa_ext.data import ksdd
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.loading import DATASETS
from mffpa_ext.data.published import DAGM_SIX, DAGM_TEN, dagm_counts
from mffpa_ext.data.split_files import load_plain_pickle, read_split
from mffpa_ext.data.splits import choose_annotated
from mffpa_ext.errors import UserError

from . import published_trees
from .conftest import real_folder


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {name: getattr(published_trees, f"write_{name}")(root / name) for name in ("ksdd", "ksdd2", "dagm", "steel")}


def lay_out(dataset, root, seed=0, **settings):
    settings |= {"split_file": str(settings["split_file"])} if "split_file" in settings else {}
    return DATASETS[dataset].build(resolve(DataConfig(dataset, str(root), **settings)), seed, False)


def counts(records):
    """Images, defective ones, and those of them that may use their mask."""
    return len(records), sum(r.label for r in records), sum(r.label and r.annotated for r in records)


def folders(records):
    return {record.folder for record in records}


def names(records):
    return {record.name for record in records}


# without a split file

@pytest.mark.parametrize("seed", [0, 1])
def test_ksdd_folds_have_the_published_sizes(trees, seed):
    layouts = [lay_out("ksdd", trees["ksdd"], seed, fold=fold) for fold in range(3)]
    assert [len(folders(layout.train)) for layout in layouts] == [33, 33, 34]
    assert [len(folders(layout.test)) for layout in layouts] == [17, 17, 16]
    assert all(len(layout.train) + len(layout.test) == 399 for layout in layouts)
    assert sum(record.label for layout in layouts for record in layout.test) == 52


def test_ksdd2_parts(trees):
    layout = lay_out("ksdd2", trees["ksdd2"])
    assert counts(layout.train)[:2] == (2331, 246) and counts(layout.test)[:2] == (1004, 110) and layout.official
    for number in FACTS["ksdd2"].num_segmented:
        assert counts(choose_annotated(layout.train, number, 0))[2] == number


@pytest.mark.parametrize("number", DAGM_TEN)
def test_dagm_halves(trees, number):
    layout = lay_out("dagm", trees["dagm"], dagm_class=number)
    images, train, test = (575, *dagm_counts(number).values()) if number <= 6 else (1150, (150, 1000), (150, 1000))
    assert counts(layout.train)[:2] == (images, train[0]) and counts(layout.test)[:2] == (images, test[0])
    assert sum(train) == sum(test) == images


def test_dagm_class_lists():
    assert DAGM_TEN == tuple(range(1, 11)) and DAGM_SIX == tuple(range(1, 7))
    halves = [dagm_counts(number) for number in DAGM_TEN]
    assert [sum(half[name].defective for half in halves) for name in ("Train", "Test")] == [1046, 1054]
    # The images that the paper counts.
    assert sum(sum(dagm_counts(number)["Train"]) for number in DAGM_SIX) == 3450


@pytest.mark.parametrize("positives, train", [(300, 4443), (750, 4893), (1500, 5643), (3000, 7143), (None, 7143)])
def test_steel_lists(trees, positives, train):
    layout = lay_out("steel", trees["steel"], steel_positives=positives)
    assert counts(layout.train)[:2] == (train, positives or 3000)
    assert counts(layout.test)[:2] == (2400, 1200) and counts(layout.validation)[:2] == (1118, 559)
    parts = [names(part) for part in (layout.train, layout.test, layout.validation)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert not layout.official and f"{positives or 3000} + 4143 images for training" in layout.notes[0]


def test_steel_lists_differ_by_the_training_positives_alone(trees):
    small, large = (lay_out("steel", trees["steel"], steel_positives=number) for number in (300, 3000))
    assert small.test == large.test and small.validation == large.validation
    assert names(small.train) < names(large.train)
    assert names(lay_out("steel", trees["steel"], seed=1).test) != names(large.test)
    # Defects of class 3 alone, as in MixSup's lists.
    for record in [*large.train, *large.test, *large.validation]:
        assert not record.label or record.image.stem < "d00004759"


def test_steel_has_no_more_than_the_published_images(trees):
    assert counts(lay_out("steel", trees["steel"], steel_positives=3000).train)[1] == 3000
    with pytest.raises(UserError, match="--steel-positives: expected at most 3000, .*of 4759 .*got 3001"):
        lay_out("steel", trees["steel"], steel_positives=3001)


# MixSup's split files

def test_published_files_are_all_read(real_data):
    for folder, dataset in (("KSDD", "ksdd"), ("KSDD2", "ksdd2"), ("DAGM", "dagm"), ("STEEL", "steel")):
        files = sorted(real_folder(real_data, "mixsup_splits", folder).glob("*.pyb"))
        assert files
        for path in files:
            assert all(read_split(path, dataset))


@pytest.mark.parametrize("marked", FACTS["ksdd2"].num_segmented)
def test_published_ksdd2_files(real_data, tmp_path, marked):
    folder = real_folder(real_data, "mixsup_splits", "KSDD2")
    train, test = read_split(folder / "split_0.pyb", "ksdd2")
    good_flags = {name for name, flag in train if flag}  # at N = 0 the positives are those without a mask
    positives = {"train": {name for name, _ in train} - good_flags, "test": {name for name, _ in test[:110]}}
    root = published_trees.write_ksdd2(tmp_path / "ksdd2", positives)
    layout = lay_out("ksdd2", root, split_file=folder / f"split_{marked}.pyb")
    assert counts(layout.train) == (2331, 246, marked) and len(layout.test) == 1004


@pytest.mark.parametrize("fold", range(3))
@pytest.mark.parametrize("marked", FACTS["ksdd"].num_segmented)
def test_published_ksdd_files(trees, real_data, fold, marked):
    folder = real_folder(real_data, "mixsup_splits", "KSDD")
    layout = lay_out("ksdd", trees["ksdd"], split_file=folder / f"split_33_{marked}.pyb", fold=fold)
    assert (len(folders(layout.train)), len(folders(layout.test))) == [(33, 17), (33, 17), (34, 16)][fold]
    annotated = {record.folder for record in layout.train if record.label and record.annotated}
    assert len(annotated) == (34 if (marked, fold) == (33, 2) else marked)


def test_published_dagm_files_have_the_counts_of_the_classes(real_data):
    folder = real_folder(real_data, "mixsup_splits", "DAGM")
    for marked in FACTS["dagm"].num_segmented:
        for number in DAGM_TEN:
            train, test = read_split(folder / f"split_{marked}.pyb", "dagm", number - 1)
            positives = dagm_counts(number)["Train"].defective
            assert (len(train), len(test)) == ((575, 575) if number in DAGM_SIX else (1150, 1150))
            assert sum(flag for _, flag in train) == len(train) - positives + min(marked, positives)


@pytest.mark.parametrize("positives, marked", [(300, 10), (750, 750), (1500, 0), (3000, 750)])
def test_published_steel_files(real_data, tmp_path, positives, marked):
    folder = real_folder(real_data, "mixsup_splits", "STEEL")
    train, test, validation = read_split(folder / "split_3000_0.pyb", "steel")
    # Defective images come first in every list, in order of their names, then the others.
    split = [([stem for stem, _ in part[:n]], [stem for stem, _ in part[n:]])
             for part, n in ((train, 3000), (test, 1200), (validation, 559))]
    root = published_trees.write_steel(tmp_path / "steel", *(sum(kind, []) for kind in zip(*split, strict=True)))
    layout = lay_out("steel", root, split_file=folder / f"split_{positives}_{marked}.pyb")
    assert counts(layout.train) == (4143 + positives, positives, marked)
    assert counts(layout.test) == (2400, 1200, 1200) and counts(layout.validation) == (1118, 559, 559)
    assert layout.official and layout.flags_fixed
    with pytest.raises(UserError, match=f"--steel-positives: .*lists {positives} defective training images, got 42"):
        lay_out("steel", root, split_file=folder / f"split_{positives}_{marked}.pyb", steel_positives=42)


def test_published_ksdd_twins_lie_on_both_sides(real_data):
    content = load_plain_pickle(real_folder(real_data, "mixsup_splits", "KSDD") / "split_33_33.pyb")
    sides = [{name: side for side, part in (("train", train), ("test", test)) for name, _ in part}
             for train, test in zip(*content, strict=True)]
    assert all(any(fold[first] != fold[second] for fold in sides) for first, second in ksdd.KSDD_TWINS)


def test_a_split_file_in_full_size(trees, tmp_path):
    """Without the real files: the structure of KSDD2's, numbers and all."""
    train = [(number, number % 5 == 0) for number in range(10000, 12331)]
    path = tmp_path / "split_x.pyb"
    path.write_bytes(pickle.dumps([train, [(number, True) for number in range(20000, 21004)]]))
    layout = lay_out("ksdd2", trees["ksdd2"], split_file=path)
    assert counts(layout.train) == (2331, 246, len(range(10000, 10246, 5))) and counts(layout.test)[:2] == (1004, 110)
