"""Reading of image and mask files: every mode that cameras and label tools write, and every way a file is broken."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mffpa_ext.data.images import (
    check_same_size,
    is_image_file,
    largest_mask_value,
    read_header,
    read_image,
    read_mask,
    read_size,
)
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


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_the_bit_depth_of_the_camera(tmp_path, suffix, bits):
    samples = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(samples).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}", 1, bit_depth=bits)[0].numpy()
    assert image.min() == 0 and image.max() == 255
    assert np.abs(image - samples * 255.0 / (2**bits - 1)).max() <= 0.51
    if bits < 16:
        samples[3, 3] = 2**bits
        Image.fromarray(samples).save(tmp_path / f"a{suffix}")
        with pytest.raises(UserError, match=f"up to {2**bits - 1} with --bit-depth {bits}, got {2**bits}"):
            read_image(tmp_path / f"a{suffix}", 1, bit_depth=bits)


def test_eight_bit_files_have_no_other_depth(tmp_path):
    pixels = noise(0, (8, 8))
    assert np.array_equal(read_image(write_gray(tmp_path / "a.png", pixels), 1, bit_depth=12)[0], pixels)


def test_sixteen_bit_colour_is_read_by_its_upper_bytes(tmp_path):
    path = write_deep_colour(tmp_path / "a.png", 0xAB00)
    assert (read_image(path, 3) == 0xAB).all() and read_header(path).bits == 16
    with pytest.raises(UserError, match="got 16-bit colour or transparency"):
        read_image(path, 3, bit_depth=12)


def write_deep_colour(path, value):
    """A PNG with three samples of 16 bits, which Pillow reads and does not write."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\0" + struct.pack(">H", value) * 3 * 4) * 4
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_several_images_in_one_file_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise(seed, (16, 16))) for seed in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    for read in (lambda: read_image(tmp_path / f"a{suffix}", 1), lambda: read_mask(tmp_path / f"a{suffix}")):
        with pytest.raises(UserError, match=f"a{suffix}: expected one image, got a file that holds 3"):
            read()


def test_a_picture_of_a_phone_may_carry_a_preview(tmp_path):
    picture, preview = (Image.fromarray(noise(seed, (16, 16))) for seed in range(2))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=100)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert np.abs(read_image(tmp_path / "a.jpg", 1)[0].numpy().astype(int) - noise(0, (16, 16))).max() < 20


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the filter of `images`
def test_huge_images(tmp_path, monkeypatch):
    """Beyond Pillow's second limit an error, between the two none."""
    path = write_gray(tmp_path / "a.png", noise(0, (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert read_image(path, 1).shape == (1, 20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="a.png: too large .*: crop or shrink it") as error:
        read_image(path, 1)
    assert "400 pixels" in message(error)


@pytest.mark.parametrize("mode, gray, bits", [
    ("L", True, 8), ("1", True, 8), ("LA", True, 8), ("I;16", True, 16), ("RGB", False, 8), ("RGBA", False, 8)])
def test_headers(tmp_path, mode, gray, bits):
    image = Image.fromarray(np.full((6, 9), 300, np.uint16)) if mode == "I;16" else Image.new(mode, (9, 6))
    image.save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert (header.size, header.gray, header.bits, header.format) == ((6, 9), gray, bits, "PNG")


def test_lab_is_colour(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("LAB", (8, 8), (255, 128, 128)).save(path)  # white
    assert not read_header(path).gray
    assert (read_image(path, 3) >= 254).all() and (read_image(path, 1) >= 254).all()


def test_a_mode_that_does_not_convert_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("conversion not supported")

    path = write_gray(tmp_path / "a.png", noise(0, (8, 8)))
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(UserError) as error:
        read_image(path, 3)
    assert "a.png: cannot be read as an image (conversion not supported)" in message(error)


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


def soft_disc():
    y, x = np.mgrid[:40, :40]
    return np.clip(255 * (12.5 - np.hypot(x - 20, y - 20)) / 4, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "LA", "I;16", "JPEG"])
def test_masks_with_soft_edges_have_a_threshold(tmp_path, kind):
    soft, path = soft_disc(), tmp_path / ("m.jpg" if kind == "JPEG" else "m.png")
    if kind == "I;16":
        Image.fromarray(soft.astype(np.uint16) * 257).save(path)
    elif kind == "JPEG":
        Image.fromarray(soft).save(path, quality=95)
    else:
        Image.fromarray(soft).convert(kind).save(path)
    for threshold in (1, 64, 128, 255):
        expected = soft >= threshold
        differing = (read_mask(path, threshold) != expected).mean()
        assert differing == 0 or kind == "JPEG" and differing < 0.25
    assert (read_mask(path, 128) != (soft >= 128)).mean() < 0.02


@pytest.mark.parametrize("kind", ["L", "P", "1", "I;16"])
def test_masks_of_numbered_classes_keep_them_all(tmp_path, kind):
    classes = np.array([[0, 1, 0], [2, 0, 3]], np.uint8)
    if kind == "1":
        classes = np.minimum(classes, 1)
    image = Image.fromarray(classes.astype(np.uint16) if kind == "I;16" else classes * (255 if kind == "1" else 1))
    image = image.convert(kind) if kind in ("P", "1") else image
    if kind == "P":
        image.putpalette([0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0, 60])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", 128), classes > 0)


def test_masks_of_eight_bits_in_sixteen_are_not_scaled(tmp_path):
    Image.fromarray(np.array([[0, 100], [200, 255]], np.uint16)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", 128), [[0, 0], [1, 1]])
    assert largest_mask_value(tmp_path / "m.png") == 255


def test_the_noise_of_a_jpeg_is_no_defect(tmp_path):
    Image.fromarray(np.where(np.eye(16), 9, 0).astype(np.uint8)).save(tmp_path / "m.jpg", quality=95)
    assert read_mask(tmp_path / "m.jpg").any() and not read_mask(tmp_path / "m.jpg", 128).any()


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
