"""What follows from the headers of the images: size, channels, and hints at settings that would spoil them."""

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.data.survey import LARGEST, default_size, survey
from mffpa_ext.errors import UserError

from .conftest import noise, write_gray


def colour(path, size, gray=False):
    planes = [noise(0 if gray else plane, size) for plane in range(3)]
    return write_gray(path, np.stack(planes, axis=2))


def look(paths, image_size=None, channels="auto", bit_depth=16):
    return survey(paths, image_size, channels, bit_depth)


@pytest.mark.parametrize("sizes, expected", [
    ([(512, 512)], (512, 512)),
    ([(100, 61)], (96, 64)),
    ([(3, 300)], (8, 304)),
    ([(64, 64), (128, 128), (128, 256)], (128, 128)),
    ([(64, 64), (96, 96)], (80, 80)),
    ([(1408, 512)], (1408, 512)),
    ([(4096, 4096)], (1024, 1024)),
    ([(3000, 4000)], (880, 1176)),
])
def test_default_size(sizes, expected):
    size = default_size(sizes)
    assert size == expected and size[0] * size[1] <= LARGEST and size[0] % 8 == size[1] % 8 == 0


def test_one_size_is_taken_as_it_is(tmp_path):
    seen = look([write_gray(tmp_path / f"{i}.png", noise(i, (40, 48))) for i in range(3)])
    assert (seen.image_size, seen.channels, seen.notes) == ((40, 48), 1, [])
    assert seen.found == ["sizes (height x width): 40x48 (3)", "kinds: 3 gray; files: 3 PNG",
                          "read as: 1 channel (auto), 40x48"]


def test_mixed_sizes_formats_and_kinds(tmp_path):
    paths = [colour(tmp_path / "a.jpg", (64, 64)), colour(tmp_path / "b.bmp", (64, 64)),
             write_gray(tmp_path / "c.png", noise(0, (96, 96)).astype(np.uint16) * 200)]
    seen = look(paths)
    assert (seen.image_size, seen.channels, seen.notes) == ((64, 64), 3, [])
    assert seen.found[0].endswith("64x64 (2), 96x96 (1)")
    assert seen.found[1] == "kinds: 2 colour, 1 gray 16-bit; files: 1 JPEG, 1 BMP, 1 PNG"
    assert seen.found[2] == "read as: 3 channels (auto), 64x64 (their median; --image-size takes another)"


def test_many_sizes_are_summed_up(tmp_path):
    paths = [write_gray(tmp_path / f"{i}.png", noise(0, (40 + i, 48))) for i in range(9)]
    assert look(paths).found[0].endswith("and 5 more, heights 40 to 48, widths 48 to 48")


def test_what_is_given_is_not_chosen(tmp_path):
    seen = look([write_gray(tmp_path / "a.png", noise(0, (40, 48)))], (80, 96), 3)
    assert (seen.image_size, seen.channels) == ((80, 96), 3) and seen.found[2] == "read as: 3 channels, 80x96"


def test_large_images_are_shrunk_and_said_to_be(tmp_path):
    seen = look([write_gray(tmp_path / "a.png", np.zeros((1600, 1600), np.uint8))])
    assert seen.image_size == (1024, 1024) and "shrunk to less than 1 megapixel; --image-size" in seen.found[2]


def test_the_orientation_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(0, (40, 80))).save(tmp_path / "a.jpg", exif=exif)
    assert look([tmp_path / "a.jpg"]).image_size == (80, 40)


@pytest.mark.parametrize("palette, channels", [([0, 0, 0, 9, 9, 9], 1), ([0, 0, 0, 9, 0, 0], 3)])
def test_palettes_count_by_their_colours(tmp_path, palette, channels):
    image = Image.fromarray(noise(0, (16, 16)) % 2).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / "a.png")
    assert look([tmp_path / "a.png"]).channels == channels


def test_files_that_cannot_be_opened_are_told_of_later(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    good = write_gray(tmp_path / "a.png", noise(0, (40, 48)))
    assert list(look([tmp_path / "bad.png", good]).headers) == [good]
    with pytest.raises(UserError, match="none of 1 images can be opened; the first: .*bad.png"):
        look([tmp_path / "bad.png"])


def test_images_that_are_stretched_are_noted(tmp_path):
    paths = [write_gray(tmp_path / f"{i}.png", noise(0, size)) for i, size in enumerate([(64, 64), (64, 64), (48, 96)])]
    assert "those of 48x96 by a factor of 2.00" in look(paths).notes[0]
    assert look(paths[:2], (64, 72)).notes == []


def test_a_bit_depth_that_was_forgotten_is_noted(tmp_path):
    path = write_gray(tmp_path / "a.png", noise(0, (16, 16)).astype(np.uint16) * 16)
    assert "--bit-depth 12" in look([path]).notes[0]
    assert look([path], bit_depth=12).notes == []
    assert look([write_gray(tmp_path / "b.png", noise(0, (16, 16)).astype(np.uint16) * 256)]).notes == []


def test_gray_images_stored_in_colour_are_noted(tmp_path):
    paths = [colour(tmp_path / "a.png", (16, 16), gray=True)]
    assert "--channels 1" in look(paths).notes[0]
    assert look(paths, channels=3).notes == [] and look([*paths, colour(tmp_path / "b.png", (16, 16))]).notes == []
