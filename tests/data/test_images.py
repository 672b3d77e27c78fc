"""Reading of image and mask files: every mode that cameras and label tools write, and every way a file is broken."""

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext.data.images import check_same_size, is_image_file, read_image, read_mask, read_size
from mffpa_ext.errors import UserError

from .conftest import noise, write_gray


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_gray_as_it_is(tmp_path):
    pixels = noise(0, (10, 14))
    image = read_image(write_gray(tmp_path / "a.png", pixels), 1)
    assert image.dtype == torch.uint8 and np.array_equal(image[0], pixels)


def test_gray_and_colour_become_each_other(tmp_path):
    pixels = noise(0, (10, 14))
    gray = write_gray(tmp_path / "gray.png", pixels)
    colour = write_gray(tmp_path / "colour.png", np.stack([pixels, pixels // 2, pixels // 3], axis=2))
    assert np.array_equal(read_image(gray, 3), np.stack([pixels] * 3))
    assert np.array_equal(read_image(colour, 3)[1], pixels // 2)
    luma = 0.299 * pixels + 0.587 * (pixels // 2) + 0.114 * (pixels // 3)
    assert np.abs(read_image(colour, 1)[0].numpy() - luma).max() <= 1


@pytest.mark.parametrize("mode, channels", [("RGBA", 3), ("LA", 1), ("P", 3), ("1", 1), ("CMYK", 3)])
def test_other_modes(tmp_path, mode, channels):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).convert(mode).save(path)
    assert read_image(path, channels).shape == (channels, 8, 8) and read_image(path, channels).min() == 255


def test_sixteen_bits_are_scaled_alike_for_every_image(tmp_path):
    for name, top in (("bright", 65535), ("dark", 6553)):
        samples = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
        Image.fromarray(samples).save(tmp_path / f"{name}.png")
        image = read_image(tmp_path / f"{name}.png", 1)[0].numpy()
        assert np.abs(image - samples / 257.0).max() <= 0.51


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="floating point") as error:
        read_image(tmp_path / "a.tif", 1)
    assert "a.tif" in message(error)


def test_orientation_is_applied(tmp_path):
    pixels = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[:, None], 8, axis=1)  # 16 high, brighter downwards
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png", 1)[0]
    assert image.shape == (8, 16) == read_size(tmp_path / "a.png")
    assert image[0, 0] == 150 and image[0, -1] == 0


def test_resize_is_antialiased(tmp_path):
    """A one-pixel checkerboard at a quarter of its size is gray; without antialiasing it stays black and white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = read_image(write_gray(tmp_path / "a.png", board), 1, (16, 24))[0]
    assert image.shape == (16, 24) and image.min() > 100 and image.max() < 155


def test_image_and_mask_stay_aligned(tmp_path):
    from mffpa_ext.data.targets import resize_mask
    mask = np.zeros((60, 44), np.uint8)
    mask[10:25, 7:30] = 1
    image = read_image(write_gray(tmp_path / "a.png", mask * 255), 1, (32, 24))[0].numpy()
    assert np.abs(image / 255 - resize_mask(mask, (32, 24)).numpy()).max() < 0.01


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "I;16"])
def test_masks_of_any_mode(tmp_path, mode):
    truth = np.zeros((9, 11), np.uint8)
    truth[2:5, 3:8] = 1
    path = tmp_path / "mask.png"
    if mode == "P":
        image = Image.fromarray(truth).convert("P")
        image.putpalette([0, 0, 0, 85, 85, 85, 255, 255, 255])
    elif mode == "I;16":
        image = Image.fromarray(truth.astype(np.uint16) * 300)  # low byte of 300 is not 300
    else:
        image = Image.fromarray(truth * 255).convert(mode)
    image.save(path)
    assert Image.open(path).mode == mode
    mask = read_mask(path)
    assert mask.dtype == np.uint8 and np.array_equal(mask, truth)


def test_palette_masks_count_by_index(tmp_path):
    """Both indices that KSDD uses are defect, whatever their colour."""
    truth = np.array([[0, 1], [2, 0]], np.uint8)
    image = Image.fromarray(truth).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.bmp")
    assert np.array_equal(read_mask(tmp_path / "m.bmp"), [[0, 1], [1, 0]])


def test_bitmaps_that_pillow_misreads_are_refused(tmp_path):
    """An 8-bit BMP with a black and white palette: Pillow returns wrong pixels, so a defect could silently vanish."""
    truth = np.zeros((8, 8), np.uint8)
    truth[2:5, 2:5] = 1
    image = Image.fromarray(truth).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "m.bmp")
    try:
        mask = read_mask(tmp_path / "m.bmp")
    except UserError as error:
        assert "m.bmp" in str(error)
    else:
        assert np.array_equal(mask, truth)  # a Pillow that reads it right
    Image.fromarray(truth * 255).convert("1").save(tmp_path / "one.bmp")
    assert np.array_equal(read_mask(tmp_path / "one.bmp"), truth)


def broken(kind, path):
    if kind == "missing":
        return "no such file"
    if kind == "empty":
        path.write_bytes(b"")
        return "0 bytes"
    if kind == "text":
        path.write_text("not an image")
        return "none"
    Image.fromarray(noise(0, (64, 64))).save(path)
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    return "cannot be read"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated"])
def test_broken_files_are_named(tmp_path, kind, suffix):
    path = tmp_path / f"broken{suffix}"
    expected = broken(kind, path)
    for read in (lambda: read_image(path, 1), lambda: read_mask(path)):
        with pytest.raises(UserError) as error:
            read()
        assert str(path) in message(error)
        # A cut TIFF has lost its directory, which comes last: it is no image any more.
        assert expected in message(error) or (kind, suffix) == ("truncated", ".tif")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(UserError) as error:
        read_image(tmp_path, 1)
    assert str(tmp_path) in message(error)


def test_sizes_are_compared(tmp_path):
    check_same_size(tmp_path / "a.png", (4, 6), tmp_path / "m.png", (4, 6))
    with pytest.raises(UserError) as error:
        check_same_size(tmp_path / "a.png", (4, 6), tmp_path / "m.png", (6, 4))
    assert all(part in message(error) for part in ("a.png", "m.png", "4x6", "6x4"))


def test_what_counts_as_an_image_file(tmp_path):
    for name in ("a.PNG", "b.jpg", "._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert sorted(p.name for p in tmp_path.iterdir() if is_image_file(p)) == ["a.PNG", "b.jpg"]
