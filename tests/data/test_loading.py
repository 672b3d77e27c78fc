"""From settings to data sets, in the published layouts: small trees, then the real images."""

import pickle
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext.data import loading
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.published import KSDD_SKIPPED
from mffpa_ext.data.loading import DATASETS, load_part, load_splits
from mffpa_ext.errors import UserError

from .conftest import real_folder, write_dagm_half, write_ksdd_folder


def load(seed=0, **settings):
    settings = {"image_size": (24, 32), **settings}
    return load_splits(DataConfig(**{k: str(v) if k in ("data_root", "split_file") else v
                                     for k, v in settings.items()}), seed, progress=False)


def counts(part):
    return len(part), int(part.labels.sum()), int(part.annotated[part.labels == 1].sum())


def fails(match, **settings):
    with pytest.raises(UserError, match=match) as error:
        load(**settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# settings

def test_every_field_explains_itself_and_every_data_set_has_a_module():
    assert all(field.metadata["help"] for field in fields(DataConfig))
    assert set(DATASETS) == set(FACTS)


def test_defaults_come_from_the_data_set():
    ksdd = resolve(DataConfig("ksdd", "x"))
    assert (ksdd.image_size, ksdd.dilate, ksdd.distance_weight, ksdd.distance_power) == ((1408, 512), 7, 1.0, 2.0)
    dagm = resolve(DataConfig("dagm", "x", distance_weight=3.0))
    assert (dagm.image_size, dagm.distance_weight, dagm.distance_power) == ((512, 512), 3.0, 1.0)
    assert dagm.val_fraction == 0.0
    for name, expected in (("ksdd2", ((640, 232), 15, 3.0, 2.0, 0.0)), ("steel", ((256, 1600), 1, 1.0, 2.0, 0.0))):
        found = resolve(DataConfig(name, "x"))
        assert (found.image_size, found.dilate, found.distance_weight, found.distance_power,
                found.val_fraction) == expected
    assert [facts.channels for facts in FACTS.values() if facts.num_segmented] == [1, 1, 3, 1]
    assert resolve(DataConfig()).val_fraction == 0.2
    assert resolve(resolve(DataConfig())) == resolve(DataConfig())
    assert resolve(DataConfig(image_size=[64, 96], num_segmented="12")).num_segmented == 12


@pytest.mark.parametrize("settings, match", [
    ({"dataset": "mnist"}, "--dataset.*synthetic, dagm, ksdd.*mnist"),
    ({"dataset": "dagm"}, "--data-root"),
    ({"image_size": (100, 96)}, "--image-size.*multiples of 8.*100.*nearest: 96x96"),
    ({"image_size": (0, 96)}, "--image-size"),
    ({"image_size": 96}, "--image-size"),
    ({"image_size": (24, 32)}, "at least 32 for synthetic"),
    ({"num_segmented": "many"}, "--num-segmented.*many"),
    ({"num_segmented": -1}, "--num-segmented"),
    ({"num_segmented": 2.5}, "--num-segmented"),
    ({"val_fraction": 1.0}, "--val-fraction"),
    ({"val_fraction": 0.2, "validate_on": "test"}, "exclude each other"),
    ({"dilate": 0}, "--dilate"),
    ({"distance_transform": "taxi"}, "--distance-transform"),
    ({"resplit": True}, "--resplit is for"),
    ({"split_file": "x.pyb"}, "--split-file"),
    ({"workers": -1}, "--workers"),
    ({"dataset": "dagm", "data_root": "x", "dagm_class": 11}, "--dagm-class.*1 to 10"),
    ({"dataset": "ksdd", "data_root": "x", "fold": 3}, "--fold.*0 to 2"),
])
def test_settings_out_of_range(settings, match):
    fails(match, **settings)


@pytest.mark.parametrize("setting, owner", [
    ({"dagm_class": 2}, "dagm"), ({"resplit": True}, "dagm"), ({"fold": 1}, "ksdd"),
    ({"synthetic_train": 8}, "synthetic"), ({"synthetic_test": 8}, "synthetic"),
])
def test_settings_of_another_data_set_are_refused(setting, owner):
    name, = setting
    default = {name: getattr(DataConfig(), name)}
    for dataset, facts in FACTS.items():
        root = "x" if facts.needs_root else None
        resolve(DataConfig(dataset, root, **default))  # as in the config.json of every run
        if dataset == owner:
            assert getattr(resolve(DataConfig(dataset, root, **setting)), name) == setting[name]
            continue
        with pytest.raises(UserError) as error:
            resolve(DataConfig(dataset, root, **setting))
        flag = "--" + name.replace("_", "-")
        assert str(error.value) == f"{flag} is for --dataset {owner}, not for {dataset}: leave it out"


@pytest.mark.parametrize("name", ["dagm", "ksdd"])
def test_missing_folder(tmp_path, name):
    assert "nowhere" in fails("found no folder", dataset=name, data_root=tmp_path / "nowhere")


# DAGM

def test_dagm_halves(dagm_root):
    splits = load(dataset="dagm", data_root=dagm_root, num_segmented=2)
    assert counts(splits.train) == (13, 5, 2) and counts(splits.test) == (7, 3, 3)
    assert splits.validation is None and splits.official and splits.channels == 1 and splits.image_size == (24, 32)
    assert splits.train.names[0] == "Class1/Train/0101.PNG"


def test_dagm_validation_comes_before_the_choice_of_n(dagm_root):
    splits = load(dataset="dagm", data_root=dagm_root, num_segmented=4, val_fraction=0.2)
    assert counts(splits.train) == (10, 4, 4) and counts(splits.validation) == (3, 1, 1)
    assert not set(splits.train.names) & set(splits.validation.names)
    fails("at most 4.*got 5", dataset="dagm", data_root=dagm_root, num_segmented=5, val_fraction=0.2)


def test_dagm_validated_on_test_says_so(dagm_root):
    splits = load(dataset="dagm", data_root=dagm_root, validate_on="test")
    assert splits.validation is splits.test and counts(splits.train) == (13, 5, 5)
    assert any("optimistic" in note for note in splits.notes)


def test_dagm_without_train_half(dagm_root):
    for path in sorted((dagm_root / "Class1" / "Train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (dagm_root / "Class1" / "Train").rmdir()
    assert "Train" in fails("--resplit", dataset="dagm", data_root=dagm_root)
    splits = load(dataset="dagm", data_root=dagm_root, resplit=True)
    assert counts(splits.train) == (4, 2, 2) and counts(splits.test) == (3, 1, 1)
    assert not splits.official and any("unofficial" in note for note in splits.notes)


def test_dagm_resplit_depends_on_the_seed(dagm_root):
    names = [load(seed, dataset="dagm", data_root=dagm_root, resplit=True).train.names for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert counts(load(dataset="dagm", data_root=dagm_root, resplit=True).train) == (10, 4, 4)


def test_dagm_missing_class(dagm_root):
    assert "Class2" in fails("holds Class1 to Class10", dataset="dagm", data_root=dagm_root, dagm_class=2)


def test_dagm_lost_label_file_is_noticed(dagm_root):
    (dagm_root / "Class1" / "Train" / "Label" / "0102_label.PNG").unlink()
    message = fails("says it is defective", dataset="dagm", data_root=dagm_root)
    assert "0102.PNG" in message and "0102_label.PNG" in message


def test_dagm_label_without_image(dagm_root):
    (dagm_root / "Class1" / "Train" / "0101.PNG").unlink()
    assert "0101_label.PNG" in fails("expected its image", dataset="dagm", data_root=dagm_root)


@pytest.mark.parametrize("half, part", [("Train", "training"), ("Test", "test")])
@pytest.mark.parametrize("defective, good", [(0, 5), (5, 0)])
@pytest.mark.parametrize("settings", [{}, {"val_fraction": 0.4}, {"validate_on": "test"}])
def test_a_part_needs_both_kinds(tmp_path, monkeypatch, half, part, defective, good, settings):
    monkeypatch.setattr(loading, "DefectDataset", lambda *_: pytest.fail("decoded"))
    for name in ("Train", "Test"):
        write_dagm_half(tmp_path / "Class1" / name, *((defective, good) if name == half else (4, 4)))
    fails(f"^{part} images in .*found {defective} defective and {good} defect-free: .*add images",
          dataset="dagm", data_root=tmp_path, **settings)


def test_ksdd_a_side_without_defect_free_images_is_refused(tmp_path, monkeypatch):
    """Folders are never parted: where one holds all the good images, one of the sides has to do without."""
    monkeypatch.setattr(loading, "DefectDataset", lambda *_: pytest.fail("decoded"))
    for number in range(1, 7):
        (tmp_path / f"kos{number:02d}").mkdir()
        write_ksdd_folder(tmp_path / f"kos{number:02d}", parts=3 if number < 3 else 2, defective=1 if number < 3 else 2)
    split = tmp_path / "split_5_5.pyb"
    train = [(f"kos{number:02d}", True) for number in range(2, 7)]
    settings = {"dataset": "ksdd", "data_root": tmp_path, "split_file": split}
    split.write_bytes(pickle.dumps([[train] * 3, [[("kos01", True)]] * 3]))
    messages = [fails("defect-free", seed=seed, val_fraction=0.2, **settings) for seed in range(8)]
    remaining = [text for text in messages if text.startswith("remaining training images")]
    assert remaining and all("8 defective and 0 defect-free" in text and "--val-fraction" in text for text in remaining)
    assert all(text.startswith("--val-fraction") for text in messages if text not in remaining)
    split.write_bytes(pickle.dumps([[[("kos01", True), *train[:4]]] * 3, [[("kos06", True)]] * 3]))
    fails("^test images.*found 2 defective and 0 defect-free", **settings)


def test_dagm_empty_file(dagm_root):
    (dagm_root / "Class1" / "Test" / "0007.PNG").write_bytes(b"")
    assert "0007.PNG" in fails("0 bytes", dataset="dagm", data_root=dagm_root)


def test_dagm_split_file(dagm_root, tmp_path):
    train = [("0101.PNG", False), ("0102.PNG", True), ("0106.PNG", True), ("0107.PNG", True)]
    path = tmp_path / "split_1.pyb"
    path.write_bytes(pickle.dumps(([train] * 10, [[("0001.PNG", True), ("0004.PNG", True)]] * 10)))
    splits = load(dataset="dagm", data_root=dagm_root, split_file=path)
    assert splits.train.names == [f"Class1/Train/{name}" for name, _ in train]
    assert counts(splits.train) == (4, 2, 1) and counts(splits.test) == (2, 1, 1)
    assert splits.train.annotated.tolist() == [False, True, True, True]
    (dagm_root / "Class1" / "Train" / "0107.PNG").unlink()
    assert "0107.PNG" in fails("listed in", dataset="dagm", data_root=dagm_root, split_file=path)
    fails("exclude each other", dataset="dagm", data_root=dagm_root, split_file=path, resplit=True)


# KolektorSDD

def test_ksdd_with_split_file(ksdd_root, ksdd_split):
    splits = load(dataset="ksdd", data_root=ksdd_root, split_file=ksdd_split)
    assert counts(splits.train) == (18, 6, 2) and counts(splits.test) == (9, 3, 3)
    assert {name.split("/")[0] for name in splits.test.names} == {"kos01", "kos02", "kos03"}
    notes = " ".join(splits.notes)
    assert splits.official and "kos01 = kos26 and kos27 = kos34" in notes
    assert "kos01 (test) = kos26 (train)" in notes and "2 of 6 folders" in notes


def test_ksdd_own_folds(ksdd_root):
    tests = [load(dataset="ksdd", data_root=ksdd_root, fold=fold).test.names for fold in range(3)]
    assert sorted(sum(tests, [])) == sorted(set(sum(tests, []))) and len(sum(tests, [])) == 27
    splits = load(dataset="ksdd", data_root=ksdd_root, num_segmented=2)
    assert counts(splits.train) == (18, 6, 2) and not splits.official
    assert any("unofficial folds" in note for note in splits.notes)
    folders = {name.split("/")[0] for name in splits.test.names}
    assert ("kos01" in folders) == ("kos26" in folders)
    assert tests[0] != load(1, dataset="ksdd", data_root=ksdd_root).test.names
    fails("at most 6.*folders.*got 7", dataset="ksdd", data_root=ksdd_root, num_segmented=7)


def test_ksdd_skips_what_is_not_in_the_published_set(ksdd_root):
    for suffix in (".jpg", "_label.bmp"):
        for part in range(3):
            source = ksdd_root / "kos08" / f"Part{part}{suffix}"
            (ksdd_root / "kos21").mkdir(exist_ok=True)
            (ksdd_root / "kos21" / f"Part{part + 5}{suffix}").write_bytes(source.read_bytes())
    names = sum((load(dataset="ksdd", data_root=ksdd_root, fold=fold).test.names for fold in range(3)), [])
    assert "kos21/Part6.jpg" in names and "kos21/Part7.jpg" not in names


@pytest.mark.parametrize("lost, expected", [("Part1_label.bmp", "Part1.jpg"), ("Part1.jpg", "Part1_label.bmp")])
def test_ksdd_image_without_label_file_and_the_reverse(ksdd_root, lost, expected):
    (ksdd_root / "kos02" / lost).unlink()
    message = fails("found no such file", dataset="ksdd", data_root=ksdd_root)
    assert message.startswith(str(ksdd_root / "kos02" / expected)) and lost in message


def test_ksdd_mask_of_another_size(ksdd_root):
    Image.fromarray(np.zeros((24, 40), np.uint8)).save(ksdd_root / "kos02" / "Part2_label.bmp")
    assert "Part2.jpg" in fails("Part2_label.bmp.*40x24.*24x40", dataset="ksdd", data_root=ksdd_root)


def test_ksdd_missing_folder_and_wrong_root(ksdd_root, ksdd_split, tmp_path):
    fails("expected folders kos01", dataset="ksdd", data_root=ksdd_root.parent)
    for path in (ksdd_root / "kos08").iterdir():
        path.unlink()
    (ksdd_root / "kos08").rmdir()
    assert "kos08" in fails("listed in", dataset="ksdd", data_root=ksdd_root, split_file=ksdd_split)


# one part alone

def part_of(part, seed=0, channels=None, **settings):
    settings = {"image_size": (24, 32), **settings}
    return load_part(DataConfig(**{k: str(v) if k in ("data_root", "split_file") else v
                                   for k, v in settings.items()}), seed, part, channels, progress=False)


@pytest.mark.parametrize("more", [{}, {"resplit": True}, {"val_fraction": 0.2}, {"validate_on": "test"}])
def test_a_part_alone_is_that_of_the_whole(dagm_root, more):
    settings = {"dataset": "dagm", "data_root": dagm_root, **more}
    whole = load(3, **settings)
    for name, expected in (("test", whole.test), ("validation", whole.validation)):
        part = part_of(name, 3, **settings)
        assert part.official == whole.official and set(part.notes) <= set(whole.notes)
        if expected is None:
            assert part.dataset is None
            continue
        assert part.dataset.names == expected.names and len(expected)
        for one, other in zip(part.dataset, expected, strict=True):
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_ksdd_parts_alone_are_those_of_the_whole(ksdd_root, ksdd_split):
    for more in ({}, {"split_file": ksdd_split}, {"val_fraction": 0.2, "fold": 1}):
        settings = {"dataset": "ksdd", "data_root": ksdd_root, **more}
        whole, test, validation = load(**settings), part_of("test", **settings), part_of("validation", **settings)
        assert test.dataset.names == whole.test.names and set(test.notes) <= set(whole.notes)
        assert test.official == whole.official
        names = None if whole.validation is None else whole.validation.names
        assert (None if validation.dataset is None else validation.dataset.names) == names


def test_published_test_images_need_no_training_images(dagm_root, ksdd_root, ksdd_split):
    dagm = {"dataset": "dagm", "data_root": dagm_root}
    ksdd = {"dataset": "ksdd", "data_root": ksdd_root, "split_file": ksdd_split}
    names = [part_of("test", **settings).dataset.names for settings in (dagm, ksdd)]
    shutil.rmtree(dagm_root / "Class1" / "Train")
    for folder in ksdd_root.iterdir():
        if folder.name not in {name.split("/")[0] for name in names[1]}:
            shutil.rmtree(folder)
    assert [part_of("test", **settings).dataset.names for settings in (dagm, ksdd)] == names
    with pytest.raises(UserError, match="expected the Train half"):
        part_of("validation", val_fraction=0.2, **dagm)


def test_no_image_of_another_part_is_decoded(dagm_root):
    """Damaged training images do not hinder a test, nor damaged test images a validation."""
    settings = {"dataset": "dagm", "data_root": dagm_root, "resplit": True, "val_fraction": 0.2}
    whole = load(**settings)
    for name, own in (("test", whole.test), ("validation", whole.validation)):
        content = {}
        for record in {*whole.train.records, *whole.validation.records, *whole.test.records} - set(own.records):
            content[record.image] = record.image.read_bytes()
            record.image.write_bytes(b"")
        assert part_of(name, **settings).dataset.names == own.names
        for path, pixels in content.items():
            path.write_bytes(pixels)


def test_a_part_with_the_channels_of_the_network(dagm_root):
    assert part_of("test", channels=3, dataset="dagm", data_root=dagm_root).dataset[0]["image"].shape == (3, 24, 32)


# real images: what is expected of them is counted in the files that are there

def dagm_images(half):
    """Defective and all images of a half, by its files alone."""
    return len(list((half / "Label").glob("*_label.PNG"))), len(list(half.glob("*.PNG")))


def real_ksdd_folders(root):
    """Folder → defective and all images, by their masks alone."""
    folders = {}
    for folder in sorted(path for path in root.glob("kos*") if path.is_dir()):
        masks = [path for path in folder.glob("*_label.bmp")
                 if f"{folder.name}_{path.stem.removesuffix('_label')}" not in KSDD_SKIPPED]
        folders[folder.name] = sum(bool(np.asarray(Image.open(path)).any()) for path in masks), len(masks)
    return folders


def test_real_ksdd(real_data):
    root, splits_folder = real_folder(real_data, "KolektorSDD"), real_folder(real_data, "mixsup_splits", "KSDD")
    folders = real_ksdd_folders(root)
    if len(folders) < 50:
        pytest.skip(f"needs all 50 folders of KolektorSDD, {root} holds {len(folders)}")
    defective, total = (sum(numbers) for numbers in zip(*folders.values()))
    splits = [load(dataset="ksdd", data_root=root, split_file=splits_folder / "split_33_5.pyb", fold=fold,
                   image_size=(176, 64)) for fold in range(3)]
    assert [sum(part) for part in zip(*(counts(s.test)[:2] for s in splits))] == [total, defective]
    for s in splits:
        assert len(s.train) + len(s.test) == total and s.train.labels.sum() + s.test.labels.sum() == defective
        assert counts(s.train)[2] >= 5  # five folders, two of which may hold two defects
        target = s.train[int(np.flatnonzero(s.train.annotated & (s.train.labels == 1))[0])]["target"]
        assert target.shape == (1, 22, 8) and target.max() > 0
    assert any("twins on both sides of this fold" in note for s in splits for note in s.notes)


def test_real_ksdd_twins(real_data):
    """The note beside every number is true of the files."""
    for first, second in (("kos01", "kos26"), ("kos27", "kos34")):
        one, two = (sorted(real_folder(real_data, "KolektorSDD", name).glob("*.jpg")) for name in (first, second))
        assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two] and len(one) == 8


def test_real_dagm(real_data):
    folder = real_folder(real_data, "DAGM", "Class1")
    halves = [dagm_images(real_folder(folder, half)) for half in ("Train", "Test")]
    splits = load(dataset="dagm", data_root=folder.parent, image_size=(64, 64))
    for part, (defective, total) in zip((splits.train, splits.test), halves):
        assert counts(part) == (total, defective, defective)
    assert splits.official


def test_real_dagm_resplit(real_data):
    folder = real_folder(real_data, "DAGM", "Class1")
    halves = [dagm_images(folder / half) for half in ("Train", "Test") if (folder / half).is_dir()]
    defective, total = (sum(numbers) for numbers in zip(*halves))
    settings = {"dataset": "dagm", "data_root": folder.parent, "image_size": (64, 64), "resplit": True}
    splits = load(**settings)
    train = (defective + 1) // 2, (total - defective + 1) // 2
    assert counts(splits.train) == (sum(train), train[0], train[0])
    assert counts(splits.test) == (total - sum(train), defective - train[0], defective - train[0])
    again = load(**settings)
    assert not splits.official and torch.equal(splits.train[0]["image"], again.train[0]["image"])
