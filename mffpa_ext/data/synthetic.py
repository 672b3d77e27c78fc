"""Synthetic surfaces with small defects: a data set of its own, computed from (seed, index) in milliseconds.

Each image is brushed grain with dust under uneven light, and with hot spots as strong as a defect: good and bad images
alike have the brightness, contrast and extremes of a defect, so that statistics of pixels or of blocks do not tell them
apart. What does is shape: a defect has an edge, light has none. A defect differs from the surface by a multiple of the
standard deviation around it, never by absolute brightness.

Test images come from a seed of their own and are the same whatever the run's seed; training images vary with it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.splits import Layout
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

KINDS = ("blob", "scratch", "stain")
# Strengths are in standard deviations: of the surface around it for a defect, of the grain for light. They belong
# together: a test holds a logistic regression on simple statistics to an average precision of at most 0.88.
CONTRAST = (3.1, 4.0)
LIGHT = (0.1, 0.9)
HOT_SPOTS, HOT_SPOT_STRENGTH = 5, (1.5, 3.0)  # at most so many in an image

_TRAIN_STREAM, _TEST_STREAM = 0, 1
_TEST_SEED = 52891  # not the one that contrast and training settings were chosen with
_SMALLEST = 32  # below it defects shrink to nothing
_REFERENCE = 96  # lengths below are pixels of an image whose shorter side is this


@dataclass(frozen=True)
class SyntheticImage:
    """The recipe of one image. key: numbers that seed it; size: H×W in pixels; kind: one of KINDS, None: no defect."""

    key: tuple[int, ...]
    size: tuple[int, int]
    kind: str | None

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the image uint8 [H,W] and its mask uint8 [H,W] of 0 and 1; the same at each call."""
        return render(np.random.default_rng(self.key), self.size, self.kind)


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of `synthetic_train` images that vary with the seed and `synthetic_test` fixed ones, half defective.

    Records cost nothing, so `test_only` saves nothing.
    """
    if min(config.image_size) < _SMALLEST:
        raise UserError(f"--image-size: expected sides of at least {_SMALLEST} for synthetic images, "
                        f"got {config.image_size[0]} {config.image_size[1]}: defects would have no pixels left")
    train = _records("train", (seed, _TRAIN_STREAM), config.synthetic_train, config.image_size)
    test = _records("test", (_TEST_SEED, _TEST_STREAM), config.synthetic_test, config.image_size)
    note = (f"synthetic images: {len(train)} for training from seed {seed}, {len(test)} for the test, "
            f"the same for every seed")
    return Layout(train, test, official=True, notes=[note])


def _records(part: str, key: tuple[int, ...], count: int, size: tuple[int, int]) -> list[Record]:
    positives = count // 2
    kinds = [KINDS[i % len(KINDS)] if i < positives else None for i in range(count)]
    return [Record(f"{part}/{i:04d}{f'_{kind}' if kind else ''}", SyntheticImage((*key, i), size, kind), None,
                   int(kind is not None), annotated=True) for i, kind in enumerate(kinds)]


def render(rng: np.random.Generator, size: tuple[int, int], kind: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image and its mask, both uint8 [H,W]; see `SyntheticImage.render`."""
    grain_angle = rng.normal(0.6, 0.25)
    surface = _surface(rng, size, grain_angle)
    mask = np.zeros(size, dtype=bool)
    if kind is not None:
        scale = min(size) / _REFERENCE
        center = rng.uniform(0.15, 0.85, 2) * size
        y, x = (axis - middle for axis, middle in zip(np.ogrid[:size[0], :size[1]], center))
        shape, mask = _SHAPES[kind](rng, x, y, scale, grain_angle)
        nearby = surface[np.hypot(x, y) < 20 * scale]
        amplitude = rng.choice((-1, 1)) * rng.uniform(*CONTRAST) * nearby.std()
        if kind == "scratch":
            amplitude *= 1.3  # thin: less of it to see
        if kind == "stain":
            surface = surface * (1 - 0.5 * shape)  # covers the grain as well
        surface = surface + amplitude * shape
    exposed = (surface - surface.mean()) / surface.std() * rng.uniform(0.09, 0.15) + rng.uniform(0.4, 0.6)
    return np.rint(np.clip(exposed, 0, 1) * 255).astype(np.uint8), mask.astype(np.uint8)


def _surface(rng: np.random.Generator, size: tuple[int, int], angle: float) -> np.ndarray:
    """A good surface, float32 [H,W], of about unit variance before the light falls on it."""
    grain = _noise(rng, size, rng.uniform(0.10, 0.16), rng.uniform(0.03, 0.05), angle) * rng.uniform(0.5, 0.9)
    surface = grain + _noise(rng, size, 0.3, 0.3, 0.0) * rng.uniform(0.4, 0.8)
    surface /= surface.std()
    surface *= np.exp(rng.uniform(0, 0.3) * _noise(rng, size, 0.015, 0.015, 0.0))  # uneven contrast
    surface += rng.uniform(-0.2, 0.2) * (surface * surface - 1)  # tone curve
    surface += _noise(rng, size, 0.012, 0.012, 0.0) * rng.uniform(*LIGHT)  # slow light
    for _ in range(rng.integers(0, HOT_SPOTS + 1)):
        surface += rng.choice((-1, 1)) * rng.uniform(*HOT_SPOT_STRENGTH) * _hot_spot(rng, size)
    dust = rng.integers(0, max(1, size[0] * size[1] // 576))
    surface.flat[rng.integers(0, surface.size, dust)] += rng.normal(0, 2.5, dust)
    return surface


def _hot_spot(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A round patch of light or shadow, float32 [H,W] in 0..1, without the edge that a defect has."""
    radius = rng.uniform(10, 16) * min(size) / _REFERENCE
    y, x = (np.exp(-0.5 * ((np.arange(side) - rng.uniform(0, side)) / radius) ** 2).astype(np.float32)
            for side in size)
    return y[:, None] * x[None, :]


def _noise(rng: np.random.Generator, size: tuple[int, int], along: float, across: float, angle: float) -> np.ndarray:
    """Gaussian noise float32 [H,W], mean 0, variance 1, band-limited to `along` and `across` cycles per pixel."""
    u, v = _frequencies(size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    envelope = np.exp(-0.5 * (((cos * u + sin * v) / np.float32(along)) ** 2
                              + ((cos * v - sin * u) / np.float32(across)) ** 2))
    # Drawn in the frequency domain: white noise has a white spectrum, and one transform is saved.
    spectrum = rng.standard_normal((*envelope.shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * envelope
    plane = fft.irfft2(spectrum, s=size)
    return (plane - plane.mean()) / plane.std()


@lru_cache(maxsize=8)
def _frequencies(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return fft.rfftfreq(size[1]).astype(np.float32)[None, :], fft.fftfreq(size[0]).astype(np.float32)[:, None]


def _edge(distance: np.ndarray, steepness: float) -> np.ndarray:
    """1 inside (distance below 1), 0 outside, with a soft border."""
    return 1 / (1 + np.exp(np.clip((distance - 1) * steepness, -30, 30)))


def _rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


# A shape is its strength float [H,W] in 0..1 and its mask bool [H,W]. x [1,W] and y [H,1] are measured from its centre;
# `angle` is the direction of the grain.
Shape = tuple[np.ndarray, np.ndarray]


def _blob(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scale: float, angle: float) -> Shape:
    long, short = rng.uniform(6.7, 11.5) * scale, rng.uniform(4.8, 7.7) * scale
    u, v = _rotated(x, y, rng.uniform(0, np.pi))
    distance = np.hypot(u / long, v / short)
    return _edge(distance, 6), distance < 1


def _scratch(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scale: float, angle: float) -> Shape:
    """A slightly bent line that runs across the grain: along it, it would be grain."""
    half, width = rng.uniform(14, 24) * scale, rng.uniform(1.3, 1.9) * scale + 0.3
    u, v = _rotated(x, y, angle + np.pi / 2 + rng.uniform(0.5, np.pi - 0.5))
    v = v - rng.uniform(-0.5, 0.5) / half * u * u
    beyond = np.clip((np.abs(u) - half) / 2, 0, None)
    return np.exp(-0.5 * (v / width) ** 2 - 0.5 * beyond ** 2), (np.abs(v) < 1.5 * width) & (np.abs(u) < half)


def _stain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scale: float, angle: float) -> Shape:
    """A ragged spot that covers the grain."""
    radius = rng.uniform(7.7, 11.5) * scale
    size = (y.shape[0], x.shape[1])
    distance = np.hypot(x, y) / radius + 0.35 * _noise(rng, size, 0.05 / scale, 0.05 / scale, 0.0)
    return _edge(distance, 5), (distance < 1) & (np.hypot(x, y) < 2 * radius)


_SHAPES = {"blob": _blob, "scratch": _scratch, "stain": _stain}
