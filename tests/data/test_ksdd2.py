"""KolektorSDD2 in the published layout, and every way in which it may be damaged."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.loading import load_part, load_splits, plan_splits
from mffpa_ext.errors import UserError

from .conftest import noise, spot, write_gray


def load(root, seed=0, **settings):
    settings = {"image_size": (40, 24), **settings}
    return load_splits(DataConfig("ksdd2", str(root), **settings), seed, progress=False)


def counts(part):
    return len(part), int(part.labels.sum()), int(part.annotated[part.labels == 1].sum())


def test_parts_as_published(ksdd2_root):
    splits = load(ksdd2_root)
    assert counts(splits.train) == (13, 5, 5) and counts(splits.test) == (7, 3, 3)
    assert splits.official and splits.channels == 3 and splits.validation is None
    assert splits.train.names[0] == "train/10000.png" and splits.test.names[-1] == "test/20006.png"
    assert splits.notes == ["split: train and test as published"]
    with Image.open(ksdd2_root / "train" / "10000.png") as image:
        assert np.array_equal(splits.train[0]["image"].permute(1, 2, 0).numpy(), np.asarray(image))
    assert torch.equal(splits.train.sample(0).mask, torch.from_numpy(spot((40, 24), 1)))


def test_images_have_the_published_defaults(ksdd2_root):
    splits = load(ksdd2_root, image_size=None)
    spec = splits.train.target_spec
    assert splits.image_size == (640, 232) and (spec.dilate, spec.weight, spec.power) == (15, 3.0, 2.0)


@pytest.mark.parametrize("number", [0, 2, 5])
def test_masks_drawn_by_the_seed(ksdd2_root, number):
    splits = load(ksdd2_root, num_segmented=number)
    assert counts(splits.train) == (13, 5, number) and counts(splits.test) == (7, 3, 3)
    assert any(f"the {number} defective training images that have one were drawn by seed 0" in note
               for note in splits.notes) == (number > 0)
    with pytest.raises(UserError, match="--num-segmented: expected at most 5.*got 6"):
        load(ksdd2_root, num_segmented=6)


def write_split(path, train, test):
    path.write_bytes(pickle.dumps([train, test]))
    return str(path)


def test_split_file(ksdd2_root, tmp_path):
    train = [(10012, True), (10001, True), (10003, False), (10006, True)]
    split = write_split(tmp_path / "split_1.pyb", train, [(20000, True), (20006, True)])
    splits = load(ksdd2_root, split_file=split)
    assert splits.train.names == [f"train/{number}.png" for number in (10001, 10003, 10006, 10012)]
    assert splits.train.annotated.tolist() == [True, False, True, True] and counts(splits.test) == (2, 1, 1)
    assert splits.notes == ["split: the lists of split_1.pyb",
                            "pixel masks: 1 of 2 defective training images, as split_1.pyb says"]
    assert load(ksdd2_root, split_file=split, num_segmented=1).notes == splits.notes[:1]
    with pytest.raises(UserError, match="--num-segmented: split_1.pyb marks 1 of 2"):
        load(ksdd2_root, split_file=split, num_segmented=2)
    shutil.rmtree(ksdd2_root / "train")
    config = DataConfig("ksdd2", str(ksdd2_root), image_size=(40, 24), split_file=split)
    assert load_part(config, 0, "test", progress=False).dataset.names == splits.test.names


def test_masks_of_a_split_file_that_go_to_validation_are_told(ksdd2_root, tmp_path):
    split = write_split(tmp_path / "split_4.pyb", [(number, number < 10004) for number in range(10000, 10013)],
                        [(20000, True), (20006, True)])
    splits = load(ksdd2_root, split_file=split, num_segmented=4, val_fraction=0.5)
    left = counts(splits.train)[2]
    assert left < 4 and any(f"{4 - left} of the 4 defective training images with masks aside, {left} are trained on"
                            in note for note in splits.notes)
    assert not any("aside" in note for note in load(ksdd2_root, split_file=split, num_segmented=4).notes)


def test_other_test_images_than_those_of_the_training_are_refused(ksdd2_root):
    config = DataConfig("ksdd2", str(ksdd2_root), image_size=(40, 24))
    held_out = plan_splits(config, 0).held_out
    assert len(load_part(config, 0, "test", progress=False, held_out=held_out).dataset) == 7
    for name in ("20006.png", "20006_GT.png"):
        (ksdd2_root / "test" / name).unlink()
    with pytest.raises(UserError, match="the test images are not those of the training.*--split-file"):
        load_part(config, 0, "test", progress=False, held_out=held_out)
    assert len(load_part(config, 0, "test", progress=False).dataset) == 6


def test_an_n_above_the_positives_of_a_split_file_means_all(ksdd2_root, tmp_path):
    everything = [(number, True) for number in range(10000, 10013)]
    split = write_split(tmp_path / "split_246.pyb", everything, [(20000, True), (20006, True)])
    splits = load(ksdd2_root, split_file=split, num_segmented=246)
    assert counts(splits.train) == (13, 5, 5) and "N = 246 means all 5" in splits.notes[-1]


@pytest.mark.parametrize("train, test, word", [
    ([(10000, True), (10050, True)], [(20000, True)], "10050.png: listed in .*found no such file"),
    ([("10000", True)], [(20000, True)], "the entry"),
    ([(True, True)], [(20000, True)], "the entry"),
    ([(10000, True), (10000, True)], [(20000, True)], "twice"),
    ([(10000, True)], [(10000, True)], "10000 in train and in test"),
    ([], [(20000, True)], "a list of 0"),
])
def test_split_files_that_do_not_fit(ksdd2_root, tmp_path, train, test, word):
    split = write_split(tmp_path / "split.pyb", train, test)
    with pytest.raises(UserError, match=word) as error:
        load(ksdd2_root, split_file=split)
    assert split in str(error.value) and "\n" not in str(error.value)


def test_the_copies_in_the_published_archive_are_passed_over(ksdd2_root):
    before = load(ksdd2_root).train.names
    write_gray(ksdd2_root / "train" / "10301 (copy).png", noise(1, (40, 24)))
    write_gray(ksdd2_root / "train" / "10301_GT (copy).png", spot((40, 24)))
    assert load(ksdd2_root).train.names == before


def unlink(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("victim, damage, expected", [
    ("train/10001_GT.png", unlink, r"10001.png: expected its mask .*10001_GT.png"),
    ("test/20005_GT.png", unlink, r"20005.png: expected its mask .*20005_GT.png"),
    ("train/10001.png", unlink, r"10001_GT.png: expected its image .*10001.png"),
    ("train/10001.png", truncate, r"10001.png: cannot be read"),
    ("train/10001_GT.png", truncate, r"10001_GT.png: cannot be read"),
    ("test/20000.png", lambda path: path.write_bytes(b""), "20000.png: expected an image, got an empty file"),
    ("train/10002_GT.png", lambda path: write_gray(path, spot((48, 24))),
     "10002_GT.png: expected the size of its image .*40x24.*got 48x24"),
])
def test_damaged_files(ksdd2_root, victim, damage, expected):
    damage(ksdd2_root / victim)
    with pytest.raises(UserError, match=expected) as error:
        load(ksdd2_root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_and_empty_folders(ksdd2_root, part):
    shutil.rmtree(ksdd2_root / part)
    with pytest.raises(UserError, match=f"{part}: expected the {part} folder of KolektorSDD2"):
        load(ksdd2_root)
    (ksdd2_root / part).mkdir()
    with pytest.raises(UserError, match=f"{part}: expected images such as [12]0000.png, found none"):
        load(ksdd2_root)
