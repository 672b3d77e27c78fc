"""One's own folder, from files to the data sets of a training."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.loading import load_part, load_plan, plan_splits
from mffpa_ext.errors import UserError

from .conftest import noise, spot, write_gray

SIZE = (40, 48)


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "parts", 20, 10, 4)


def write_folder(root, good, defective, masked):
    for number in range(good):
        write_gray(root / "good" / f"{number:02d}.png", noise(number, SIZE))
    for number in range(defective):
        write_gray(root / "defect" / f"{number:02d}.png", noise(100 + number, SIZE))
        if number < masked:
            write_gray(root / "masks" / f"{number:02d}.png", spot(SIZE))
    return root


def plan(root, seed=0, parts=None, **settings):
    settings = {key: str(value) if key == "split_file" else value for key, value in settings.items()}
    return plan_splits(DataConfig("folder", str(root), **settings), seed, parts)


def load(root, seed=0, **settings):
    return load_plan(plan(root, seed, **settings), progress=False)


def fails(match, root, seed=0, **settings):
    with pytest.raises(UserError, match=match) as error:
        load(root, seed, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def counts(part):
    return None if part is None else (int(part.labels.sum()), int((part.labels == 0).sum()),
                                      int((part.annotated & (part.labels == 1)).sum()))


# from the images to the settings

def test_the_images_decide_what_is_left_open(root):
    planned = plan(root)
    assert (planned.config.image_size, planned.config.channels, planned.channels) == ((40, 48), 1, 1)
    assert planned.found[0] == (f"{root}: 20 defect-free images in good, 10 defective in defect, 4 of them with a mask "
                                f"in masks")
    assert resolve(planned.config) == planned.config
    splits = load_plan(planned, progress=False)
    assert splits.train[0]["image"].shape == (1, 40, 48) and splits.train[0]["target"].shape == (1, 5, 6)


def test_mixed_images_are_read_alike(root):
    """The same picture in every format, bit depth and orientation is the same input."""
    pixels = np.kron(noise(7, (5, 6)), np.ones((8, 8), np.uint8))
    for path in (root / "good").iterdir():
        path.unlink()
    folder, colour = root / "good", np.stack([pixels] * 3, axis=2)
    write_gray(folder / "a.png", pixels), write_gray(folder / "b.bmp", pixels), write_gray(folder / "c.tif", pixels)
    write_gray(folder / "d.png", colour), write_gray(folder / "e.png", np.dstack([colour, pixels // 2]))
    deep = pixels.astype(np.uint16) * 257
    write_gray(folder / "f.png", deep), write_gray(folder / "g.tif", deep)
    Image.fromarray(pixels).convert("P").save(folder / "h größe 部品.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(folder / "i.png", exif=exif)
    Image.fromarray(np.kron(pixels, np.ones((2, 2), np.uint8))).save(folder / "j.png")  # twice the size
    splits = load(root, test_fraction=0, val_fraction=0)
    assert splits.channels == 3 and splits.image_size == SIZE
    first = splits.train.names.index("good/a.png")
    for index, name in enumerate(splits.train.names):
        if name.startswith("good/") and name != "good/j.png":
            assert torch.equal(splits.train[index]["image"], splits.train[first]["image"]), name
    resized = splits.train[splits.train.names.index("good/j.png")]["image"].float()
    assert (resized - splits.train[first]["image"]).abs().mean() < 20


def test_channels_and_bit_depth_by_flag(root):
    write_gray(root / "good" / "00.png", np.full(SIZE, 4095, np.uint16))
    splits = load(root, channels=3, bit_depth=12, test_fraction=0, val_fraction=0)
    image = splits.train[splits.train.names.index("good/00.png")]["image"]
    assert image.shape == (3, *SIZE) and (image == 255).all() and splits.train.bit_depth == 12
    assert "--bit-depth 11" in fails("up to 2047", root, bit_depth=11)


# masks

def test_masks_for_some_are_mixed_supervision(root):
    splits = load(root, test_fraction=0, val_fraction=0)
    assert counts(splits.train) == (10, 20, 4)
    items = {name: item for name, item in zip(splits.train.names, splits.train)}
    assert items["defect/00.png"]["segmented"] and items["defect/00.png"]["target"].max() > 0
    assert not items["defect/09.png"]["segmented"] and items["defect/09.png"]["weight"].max() == 0
    assert items["good/00.png"]["segmented"] and items["good/00.png"]["weight"].min() == 1


@pytest.mark.parametrize("masked", [0, 10])
def test_masks_for_none_or_all(tmp_path, masked):
    splits = load(write_folder(tmp_path, 20, 10, masked))
    assert counts(splits.train) == (6, 13, 6 if masked else 0)
    assert counts(splits.test)[2] == counts(splits.validation)[2] == (2 if masked else 0)
    assert any("learns from labels alone" in note for note in splits.notes) == (masked == 0)
    assert all(sample is not None for sample in map(splits.test.sample, range(len(splits.test))))


def test_n_counts_the_masks_that_are_there(root):
    assert counts(load(root, test_fraction=0, val_fraction=0, num_segmented=3).train) == (10, 20, 3)
    fails("at most 4, the number of defective training images that have a mask.*got 5", root, test_fraction=0,
          val_fraction=0, num_segmented=5)


def test_soft_masks_have_a_threshold(root):
    soft = spot(SIZE, 100)
    soft[14:16, 17:20] = 200
    write_gray(root / "masks" / "00.png", soft)

    def marked(threshold):
        train = load(root, test_fraction=0, val_fraction=0, mask_threshold=threshold).train
        return int(train.sample(train.names.index("defect/00.png")).mask.sum())

    assert (marked(128), marked(90)) == (6, int((soft > 0).sum()))
    assert "lower the threshold" in fails(
        "masks/00.png: .*its largest value is 200 of 255 with --mask-threshold 201", root, mask_threshold=201)


def test_masks_of_zero_and_one(root):
    write_gray(root / "masks" / "00.png", spot(SIZE, 1))
    train = load(root, test_fraction=0, val_fraction=0).train
    assert train.sample(train.names.index("defect/00.png")).mask.sum() == (spot(SIZE) > 0).sum()


def test_an_empty_mask_of_a_defect(root):
    write_gray(root / "masks" / "01.png", np.zeros(SIZE, np.uint8))
    fails("masks/01.png: expected the pixels of a defect, its largest value is 0 of 255", root)


def test_the_mask_of_a_good_image_must_be_empty(root):
    write_gray(root / "masks" / "15.png", np.zeros(SIZE, np.uint8))
    load(root)
    write_gray(root / "masks" / "15.png", spot(SIZE))
    fails("masks/15.png: marks pixels, yet its image counts as defect-free", root)


def test_a_mask_of_another_size(root):
    write_gray(root / "masks" / "00.png", spot(SIZE[::-1]))
    assert "defect/00.png" in fails("masks/00.png: expected the size of its image.*40x48.*48x40", root)


def test_image_and_mask_are_turned_alike(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder, pixels in (("defect", noise(1, SIZE)), ("masks", spot(SIZE))):
        Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(root / folder / "00.png", exif=exif)
    train = load(root, test_fraction=0, val_fraction=0).train
    assert np.array_equal(train.sample(train.names.index("defect/00.png")).mask, spot(SIZE) > 0)


def test_masks_without_image(root):
    write_gray(root / "masks" / "77.png", spot(SIZE))
    write_gray(root / "masks" / "99.png", spot(SIZE))
    fails(r"masks/77.png: expected its image in defect or good, found .*\(and 1 more: masks/99.png\): rename", root)


# parts

def test_parts_are_stratified_and_depend_on_the_seed(root):
    splits = load(root)
    assert counts(splits.train) == (6, 13, 2) and counts(splits.validation) == (2, 3, 1)
    assert counts(splits.test) == (2, 4, 1)
    names = [name for part in (splits.train, splits.validation, splits.test) for name in part.names]
    assert len(names) == len(set(names)) == 30 and splits.official
    assert plan(root).parts == plan(root).parts != plan(root, 1).parts
    assert plan(root, val_fraction=0.0).test == plan(root).test
    assert counts(load(root, validate_on="test").train) == (8, 16, 3)


@pytest.mark.parametrize("settings, validation, test", [
    ({"test_fraction": 0}, True, False),
    ({"val_fraction": 0}, False, True),
    ({"test_fraction": 0, "val_fraction": 0}, False, False),
])
def test_parts_to_do_without(root, settings, validation, test):
    splits = load(root, **settings)
    assert (splits.validation is not None, splits.test is not None) == (validation, test)
    assert any("not evaluated" in note for note in splits.notes) == (splits.test is None)


def test_three_defects_are_enough_for_all_parts(tmp_path):
    splits = load(write_folder(tmp_path, 9, 3, 1))
    assert [counts(part)[0] for part in (splits.train, splits.validation, splits.test)] == [1, 1, 1]
    assert counts(splits.train)[2] == 1  # the only mask trains
    assert sum("figures on so few say little" in note for note in splits.notes) == 2


@pytest.mark.parametrize("good, defective, flags", [
    (20, 1, "1 defective image cannot.*do without: --test-fraction 0 --val-fraction 0$"),
    (20, 2, "2 defective images cannot.*do without: --val-fraction 0$"),
    (2, 9, "2 defect-free images cannot.*do without: --val-fraction 0$"),
])
def test_too_few_to_part_says_what_helps(tmp_path, good, defective, flags):
    message = fails(flags, write_folder(tmp_path, good, defective, 0))
    settings = {flag[2:].replace("-", "_"): 0 for flag in message.split("do without: ")[1].split() if flag != "0"}
    load(tmp_path, **settings)


def test_one_defect_and_one_good_image_train(tmp_path):
    splits = load(write_folder(tmp_path, 1, 1, 1), test_fraction=0, val_fraction=0)
    assert counts(splits.train) == (1, 1, 1) and splits.test is None and splits.validation is None


@pytest.mark.parametrize("good, defective, kind", [(0, 9, "defect-free"), (9, 0, "defective")])
def test_a_kind_that_is_missing(tmp_path, good, defective, kind):
    write_folder(tmp_path, good, defective, 0)
    for folder in ("good", "defect"):
        (tmp_path / folder).mkdir(exist_ok=True)
    fails(f"expected {kind} images, found none: the network learns from both", tmp_path)


def test_fewer_good_than_defective_images_are_noted(tmp_path):
    splits = load(write_folder(tmp_path, 4, 12, 0))
    assert any(note.startswith("fewer defect-free (2) than defective (8)") for note in splits.notes)


def test_validating_on_a_test_that_there_is_not(root):
    fails("--validate-on test: there are no test images", root, validate_on="test", test_fraction=0)


# a split of one's own

def write_split(path, rows):
    path.write_text("name,part\n" + "".join(f"{name},{part}\n" for name, part in rows))
    return path


def test_a_split_file(root, tmp_path):
    rows = [(f"{kind}/{number:02d}.png", part) for kind in ("good", "defect")
            for number, part in enumerate(["train", "train", "val", "test"])]
    splits = load(root, split_file=write_split(tmp_path / "s.csv", rows))
    assert [counts(part)[:2] for part in (splits.train, splits.validation, splits.test)] == [(2, 2), (1, 1), (1, 1)]
    assert splits.test.names == ["defect/03.png", "good/03.png"]
    assert any("22 images are not listed in s.csv and not used: defect/04.png" in note for note in splits.notes)
    rows = [(name, part) for name, part in rows if part == "train"]
    splits = load(root, split_file=write_split(tmp_path / "s.csv", rows))
    assert splits.test is None and counts(splits.validation)[:2] == (1, 1)
    assert any("s.csv lists no validation images" in note for note in splits.notes)
    assert load(root, split_file=tmp_path / "s.csv", val_fraction=0).validation is None


@pytest.mark.parametrize("rows, match", [
    ([("good/00.png", "train"), ("defect/99.png", "train")], "s.csv, line 3: 'defect/99.png' is no image"),
    ([("good/00.png", "train"), ("good/01.png", "test"), ("defect/01.png", "train")], "test images.*found 0 defective"),
    ([("good/00.png", "test"), ("defect/01.png", "test")], "training images.*found 0 defective and 0"),
])
def test_split_files_that_do_not_do(root, tmp_path, rows, match):
    fails(match, root, split_file=write_split(tmp_path / "s.csv", rows), val_fraction=0)


def test_the_parts_of_an_earlier_run(root):
    first = plan(root)
    write_gray(root / "good" / "a new one.png", noise(5, SIZE))
    again = plan(root, 3, first.parts)
    assert again.parts == first.parts and any("1 images came after the split" in note for note in again.notes)
    config = first.config
    part = load_part(config, 3, "test", 1, progress=False, parts=first.parts)
    assert part.dataset.names == [record.name for record in first.test]
    write_gray(root / "masks" / "of an image that is gone.png", spot(SIZE))
    next(record.image for record in first.train if not record.annotated).unlink()
    assert load_part(config, 3, "test", 1, progress=False, parts=first.parts).dataset.names == part.dataset.names
    with pytest.raises(UserError, match="an image of this run is no longer there"):
        plan(root, 3, first.parts)
    first.test[0].image.unlink()
    with pytest.raises(UserError, match="an image of this run is no longer there"):
        load_part(config, 3, "test", 1, progress=False, parts=first.parts)


def test_what_an_earlier_run_has_lost_may_be_left_out(root):
    first = plan(root)
    test, validation = (next(record for record in part if not record.label) for part in (first.test, first.validation))
    test.image.unlink()
    with pytest.raises(UserError, match=rf"{test.name}: .*\(1 such images\): put it back, or leave .*-bad-image skip"):
        plan(root, parts=first.parts)
    validation.image.unlink()
    again = plan(root, parts=first.parts, on_bad_image="skip")
    assert again.parts == {name: part for name, part in first.parts.items() if name not in (test.name, validation.name)}
    assert any(note.startswith("2 images of this run are no longer there and left out: good/") for note in again.notes)
    part = load_part(replace(first.config, on_bad_image="skip"), 0, "test", 1, progress=False, parts=first.parts)
    assert part.dataset.names == [record.name for record in first.test if record.name != test.name]
    first.train[0].image.unlink()
    for settings in ({}, {"on_bad_image": "skip"}):
        with pytest.raises(UserError, match="an image of this run is no longer there.*put it back: ") as error:
            plan(root, parts=first.parts, **settings)
        assert first.train[0].name in str(error.value)


def test_no_part_of_an_earlier_run_is_lost_altogether(root):
    first = plan(root)
    for record in first.validation:
        record.image.unlink()
    with pytest.raises(UserError, match="skip: 5 of the 5 validation images of this run are no longer there, more than"):
        plan(root, parts=first.parts, on_bad_image="skip")


def test_names_may_be_composed_anew_on_another_system(root):
    """ą, z, é in this order by their letters, and in another once the accents are characters of their own."""
    for kind in ("good", "defect", "masks"):
        for number, path in enumerate(sorted((root / kind).iterdir())):
            path.rename(path.with_name(f"{'éaząz'[number % 5]}{number:02d}.png"))
    before = plan(root)
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))

    def composed(parts):
        return [(unicodedata.normalize("NFC", name), part) for name, part in parts.items()]

    after = plan(root, parts=before.parts)
    assert before.parts.keys() != after.parts.keys() and composed(after.parts) == composed(before.parts)
    assert not any("no longer there" in note or "came after" in note for note in after.notes)
    assert composed(plan(root).parts) == composed(before.parts)


def test_a_test_alone_needs_no_training_images(root, tmp_path):
    config = plan(root).config
    split = write_split(tmp_path / "s.csv", [("good/00.png", "test"), ("defect/09.png", "test")])
    for name in ("good/01.png", "defect/00.png", "masks/00.png"):
        (root / name).unlink()
    part = load_part(replace(config, split_file=str(split)), 0, "test", progress=False)
    assert part.dataset.names == ["defect/09.png", "good/00.png"] and not part.dataset.annotated[0]


def test_a_part_that_there_is_not(root):
    config = plan(root, val_fraction=0, test_fraction=0).config
    for part in ("validation", "test"):
        assert load_part(config, 0, part, progress=False).dataset is None


# the same image more than once

def test_an_image_on_both_sides_of_the_split_is_noted(root):
    planned = plan(root)
    train, test = (next(record.image for record in part if not record.label) for part in (planned.train, planned.test))
    test.write_bytes(train.read_bytes())
    pair = " = ".join(sorted(f"good/{path.name}" for path in (train, test)))
    note = next(note for note in plan(root).notes if "more than once, byte" in note)
    assert note.startswith("1 images are there") and pair in note
    assert not any("byte for byte" in note for note in plan(root, test_fraction=0, val_fraction=0).notes)
    assert not any("byte for byte" in note for note in planned.notes)


def test_an_image_that_is_good_and_defective_is_refused(root):
    (root / "good" / "04.png").write_bytes((root / "defect" / "09.png").read_bytes())
    fails("counts as defective and as defect-free: defect/09.png = good/04.png: remove one", root)


# images that cannot be used

def damage(root):
    (root / "good" / "03.png").write_bytes(b"")
    (root / "good" / "04.png").write_text("no image")
    content = (root / "defect" / "08.png").read_bytes()
    (root / "defect" / "08.png").write_bytes(content[:len(content) // 2])
    write_gray(root / "masks" / "02.png", spot((8, 8)))
    return ["defect/02.png", "defect/08.png", "good/03.png", "good/04.png"]


def test_all_bad_images_are_named_in_one_error(root):
    damage(root)
    message = fails("^4 of 30 images cannot be used: .*--on-bad-image skip$", root)
    for name in ("good/03.png: expected an image, got an empty", "good/04.png: expected an image, got something",
                 "defect/08.png: cannot be read", "masks/02.png: expected the size"):
        assert str(root / name) in message
    assert message.count("repair") == 1


def test_bad_images_are_skipped_and_listed(root):
    whole = load(root)
    bad = damage(root)
    splits = load(root, on_bad_image="skip")
    assert sorted(image.name for image in splits.skipped) == bad
    assert any(note.startswith("skipped 4 of 30 images that cannot be used: ") for note in splits.notes)
    for part in ("train", "validation", "test"):
        before, after = getattr(whole, part), getattr(splits, part)
        assert after.names == [name for name in before.names if name not in bad]
        assert len(after.labels) == len(after.annotated) == len(after) == len(after.records)
        for index, name in enumerate(after.names):
            ours, theirs = after[index], before[before.names.index(name)]
            assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key]))
                       for key in ours if key != "index")
    parts = {"train": whole.train, "val": whole.validation, "test": whole.test}  # the split stays what it was
    assert plan(root).parts == {name: part for part, dataset in parts.items() for name in dataset.names}


def test_skipping_leaves_no_half_of_a_data_set(root):
    for number in range(16):
        (root / "good" / f"{number:02d}.png").write_bytes(b"")
    fails("--on-bad-image skip: 16 of 30 images cannot be used, more than half", root, on_bad_image="skip")
    for number in range(16, 20):
        write_gray(root / "good" / f"{number:02d}.png", noise(number, SIZE))
    for path in (root / "good").iterdir():
        path.unlink() if path.stat().st_size == 0 else None
    names = [record.image for record in plan(root).test if not record.label]
    for path in names:
        path.write_bytes(b"")
    fails("usable test images.*found 2 defective and 0 defect-free: repair", root, on_bad_image="skip")
