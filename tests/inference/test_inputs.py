"""What is found in what a user gives: files, folders, paths from a pipe, and the masks that lie beside images."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.folder_files import find_files
from mffpa_ext.data.mask_names import MASK_SUFFIXES
from mffpa_ext.errors import UserError
from mffpa_ext.inference.inputs import ImageFinder, InputImage, common_folder, read_paths
from mffpa_ext.inference.known_masks import find_mask, read_mask_at
from mffpa_ext.inference.overlay_files import OverlayNames


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def names(images) -> list[str]:
    return [image.name for image in images]


# files and folders

def test_a_folder_is_its_images_in_order_without_masks(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.JPG", "a_label.bmp", "b_GT.png", "odd_mask.png", "n.txt", ".hidden.png", "sub/c.png")
    finder = ImageFinder()
    assert names(finder.find(str(tmp_path))) == ["a.JPG", "b.png", "odd_mask.png"]  # odd.png is not there
    assert finder.masks_left_out == 2


def test_recursive(tmp_path: Path) -> None:
    touch(tmp_path, "Class1/0001.PNG", "Class1/Label/0001_label.PNG", "Class2/0001.PNG", ".git/x.png", "out/x/y.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    finder = ImageFinder(recursive=True, leave_out=tmp_path / "out")
    assert names(finder.find(str(tmp_path))) == ["Class1/0001.PNG", "Class2/0001.PNG"]
    assert finder.masks_left_out == 1
    assert names(ImageFinder(True, named_by_folder=True).find(f"{tmp_path}/Class1")) == ["Class1/0001.PNG"]


def test_overlays_of_an_earlier_prediction_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "overlays/a.png.png", "run/predictions.csv", "run/overlays/x/a.png.png")
    assert names(ImageFinder(True).find(str(tmp_path))) == ["a.png", "overlays/a.png.png"]  # someone's own folder
    touch(tmp_path, "predictions.csv")
    assert names(ImageFinder(True, leave_out=tmp_path).find(str(tmp_path))) == ["a.png"]


def test_what_has_no_images_is_an_error_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "deep/down/a.png")
    (tmp_path / "empty").mkdir()
    (only,) = ImageFinder().find(str(tmp_path / "deep"))
    assert only.error.endswith("expected images, found only folders: look into them with --recursive")
    (empty,) = ImageFinder().find(str(tmp_path / "empty"))
    assert empty.given == str(tmp_path / "empty") and "expected images, found none" in empty.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (only,) = ImageFinder().find(str(tmp_path / "closed"))
    assert "cannot be read (Permission denied)" in only.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_be_listed_but_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "listed/b.png", "listed/deep/c.png", "z.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "listed/b.png")
    (tmp_path / "listed").chmod(0o444)
    found = list(ImageFinder(recursive=True).find(str(tmp_path)))
    (tmp_path / "listed").chmod(0o755)
    assert [image.name for image in found] == ["link.png", "z.png", "a/x.png", "listed"]
    assert found[3].error.endswith("listed: cannot be read (Permission denied)")


def test_a_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    given = "./x//../Part0_label.bmp"
    assert list(ImageFinder().find(given)) == [InputImage(given, "x/Part0_label.bmp")]
    assert names(ImageFinder().find("/data/cam1/001.png")) == ["data/cam1/001.png"]
    assert names(ImageFinder().find("/data/cam1/001.png", "/data")) == ["cam1/001.png"]
    assert names(ImageFinder().find("nul\0byte.png")) == ["nul\0byte.png"]
    assert common_folder(["/data/cam1/1.png", "/data/cam2/x/2.png"]) == "/data" and common_folder([]) is None


# paths from a pipe

def piped(content: bytes, separator: bytes = b"\n") -> list[str]:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, content), os.close(writing)))
    writer.start()
    try:
        return list(read_paths(reading, separator))
    finally:
        writer.join()
        os.close(reading)


def test_paths_by_line_and_by_nul() -> None:
    assert piped(b"a b.png\n\n./c.png\r\nlast") == ["a b.png", "./c.png", "last"]
    assert piped(b"new\nline\r\0b.png\0", b"\0") == ["new\nline\r", "b.png"]
    assert piped(b"latin-\xe9.png\n") == [os.fsdecode(b"latin-\xe9.png")]
    assert piped(b"") == [] and piped(b"x" * 200_000 + b"\ny") == ["x" * 200_000, "y"]


def test_a_path_is_there_before_the_next_one_comes() -> None:
    reading, writing = os.pipe()
    paths = read_paths(reading)
    for name in (b"1.png", b"2.png"):
        os.write(writing, name + b"\n")
        assert next(paths) == name.decode()
    os.close(writing)
    assert list(paths) == []
    os.close(reading)


# places of overlays

def test_overlays_never_meet() -> None:
    overlays = OverlayNames()
    given = ["a.png", "a.jpg", "x/a.png", "a.png", "a.png-2", "a.png"]
    chosen = [overlays.choose(name) for name in given]
    assert chosen[:3] == ["overlays/a.png.png", "overlays/a.jpg.png", "overlays/x/a.png.png"]
    assert len(set(chosen)) == len(given)
    assert OverlayNames(chosen).choose("a.png") not in chosen


def test_overlays_stay_below_their_folder() -> None:
    for given in ("../../etc/passwd", "/etc/passwd", "a/../../../b.png"):
        (image,) = ImageFinder().find(given)
        path = Path(OverlayNames().choose(image.name))
        assert path.parts[0] == "overlays" and ".." not in path.parts and not path.is_absolute()


def test_names_at_the_limit_of_file_systems(tmp_path: Path) -> None:
    chosen = [OverlayNames().choose("é" * 120 + end + ".png") for end in ("1", "2")]
    assert chosen[0] != chosen[1]
    for path in chosen:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).with_name(f".{Path(path).name}.tmp").touch()


# known masks

def test_masks_of_the_published_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "kos01/Part0.jpg", "kos01/Part0_label.bmp", "dagm/0001.PNG", "dagm/Label/0001_label.PNG",
          "ksdd2/10000.png", "ksdd2/10000_GT.png", "own/a.png", "own/a_mask.png", "own/b.png", "own/b_label.txt")
    for image, mask in (("kos01/Part0.jpg", "kos01/Part0_label.bmp"), ("dagm/0001.PNG", "dagm/Label/0001_label.PNG"),
                        ("ksdd2/10000.png", "ksdd2/10000_GT.png"), ("own/a.png", "own/a_mask.png")):
        assert find_mask(tmp_path / image, image) == tmp_path / mask
    assert find_mask(tmp_path / "own/b.png", "b.png") is None
    assert find_mask(tmp_path / "nowhere/b.png", "b.png") is None


@pytest.mark.parametrize("suffix", [spelled for suffix in MASK_SUFFIXES for spelled in (
    suffix, suffix.upper(), suffix.title())])
def test_what_trains_as_a_mask_is_none_of_the_images(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "a.png", f"a{suffix}.PNG", "good/b.png")
    assert names(ImageFinder().find(str(tmp_path))) == ["a.png"]
    assert find_mask(tmp_path / "a.png", "a.png") == tmp_path / f"a{suffix}.PNG"
    files = find_files(DataConfig("folder", str(tmp_path), defect_folder=".", mask_folder="."))
    assert files.masks == {"a.png": tmp_path / f"a{suffix}.PNG"}


def test_a_folder_of_masks_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, "in/x/a.png", "in/x/a_mask.png", "masks/x/a.bmp", "masks/b.png", "in/b.png", "in/c.png")
    masks = tmp_path / "masks"
    assert find_mask(tmp_path / "in/x/a.png", "x/a.png", masks) == masks / "x/a.bmp"
    assert find_mask(tmp_path / "in/b.png", "b.png", masks) == masks / "b.png"
    assert find_mask(tmp_path / "in/c.png", "c.png", masks) is None
    assert find_mask(tmp_path / "in/b.png", "b.png", tmp_path / "in") is None  # no image is its own mask


def test_a_reduced_mask_keeps_its_cracks(tmp_path: Path) -> None:
    mask = np.zeros((400, 300), np.uint8)
    mask[7, :] = 255
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(mask).save(tmp_path / name)
    small = read_mask_at(tmp_path / "a_mask.png", tmp_path / "a.png", (40, 30))
    assert small.shape == (40, 30) and small[0].all() and small.sum() == 30
    mask[200:] = 100  # a soft edge
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    assert read_mask_at(tmp_path / "a_mask.png", tmp_path / "a.png", (40, 30), threshold=128).sum() == 30
    Image.fromarray(mask[:-1]).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a_mask.png: expected the size of its image"):
        read_mask_at(tmp_path / "a_mask.png", tmp_path / "a.png", (40, 30))
