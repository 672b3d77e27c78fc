"""One picture per prediction, after Fig. 7 of the paper: image, known mask, heat map, and above them the score.

The heat map is the network's mask, the probability of a defect at every pixel, laid over the image. The logits of a
mask have mean 0 in every image (the network normalises them), so 0.5 is what a surface without a defect hovers about:
the map is transparent up to there, and the more opaque the closer to 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mffpa_ext.data.config import STRIDE
from mffpa_ext.inference.colormap import colors

_OPACITY = 0.75  # of the heat map at probability 1
_SMALLEST, _LARGEST = 256, 640  # the longer side of a panel, in pixels
_WIDE = 1.6  # from this width / height on, panels lie below one another
_GAP, _BAR = 10, 14
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_TITLE_COLORS = {"defective": (178, 24, 24), "defect-free": (20, 110, 50)}
_TITLE, _SMALL = 17, 12  # text, in pixels


@dataclass(frozen=True)
class Caption:
    """What stands above the panels. threshold None: there is none."""

    name: str
    score: float
    threshold: float | None
    decision: str


def panel_size(height: int, width: int) -> tuple[int, int]:
    """H×W of a panel for an image of H×W pixels: of the same shape, small ones enlarged and large ones reduced."""
    longer = max(height, width)
    scale = min(max(longer, _SMALLEST), _LARGEST) / longer
    return max(1, round(height * scale)), max(1, round(width * scale))


def heat(probability: np.ndarray, image_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The network's mask [h, w] at another size H×W, linear between its cells.

    image_size: H×W of the network's input, whose pixels 0, 8, 16, ... are the centres of the cells.
    """
    rows, columns = (_interpolation(cells, pixels, wanted)
                     for cells, pixels, wanted in zip(probability.shape, image_size, size))
    return rows @ probability.astype(np.float64) @ columns.T


def _interpolation(cells: int, pixels: int, wanted: int) -> np.ndarray:
    """Weights [wanted, cells] of the cells, of which `pixels` pixels have one every 8, for the centres of `wanted`."""
    at = np.clip(((np.arange(wanted) + 0.5) * pixels / wanted - 0.5) / STRIDE, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))


def blend(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Lays probabilities [H, W] over an image [H, W, 3] of 0..255; returns uint8 [H, W, 3]."""
    opacity = (_OPACITY * np.clip(2 * probability - 1, 0, 1))[..., None]
    return np.rint(image * (1 - opacity) + colors(probability) * opacity).astype(np.uint8)


def draw_overlay(image: np.ndarray, probability: np.ndarray, image_size: tuple[int, int], mask: np.ndarray | None,
                 caption: Caption) -> Image.Image:
    """Draws one overlay.

    image: uint8 [H, W, 3], see `panel_size`. probability: [h, w] in 0..1, the network's mask; image_size: H×W of its
    input. mask: [H, W], 0 outside, or None where it is not known.
    """
    height, width = image.shape[:2]
    hot = blend(image, heat(probability, image_size, (height, width)))
    panels = [("image", image)]
    if mask is not None:
        panels.append(("mask", np.repeat(np.where(mask > 0, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)))
    panels.append(("heat map", hot))

    stacked = width >= _WIDE * height
    label = _line_height(_SMALL) + 2
    column = max(width, int(_font(_SMALL).getlength("heat map")) + 1)
    step_x, step_y = (0, height + label + _GAP) if stacked else (column + _GAP, 0)
    bar_height = max(height, 3 * _line_height(_SMALL))
    bar_width = _GAP + _BAR + 4 + int(_font(_SMALL).getlength("0.5")) + 2
    title, color = _title(caption)
    head = _GAP + _line_height(_TITLE) + 4 + _line_height(_SMALL) + _GAP
    text_width = int(_font(_TITLE).getlength(title)) + 1
    total_width = 2 * _GAP + max(column + step_x * (len(panels) - 1) + bar_width, text_width)
    total_height = head + label + bar_height + step_y * (len(panels) - 1) + _GAP
    canvas = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP), title, color, _font(_TITLE))
    name_top = _GAP + _line_height(_TITLE) + 4
    draw.text((_GAP, name_top), _shortened(caption.name, total_width - 2 * _GAP), _FAINT, _font(_SMALL))
    for number, (text, pixels) in enumerate(panels):
        left, top = _GAP + step_x * number, head + step_y * number
        draw.text((left, top), text, _INK, _font(_SMALL))
        canvas.paste(Image.fromarray(pixels), (left, top + label))
    _draw_bar(canvas, draw, left + column + _GAP, top + label, bar_height)
    return canvas


def _title(caption: Caption) -> tuple[str, tuple[int, int, int]]:
    color = _TITLE_COLORS.get(caption.decision, _INK)
    if caption.threshold is None:
        return f"score {caption.score:.4f}, no threshold", color
    relation = ">=" if caption.score >= caption.threshold else "<"
    digits = next((n for n in (4, 8) if f"{caption.score:.{n}f}" != f"{caption.threshold:.{n}f}"), 16)
    return f"score {caption.score:.{digits}f} {relation} {caption.threshold:.{digits}f}: {caption.decision}", color


def _draw_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, height: int) -> None:
    """The colours of 0 (below) to 1 as they look on middle gray."""
    values = np.repeat(np.linspace(1, 0, height)[:, None], _BAR, axis=1)
    canvas.paste(Image.fromarray(blend(np.full((*values.shape, 3), 128.0), values)), (left, top))
    line = _line_height(_SMALL)
    for text, y in (("1", top - 2), ("0.5", top + height // 2 - line // 2), ("0", top + height - line + 2)):
        if text != "0.5" or height > 4 * line:
            draw.text((left + _BAR + 4, y), text, _FAINT, _font(_SMALL))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _line_height(size: int) -> int:
    return sum(_font(size).getmetrics())


def _shortened(text: str, width: int) -> str:
    """The end of a name that is too long: beginnings are what the names of a folder have in common."""
    # Pillow's own font has ASCII alone: other characters are written out, as boxes would make names alike.
    text = "".join(character if " " <= character <= "~" else ascii(character)[1:-1] for character in text)
    if _font(_SMALL).getlength(text) <= width:
        return text
    kept = len(text)
    while kept and _font(_SMALL).getlength("…" + text[-kept:]) > width:
        kept -= 1
    return "…" + text[-kept:] if kept else "…"
