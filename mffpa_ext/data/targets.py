"""Pixel masks → segmentation targets and loss weights on the 1/8 grid of the mask logits.

Order of the steps, which decides the result (MixSup, Božič et al. 2021, section 3):

1. The binary mask is dilated at its own resolution, so that the margin is the same number of mask pixels whatever the
   training size. The structuring element is a full square of `dilate` × `dilate` pixels; for an even side its centre
   is the lower right of the four middle pixels.
2. It is resized to the image size, bilinearly with antialiasing, exactly as the image is, so that both stay aligned.
   Its edges are soft from then on.
3. The weight map is drawn at the image size: every pixel that the resized mask touches, however faintly, is inside.
   A threshold there would lose scratches thinner than a training pixel.
4. Target and weight map are both reduced by reflection pad 8 and a 17×17 average every 8 pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from mffpa_ext.data.config import STRIDE, DataConfig

_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class TargetSpec:
    """How a mask becomes a target: `weight` is w and `power` p of w·(distance / largest distance)^p."""

    dilate: int = 1
    weight: float = 1.0
    power: float = 1.0
    transform: str = "whole"  # or "component"

    @classmethod
    def from_config(cls, config: DataConfig) -> "TargetSpec":
        """Of a resolved config."""
        return cls(config.dilate, config.distance_weight, config.distance_power, config.distance_transform)


def dilate(mask: np.ndarray, side: int) -> np.ndarray:
    """Dilates a mask uint8 [H,W] with a `side` × `side` square; same shape and dtype. Outside the image is empty."""
    return mask if side == 1 else ndimage.maximum_filter(mask, size=side, mode="constant", cval=0)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Binary mask [h,w] → coverage float32 [H,W] in 0..1, bilinear with antialiasing; unchanged where sizes agree."""
    soft = torch.from_numpy(np.ascontiguousarray(mask)).float()
    if tuple(mask.shape) == tuple(size):
        return soft
    return F.interpolate(soft[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def binary_mask(mask: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Binary mask [h,w] → uint8 [H,W] of the pixels that are at least half covered, for evaluation and display.

    A defect too thin to cover half a pixel anywhere keeps the pixels it covers most, rather than vanish.
    """
    coverage = resize_mask(mask, size)
    return (coverage >= min(0.5, float(coverage.max()) or 0.5)).to(torch.uint8)


def weight_map(mask: np.ndarray, spec: TargetSpec) -> np.ndarray:
    """Loss weight of each pixel: 1 outside the mask, w·(d / max d)^p inside it.

    mask: [H,W], nonzero inside. d is the Euclidean distance in pixels to the nearest pixel outside; `max d` is taken
    over the whole mask ("whole": MixSup's first release, the published numbers) or over each 8-connected component
    ("component": its later code). A mask without any outside has no distances; all its pixels get w.
    Returns float32 [H,W].
    """
    inside = np.asarray(mask) > 0
    weights = np.ones(inside.shape, dtype=np.float32)
    if not inside.any():
        return weights
    if inside.all():
        return np.full_like(weights, spec.weight)
    distance = ndimage.distance_transform_edt(inside)
    if spec.transform == "component":
        labels, count = ndimage.label(inside, structure=_EIGHT_CONNECTED)
        # One transform serves all components: a nearest pixel outside a component is never part of another one, as
        # its neighbour on the way would be nearer still, and outside too, or else join the two.
        largest = ndimage.maximum(distance, labels, index=np.arange(count + 1))
        largest = np.asarray(largest)[labels]
    else:
        largest = np.full(inside.shape, distance.max())
    weights[inside] = spec.weight * (distance[inside] / largest[inside]) ** spec.power
    return weights


def reduce_to_grid(plane: torch.Tensor) -> torch.Tensor:
    """float32 [H,W] → [1,H/8,W/8]: means of 17×17 pixels around every 8th, with the border reflected.

    Reflection by 8 needs sides above 8; an image with a side of 8 repeats its border instead.
    """
    mode = "reflect" if min(plane.shape) > STRIDE else "replicate"
    padded = F.pad(plane[None, None], (STRIDE,) * 4, mode=mode)
    return F.avg_pool2d(padded, kernel_size=2 * STRIDE + 1, stride=STRIDE)[0]


def make_target(mask: np.ndarray, size: tuple[int, int], spec: TargetSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Segmentation target and loss weight of one image.

    mask: uint8 [h,w], 0 or 1, at its own resolution; empty for a negative. size: image size H×W, multiples of 8.
    Returns (target, weight), both float32 [1,H/8,W/8]; an empty mask gives zeros and ones.
    """
    if not mask.any():
        return empty_target(size)
    soft = resize_mask(dilate(mask, spec.dilate), size)
    weights = torch.from_numpy(weight_map(soft.numpy(), spec))
    return reduce_to_grid(soft), reduce_to_grid(weights)


def empty_target(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and weight of an image without defect: zeros and ones, float32 [1,H/8,W/8]."""
    grid = (1, size[0] // STRIDE, size[1] // STRIDE)
    return torch.zeros(grid), torch.ones(grid)


def unknown_target(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and weight of a positive without annotation: zeros, so that nothing counts; float32 [1,H/8,W/8]."""
    grid = (1, size[0] // STRIDE, size[1] // STRIDE)
    return torch.zeros(grid), torch.zeros(grid)
