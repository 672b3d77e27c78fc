"""Which files of one's own folder are images, which are masks, and whose."""

import os
import unicodedata

import pytest

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.folder_files import find_files
from mffpa_ext.errors import UserError

from .conftest import noise, write_gray

SIZE = (16, 16)


@pytest.fixture
def tree(tmp_path):
    """Makes a folder of the given files and looks through it."""

    def make(*names, **settings):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() in (".png", ".bmp", ".tif", ".jpg"):
                write_gray(path, noise(0, SIZE))
            else:
                path.write_bytes(b"x")
        return find_files(DataConfig("folder", str(tmp_path), **settings))

    return make


def masks(found):
    return {image: path.name for image, path in found.masks.items()}


def test_images_of_sub_folders_by_name_below_the_root(tree):
    found = tree("good/b.png", "good/line 2/a.bmp", "defect/dent/x.tif", "defect/x.png",
                 "elsewhere/y.png", "z.png")
    assert list(found.good) == ["good/b.png", "good/line 2/a.bmp"]
    assert list(found.defective) == ["defect/dent/x.tif", "defect/x.png"] and not found.masks and not found.others


@pytest.mark.parametrize("mask", ["x.png", "x_mask.png", "x_label.bmp", "x_GT.png", "x_gt.tif", "defect/x.png"])
def test_masks_have_the_name_of_their_image(tree, mask):
    found = tree("good/a.png", "defect/x.jpg", "defect/y.jpg", f"masks/{mask}")
    assert masks(found) == {"defect/x.jpg": mask.split("/")[-1]} and not found.stray


def test_masks_in_sub_folders(tree):
    found = tree("good/a.png", "defect/dent/1.png", "defect/scratch/1.png", "masks/dent/1.png",
                 "masks/scratch/1_gt.png")
    assert masks(found) == {"defect/dent/1.png": "1.png", "defect/scratch/1.png": "1_gt.png"}


def test_an_image_named_like_a_mask_keeps_its_own(tree):
    found = tree("good/a.png", "defect/x.png", "defect/x_mask.png", "masks/x.png", "masks/x_mask.png")
    assert masks(found) == {"defect/x.png": "x.png", "defect/x_mask.png": "x_mask.png"}


def test_of_a_good_and_a_defective_image_of_one_name_the_mask_is_the_defect_s(tree):
    assert masks(tree("good/1.png", "defect/1.png", "masks/1.png")) == {"defect/1.png": "1.png"}
    assert masks(tree("good/2.png", "masks/2.png"))["good/2.png"] == "2.png"


def test_a_mask_that_fits_two_images_names_both(tree):
    with pytest.raises(UserError, match=r"masks/x.png: expected to fit one image, fits defect/x.bmp and defect/x.png"):
        tree("good/a.png", "defect/x.png", "defect/x.bmp", "masks/x.png")


def test_two_masks_of_one_image_are_both_named(tree):
    with pytest.raises(UserError, match=r"defect/x.png: expected one mask, found masks/x.png; masks/x_mask.png: keep"):
        tree("good/a.png", "defect/x.png", "masks/x.png", "masks/x_mask.png")


def test_masks_without_image_are_kept_apart(tree):
    found = tree("good/a.png", "defect/x.png", "masks/y.png", "masks/sub/x.png")
    assert found.stray == ["masks/sub/x.png", "masks/y.png"]


def test_names_in_unicode_match_however_they_are_composed(tree):
    composed, decomposed = (unicodedata.normalize(form, "größe é 部品") for form in ("NFC", "NFD"))
    found = tree(f"good/{composed}.png", f"defect/{composed} 1.png", f"masks/{decomposed} 1.png")
    assert masks(found) == {f"defect/{composed} 1.png": f"{decomposed} 1.png"}


def test_names_that_are_no_text(tree, tmp_path):
    name = os.fsdecode(b"teil\xff.png")
    found = tree("good/a.png", f"defect/{name}", f"masks/{name}")
    assert masks(found) == {f"defect/{name}": name}


def test_other_files_are_counted_and_litter_is_not(tree):
    found = tree("good/a.png", "defect/x.png", "defect/x.xml", "good/b.heic", "good/Thumbs.db", "good/._a.png",
                 "good/.cache/c.png", "masks/desktop.ini", "good/__MACOSX/d.png", "good/README")
    assert list(found.good) == ["good/a.png"] and list(found.defective) == ["defect/x.png"]
    assert found.others == {".xml": 1, ".heic": 1, "without suffix": 1}


def test_folders_of_any_name_and_number(tree):
    found = tree("ok/a.png", "dent/1.png", "scratch/1.png", "truth/dent/1.png", good_folder="ok",
                 defect_folder="dent, scratch", mask_folder="truth")
    assert list(found.good) == ["ok/a.png"] and masks(found) == {"dent/1.png": "1.png"}


def test_the_deepest_folder_has_the_file(tree):
    """As in MVTec AD, where test/good lies in test, or where masks lie beside the images."""
    found = tree("train/good/1.png", "test/good/2.png", "test/hole/3.png", "test/hole/masks/3.png",
                 good_folder="train/good,test/good", defect_folder="test", mask_folder="test/hole/masks")
    assert list(found.good) == ["test/good/2.png", "train/good/1.png"] and list(found.defective) == ["test/hole/3.png"]
    assert masks(found) == {} and found.stray == ["test/hole/masks/3.png"]
    found = tree("ground_truth/hole/3_mask.png", good_folder="train/good,test/good", defect_folder="test/hole",
                 mask_folder="ground_truth/hole")
    assert masks(found) == {"test/hole/3.png": "3_mask.png"}


def test_masks_beside_their_images(tree):
    found = tree("good/1.png", "defect/2.png", "defect/2_mask.png", "defect/3.png", mask_folder="defect")
    assert list(found.defective) == ["defect/2.png", "defect/3.png"] and masks(found) == {"defect/2.png": "2_mask.png"}


def test_links_are_followed_once(tree, tmp_path):
    tree("good/a.png", "defect/x.png", "archive/b.png")
    (tmp_path / "good" / "more").symlink_to(tmp_path / "archive")
    (tmp_path / "good" / "loop").symlink_to(tmp_path / "good")
    assert list(tree().good) == ["good/a.png", "good/more/b.png"]


@pytest.mark.parametrize("settings, match", [
    ({"good_folder": "fine"}, r"fine: expected the images of --good-folder, found no such folder.*: defect, empty, go"),
    ({"defect_folder": "empty"}, r"empty: expected defective images, found none: .*--defect-folder"),
    ({"good_folder": "empty"}, r"empty: expected defect-free images, found none: .*--good-folder"),
    ({"good_folder": "defect"}, r"--good-folder and --defect-folder: both name defect"),
    ({"good_folder": "../good"}, r"--good-folder: expected a folder below --data-root such as good, got '../good'"),
    ({"defect_folder": "/defect"}, r"--defect-folder: expected a folder below"),
    ({"mask_folder": ""}, r"--mask-folder: expected a folder below"),
    ({"mask_folder": "a,b"}, r"--mask-folder: expected one sub-folder, got 'a,b'"),
])
def test_folders_that_do_not_fit(tree, tmp_path, settings, match):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=match):
        tree("good/a.png", "defect/x.png", **settings)


@pytest.mark.parametrize("folder", ["good", "defect/line 2", "masks/line 2"])
def test_a_folder_that_may_not_be_read_is_no_empty_one(tree, monkeypatch, folder):
    names = ("good/a.png", "defect/x.png", "defect/line 2/x.png", "masks/line 2/x.png")
    assert len(tree(*names).defective) == 2
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith(folder):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read whatever the mode says
    with pytest.raises(UserError, match=rf"{folder}: cannot be read \(Permission denied\)"):
        tree()


def test_there_need_be_no_mask_folder(tree):
    assert tree("good/a.png", "defect/x.png").masks == {}
