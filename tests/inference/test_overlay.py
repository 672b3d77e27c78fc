"""Overlays pixel by pixel: which panels there are, where they lie, and what the heat map makes of a probability."""

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.inference.colormap import colors
from mffpa_ext.inference.overlay import Caption, blend, draw_overlay, heat, panel_size

CAPTION = Caption("part.png", 0.9, 0.5, "defective")


def overlay(size: tuple[int, int], mask: bool = False, probability: float = 0.0, **caption) -> np.ndarray:
    image = np.full((*size, 3), (10, 200, 30), np.uint8)
    known = np.pad(np.ones((10, 10)), ((20, size[0] - 30), (5, size[1] - 15))) if mask else None
    cells = np.full((4, 5), probability)
    return np.asarray(draw_overlay(image, cells, (32, 40), known, Caption(**CAPTION.__dict__ | caption)))


def boxes(pixels: np.ndarray, color: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width of the areas of one colour, in rows of equal extent."""
    found = []
    hit = (pixels == color).all(axis=2)
    while hit.any():
        top, left = np.argwhere(hit)[0]
        width = int(np.argmin(np.append(hit[top, left:], False)))
        height = int(np.argmin(np.append(hit[top:, left : left + width].all(axis=1), False)))
        found.append((int(top), int(left), height, width))
        hit[top : top + height, left : left + width] = False
    return [box for box in found if box[2] * box[3] > 400]


# colours

def test_lightness_rises_with_probability() -> None:
    """CIE L* of the colours, as it is seen and printed in gray."""
    linear = (colors(np.linspace(0, 1, 200)) / 255) ** 2.2
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    assert (np.diff(lightness) > 0).all()
    steps = np.diff(lightness[20::20])
    assert steps.max() < 1.3 * steps.min()  # evenly, about, once it is not black any more


def test_colors_by_hand() -> None:
    ends = [(0, 0, 4), (252, 255, 164), (252, 255, 164), (0, 0, 4)]
    np.testing.assert_allclose(colors(np.array([0.0, 1.0, 5.0, -1.0])), ends)
    np.testing.assert_allclose(colors(np.array(0.5 / 9)), (13.5, 6, 34.5))  # halfway from the first to the second


def test_up_to_one_half_the_image_shows_as_it_is() -> None:
    image = np.full((3, 1, 3), (10, 200, 30), np.uint8)
    pixels = blend(image, np.array([[0.5], [0.0], [1.0]]))
    assert pixels[:2].tolist() == image[:2].tolist()
    np.testing.assert_allclose(pixels[2, 0], 0.25 * image[2, 0] + 0.75 * np.array((252, 255, 164)), atol=1)


# the heat map's place

def test_cells_are_centred_on_every_eighth_pixel() -> None:
    """A single hot cell peaks at pixel 8 i of the network's image, as the targets of the training do."""
    cells = np.zeros((6, 8))
    cells[2, 3] = 1
    full = heat(cells, (48, 64), (48, 64))
    assert np.unravel_index(full.argmax(), full.shape) == (16, 24) and full[16, 24] == 1
    assert full[16, 28] == pytest.approx(0.5) and full[20, 28] == pytest.approx(0.25) and full[16, 32] == 0
    half = heat(cells, (48, 64), (24, 32))
    np.testing.assert_allclose(half, full.reshape(24, 2, 32, 2).mean(axis=(1, 3)), atol=1e-9)
    assert heat(np.full((6, 8), 0.3), (48, 64), (100, 31)) == pytest.approx(0.3)  # also at the edges


@pytest.mark.parametrize(
    "image, panel", [((512, 512), (512, 512)), ((1408, 512), (640, 233)), ((256, 1600), (102, 640)),
                     ((32, 64), (128, 256)), ((5000, 2), (640, 1))],
)
def test_panels_keep_the_shape_of_the_image(image: tuple, panel: tuple) -> None:
    assert panel_size(*image) == panel


# the whole picture

def test_image_and_heat_map_side_by_side() -> None:
    pixels = overlay((120, 100))
    first, second = boxes(pixels, (10, 200, 30))
    assert first[2:] == second[2:] == (120, 100)  # nothing drawn over a probability of 0
    assert first[0] == second[0] and second[1] == first[1] + 110
    assert boxes(pixels, (0, 0, 0)) == []


def test_with_a_known_mask_there_are_three() -> None:
    pixels = overlay((120, 100), mask=True)
    first, second = boxes(pixels, (10, 200, 30))
    top, left = first[0], first[1] + 110
    assert second[1] == first[1] + 220
    panel = pixels[top : top + 120, left : left + 100]
    assert (panel[20:30, 5:15] == 255).all() and panel.sum() == 100 * 3 * 255  # white inside, black outside


def test_wide_images_lie_below_one_another() -> None:
    first, second = boxes(overlay((80, 300)), (10, 200, 30))
    assert first[1] == second[1] and second[0] > first[0] + 80 and first[2:] == (80, 300)


def test_the_heat_map_is_hot_where_the_network_says() -> None:
    pixels = overlay((120, 100), probability=1.0)
    (image,) = boxes(pixels, (10, 200, 30))
    expected = tuple(blend(np.array([[(10, 200, 30)]]), np.ones((1, 1)))[0, 0])
    (hot,) = boxes(pixels, expected)
    assert hot == (image[0], image[1] + 110, 120, 100)
    bar = pixels[hot[0] : hot[0] + 120, hot[1] + 115]  # beside it, from 1 down to 0
    assert bar[0].tolist() == blend(np.full((1, 1, 3), 128), np.ones((1, 1)))[0, 0].tolist()
    assert (bar[60:] == 128).all() and bar[0].sum() > bar[30].sum() > bar[59].sum()


def ink(pixels: np.ndarray, rows: slice = slice(0, 32)) -> list[int]:
    """The darkest pixel's colour among the rows of the title."""
    area = pixels[rows].reshape(-1, 3)
    return area[area.sum(axis=1).argmin()].tolist()


def test_names_that_the_font_cannot_show_stay_apart() -> None:
    assert (overlay((120, 300), name="ä.png") != overlay((120, 300), name="ö.png")).any()


def test_the_title_tells_the_decision_by_colour_too() -> None:
    assert ink(overlay((120, 100))) == [178, 24, 24]
    assert ink(overlay((120, 100), decision="defect-free", score=0.1)) == [20, 110, 50]
    assert ink(overlay((120, 100), decision="unknown", threshold=None)) == [20, 20, 20]


@pytest.mark.parametrize("size", [(256, 3), (3, 256), (120, 100)])
@pytest.mark.parametrize("name", ["a" * 500, "Größe 漢字.png", "new\nline\x1b[31m\udce9.png", ""])
def test_titles_fit_whatever_the_shape_and_the_name(size: tuple[int, int], name: str) -> None:
    pixels = overlay(size, name=name, score=1 - 1e-12, threshold=1 - 1e-13, decision="defect-free")
    assert (pixels[:, :10] == 255).all() and (pixels[:, -2:] == 255).all()  # margins stay free
    assert (pixels[:10] == 255).all() and (pixels[-10:] == 255).all()
    assert isinstance(Image.fromarray(pixels), Image.Image)
