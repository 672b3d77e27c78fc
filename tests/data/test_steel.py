"""Severstal steel in the published layout: both forms of train.csv, lists, and every way in which it may be damaged."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.data import steel
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.loading import load_part, load_splits
from mffpa_ext.data.published import Counts
from mffpa_ext.data.steel import read_annotations
from mffpa_ext.errors import UserError

from .conftest import STEEL_SIZE, run_lengths, steel_spot

pytestmark = pytest.mark.usefixtures("small_steel_lists")


def load(root, seed=0, **settings):
    settings = {"image_size": (64, 400), "steel_positives": 5, **settings}
    return load_splits(DataConfig("steel", str(root), **settings), seed, progress=False)


def counts(part):
    return len(part), int(part.labels.sum()), int(part.annotated[part.labels == 1].sum())


def rewrite(root, change):
    path = root / "train.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


# lists drawn by the seed

def test_lists(steel_root):
    splits = load(steel_root, num_segmented=2)
    assert counts(splits.train) == (12, 5, 2) and counts(splits.validation) == (5, 2, 2)
    assert counts(splits.test) == (7, 3, 3) and splits.channels == 1 and not splits.official
    names = [set(part.names) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*names)) == 24 and not {"d2.jpg", "d5.jpg"} & set.union(*names)  # other classes
    assert any("5 + 7 images for training, 2 + 3 for validation and 3 + 4 for the test" in note
               and "drawn by seed 0" in note for note in splits.notes)


def test_a_part_alone_is_that_of_the_whole(steel_root):
    whole = load(steel_root)
    config = DataConfig("steel", str(steel_root), image_size=(64, 400), steel_positives=5)
    for name, expected in (("test", whole.test), ("validation", whole.validation)):
        part = load_part(config, 0, name, progress=False)
        assert part.dataset.names == expected.names and set(part.notes) <= set(whole.notes)


def test_validated_on_the_test_images(steel_root):
    splits = load(steel_root, validate_on="test")
    assert splits.validation is splits.test and counts(splits.train) == (12, 5, 5)
    assert any("optimistic" in note for note in splits.notes)


@pytest.mark.parametrize("settings, match", [
    ({"steel_positives": 6}, "--steel-positives: expected at most 5, which test and validation leave of 10"),
    ({"steel_positives": 0}, "--steel-positives: expected 1 or more, got 0"),
    ({"val_fraction": 0.2}, "--val-fraction: steel has a validation list of its own"),
    ({"num_segmented": 6}, "--num-segmented: expected at most 5"),
])
def test_settings_that_do_not_fit(steel_root, settings, match):
    with pytest.raises(UserError, match=match):
        load(steel_root, **settings)


def test_too_few_images(steel_root, monkeypatch):
    monkeypatch.setattr(steel, "STEEL_TEST", Counts(3, 20))
    with pytest.raises(UserError, match="more than 5 images .*and 23 without defects.*found 10 and 14"):
        load(steel_root)


def test_the_number_of_positives_is_resolved():
    assert resolve(DataConfig("steel", "x")).steel_positives == 3000
    assert resolve(DataConfig("steel", "x", steel_positives=300)).steel_positives == 300
    assert resolve(DataConfig("steel", "x", split_file="y.pyb")).steel_positives is None
    assert resolve(DataConfig()).steel_positives is None
    with pytest.raises(UserError, match="--steel-positives is for --dataset steel"):
        resolve(DataConfig("ksdd2", "x", steel_positives=300))


# split files

@pytest.fixture
def split_file(tmp_path):
    train = [("d0", True), ("d2", False), ("d5", False), ("g0", True), ("g1", True)]
    test, validation = [("d1", True), ("g2", True)], [("d3", True), ("g3", True), ("g4", True)]
    path = tmp_path / "split_3_1.pyb"
    path.write_bytes(pickle.dumps([train, test, validation]))
    return str(path)


def test_split_file(steel_root, split_file):
    splits = load(steel_root, split_file=split_file, steel_positives=None)
    assert splits.train.names == ["d0.jpg", "d2.jpg", "d5.jpg", "g0.jpg", "g1.jpg"] and splits.official
    assert splits.train.annotated.tolist() == [True, False, False, True, True]
    assert splits.test.names == ["d1.jpg", "g2.jpg"] and splits.validation.names == ["d3.jpg", "g3.jpg", "g4.jpg"]
    assert "split: the lists of split_3_1.pyb" in splits.notes
    load(steel_root, split_file=split_file, steel_positives=3)
    with pytest.raises(UserError, match="--steel-positives: .*lists 3 defective training images, got 5"):
        load(steel_root, split_file=split_file)


def test_the_test_list_needs_no_other_images(steel_root, split_file):
    for name in ("d0", "g0", "d3"):
        (steel_root / "train_images" / f"{name}.jpg").unlink()
    config = DataConfig("steel", str(steel_root), image_size=(64, 400), split_file=split_file)
    assert load_part(config, 0, "test", progress=False).dataset.names == ["d1.jpg", "g2.jpg"]
    with pytest.raises(UserError, match=r"train_images/d0.jpg: listed in .*\(and 1 more\), found no such file"):
        load_part(config, 0, "validation", progress=False)


def test_an_image_in_two_lists_is_refused(steel_root, tmp_path):
    path = tmp_path / "split.pyb"
    path.write_bytes(pickle.dumps([[("d0", True)], [("d1", True)], [("d0", True)]]))
    with pytest.raises(UserError, match="expected a STEEL split.*d0 in train and in validation"):
        load(steel_root, split_file=str(path), steel_positives=None)


# masks

def older_form(lines):
    """Four rows for every image, the pixels empty where there is no defect of the class."""
    pixels = {}
    for line in lines[1:]:
        image, number, text = line.split(",")
        pixels[image, number] = text
    images = [f"d{index}.jpg" for index in range(12)] + [f"g{index}.jpg" for index in range(14)]
    return ["ImageId_ClassId,EncodedPixels"] + [f"{image}_{number},{pixels.get((image, str(number)), '')}"
                                                for image in images for number in range(1, 5)]


@pytest.mark.parametrize("change", [lambda lines: lines, older_form,
                                    lambda lines: ["\ufeff" + lines[0], *lines[1:]],
                                    lambda lines: [line + "\r" for line in lines],
                                    lambda lines: [*lines, "g0.jpg,1,", ""]])
def test_both_forms_say_the_same(steel_root, change):
    rewrite(steel_root, change)
    splits = load(steel_root, seed=3)
    assert counts(splits.train) == (12, 5, 5)
    for dataset in (splits.train, splits.validation, splits.test):
        for index, name in enumerate(dataset.names):
            number = int(name[1:-4])
            expected = steel_spot(number) if name.startswith("d") else np.zeros(STEEL_SIZE, np.uint8)
            mask = dataset.records[index].mask
            assert (mask is None) == (name.startswith("g"))
            assert mask is None or np.array_equal(mask.read(), expected)


def test_rows_of_one_image_are_united(steel_root, split_file):
    splits = load(steel_root, split_file=split_file, steel_positives=None)
    assert np.array_equal(splits.train.records[1].mask.read(), steel_spot(2) | steel_spot(3))
    covered = splits.test.sample(0).mask.float().mean()
    assert covered == pytest.approx(steel_spot(1).mean(), rel=0.1)


def damaged_row(text):
    return lambda lines: [f"d0.jpg,3,{text}" if line.startswith("d0.jpg") else line for line in lines]


@pytest.mark.parametrize("text, problem", [
    ("1 2 3", "an odd count of numbers, 3"), ("1 two", "whole numbers, got 'two'"),
    ("409600 2", "runs within pixels 1 to 409600 of 256x1600"), ("5 10 8 2", "an overlap of the runs at 5 and 8")])
def test_damaged_rows_are_found_before_training(steel_root, split_file, text, problem):
    rewrite(steel_root, damaged_row(text))
    with pytest.raises(UserError, match=rf"train.csv, line 2 \(d0.jpg\): expected .*{problem}") as error:
        load(steel_root, split_file=split_file, steel_positives=None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, problem", [
    (lambda lines: ["Image,Class,Pixels", *lines[1:]], "expected the columns ImageId,ClassId,EncodedPixels or"),
    (lambda lines: lines[1:], "expected the columns"),
    (lambda lines: [*lines, "d0.jpg,3"], "line 15: expected 3 columns, got 2"),
    (lambda lines: [*lines, "d0.jpg,5,1 2"], "line 15: expected a class from 1 to 4, got '5'"),
    (lambda lines: [*lines, "d0.jpg,x,1 2"], "line 15: expected a class from 1 to 4, got 'x'"),
    (lambda lines: [*lines, "d0.jpg,²,1 2"], "line 15: expected a class from 1 to 4, got '²'"),
    (lambda lines: [*lines, "../d0.jpg,3,1 2"], "line 15: expected the name of an image"),
    (lambda lines: [*lines, "d99.jpg,3,1 2"], "d99.jpg: named in line 15 of train.csv, found no such file"),
])
def test_damaged_listings(steel_root, change, problem):
    rewrite(steel_root, change)
    with pytest.raises(UserError, match=problem) as error:
        load(steel_root)
    assert "\n" not in str(error.value) and str(steel_root) in str(error.value)


def test_a_listing_that_is_no_text(steel_root):
    (steel_root / "train.csv").write_bytes(b"ImageId,ClassId,EncodedPixels\n\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="train.csv: expected a table of text"):
        load(steel_root)


def test_long_rows(tmp_path):
    """Longer than the csv module takes."""
    checkers = np.indices(STEEL_SIZE).sum(axis=0) % 2
    text = run_lengths(checkers)
    assert len(text) > 131072
    (tmp_path / "train.csv").write_text(f"ImageId,ClassId,EncodedPixels\na.jpg,3,{text}\n")
    assert read_annotations(tmp_path / "train.csv")["a.jpg"].rows == [(2, 3, text)]


@pytest.mark.parametrize("victim, damage, expected", [
    ("train.csv", lambda path: path.unlink(), "train.csv: expected the masks of Severstal steel"),
    ("train_images", shutil.rmtree, "train_images: expected the training images of Severstal steel"),
    ("train_images/d0.jpg", lambda path: path.write_bytes(b""), "d0.jpg: expected an image, got an empty file"),
    ("train_images/d0.jpg", lambda path: path.write_bytes(path.read_bytes()[:900]), "d0.jpg: cannot be read"),
    ("train_images/d0.jpg", lambda path: Image.new("L", (800, 128)).save(path),
     r"train.csv, line 2 \(d0.jpg\): expected the size of its image .*d0.jpg, 128x800.*got 256x1600"),
])
def test_damaged_files(steel_root, split_file, victim, damage, expected):
    damage(steel_root / victim)
    with pytest.raises(UserError, match=expected) as error:
        load(steel_root, split_file=split_file, steel_positives=None)
    assert "\n" not in str(error.value)


def test_an_empty_folder(steel_root):
    for path in (steel_root / "train_images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="train_images: expected images such as 0002cc93b.jpg, found none"):
        load(steel_root)
