"""The oracle itself: the unfold-softmax-matmul-fold reference against loops written from the definition."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.ops.outlook_cases import Case, make, textbook

SMALL = (
    Case(3, 4, 2, 2, batch=2),
    Case(4, 3, 1, 3, stride=2),
    Case(2, 3, 1, 2, kernel_size=5),
    Case(3, 3, 2, 1, kernel_size=2, padding=0),
    Case(3, 2, 1, 2, kernel_size=2, padding=1),
    Case(5, 4, 1, 1, stride=3, padding=0),
    Case(1, 1, 2, 2),
)


def by_definition(case: Case, value: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """For every window q, element i and element j: weight the value under j and add it to the pixel under i."""
    k, heads, dim = case.kernel_size, case.heads, case.head_dim
    output = torch.zeros(case.value_shape, dtype=torch.float64)
    batch, grid_height, grid_width = logits.shape[:3]
    inside = lambda y, x: 0 <= y < case.height and 0 <= x < case.width  # noqa: E731
    for b, qy, qx, head in product(range(batch), range(grid_height), range(grid_width), range(heads)):
        top, left = case.stride * qy - case.pad, case.stride * qx - case.pad
        channels = slice(head * dim, (head + 1) * dim)
        for iy, ix in product(range(k), range(k)):
            if not inside(top + iy, left + ix):
                continue
            row = (head * k * k + iy * k + ix) * k * k
            powers = [math.exp(case.scale * logits[b, qy, qx, row + j].item()) for j in range(k * k)]
            for j, (jy, jx) in enumerate(product(range(k), range(k))):
                if inside(top + jy, left + jx):  # padded values are 0, but their power is in the sum below
                    weight = powers[j] / sum(powers)
                    if mask is not None:
                        weight *= mask[b, qy, qx, row + j].item()
                    output[b, top + iy, left + ix, channels] += weight * value[b, top + jy, left + jx, channels]
    return output


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
def test_reference_follows_the_definition(case: Case, mask: bool) -> None:
    value, logits, kept = make(case, torch.float64, mask)
    torch.testing.assert_close(textbook(case, value, logits, kept), by_definition(case, value, logits, kept))


def test_equal_logits_average_the_windows() -> None:
    """Ones stay ones where no window reaches over the border: each of the K^2 rows has weights that sum to 1."""
    case = Case(5, 5, 1, 1)
    y = textbook(case, torch.ones(case.value_shape), torch.zeros(case.logits_shape))
    torch.testing.assert_close(y[0, 2, 2, 0], torch.tensor(9.0))
    # A corner pixel: four windows; each sees 9 weights of 1/9 on 4, 6, 6 and 9 pixels inside the image.
    torch.testing.assert_close(y[0, 0, 0, 0], torch.tensor((4 + 6 + 6 + 9) / 9))
