"""Probabilities to colours: inferno, whose lightness rises evenly from black to pale yellow.

Ten of its colours, with straight lines between them. It is one of matplotlib's perceptually ordered colour maps
(Nathaniel J. Smith and Stéfan van der Walt, CC0); order is kept in gray print and for the colour-blind.
"""

import numpy as np

_INFERNO = np.array(
    [
        (0x00, 0x00, 0x04), (0x1B, 0x0C, 0x41), (0x4A, 0x0C, 0x6B), (0x78, 0x1C, 0x6D), (0xA5, 0x2C, 0x60),
        (0xCF, 0x44, 0x46), (0xED, 0x69, 0x25), (0xFB, 0x9B, 0x06), (0xF7, 0xD1, 0x3D), (0xFC, 0xFF, 0xA4),
    ],
    dtype=np.float64,
)


def colors(values: np.ndarray) -> np.ndarray:
    """values [...] in 0..1 (what lies outside is clipped) to RGB float64 [..., 3] in 0..255."""
    position = np.clip(values, 0, 1) * (len(_INFERNO) - 1)
    below = np.minimum(position.astype(np.int64), len(_INFERNO) - 2)
    part = (position - below)[..., None]
    return _INFERNO[below] * (1 - part) + _INFERNO[below + 1] * part
