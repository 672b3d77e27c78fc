"""Targets and weights against plain loops that share no code with the implementation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mffpa_ext.data.targets import (TargetSpec, binary_mask, dilate, make_target, reduce_to_grid, resize_mask,
                                    weight_map)


def brute_dilate(mask, side):
    height, width = mask.shape
    out = np.zeros_like(mask)
    low, high = side // 2, side - 1 - side // 2
    for y in range(height):
        for x in range(width):
            out[y, x] = mask[max(0, y - low):y + high + 1, max(0, x - low):x + high + 1].max()
    return out


def brute_distance(mask):
    outside = np.argwhere(mask == 0)
    return np.array([[np.sqrt(((outside - (y, x)) ** 2).sum(1).min()) if mask[y, x] else 0.0
                      for x in range(mask.shape[1])] for y in range(mask.shape[0])])


def brute_components(mask):
    """Flood fill over eight neighbours."""
    labels, count = np.zeros(mask.shape, int), 0
    for start in map(tuple, np.argwhere(mask)):
        if labels[start]:
            continue
        count += 1
        stack = [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return labels


def brute_weights(mask, weight, power, transform):
    distance, out = brute_distance(mask), np.ones(mask.shape)
    labels = brute_components(mask) if transform == "component" else (mask > 0).astype(int)
    for label in range(1, labels.max() + 1):
        part = labels == label
        out[part] = weight * (distance[part] / distance[part].max()) ** power
    return out


def mirrored(index, length):
    """Reflection that does not repeat the border."""
    index = abs(index)
    return index if index < length else 2 * (length - 1) - index


def brute_reduce(plane):
    height, width = plane.shape
    return np.array([[np.mean([plane[mirrored(8 * i + dy, height), mirrored(8 * j + dx, width)]
                               for dy in range(-8, 9) for dx in range(-8, 9)])
                      for j in range(width // 8)] for i in range(height // 8)])


def random_mask(seed, size=(24, 32)):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for _ in range(3):
        y, x = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        mask[y:y + rng.integers(1, 7), x:x + rng.integers(1, 7)] = 1
    return mask


@pytest.mark.parametrize("side", [1, 2, 3, 7, 15])
def test_dilation_is_a_full_square(side):
    mask = random_mask(side)
    assert np.array_equal(dilate(mask, side), brute_dilate(mask, side))


@pytest.mark.parametrize("transform", ["whole", "component"])
@pytest.mark.parametrize("dilation, weight, power", [(1, 1.0, 2.0), (3, 10.0, 1.0), (7, 3.0, 2.0)])
def test_target_and_weight_equal_plain_loops(transform, dilation, weight, power):
    mask = random_mask(dilation)
    target, weights = make_target(mask, mask.shape, TargetSpec(dilation, weight, power, transform))
    grown = brute_dilate(mask, dilation)
    assert target.shape == weights.shape == (1, 3, 4) and target.dtype == weights.dtype == torch.float32
    np.testing.assert_allclose(target[0], brute_reduce(grown), atol=1e-6)
    np.testing.assert_allclose(weights[0], brute_reduce(brute_weights(grown, weight, power, transform)), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.sampled_from([0.5, 1.0, 2.0]))
def test_component_distances_of_random_speckle(seed, power):
    """Close neighbours and diagonal contact are where one distance transform for all components could go wrong."""
    mask = (np.random.default_rng(seed).random((12, 13)) < 0.6).astype(np.uint8)
    if mask.all():
        return
    np.testing.assert_allclose(weight_map(mask, TargetSpec(1, 5.0, power, "component")),
                               brute_weights(mask, 5.0, power, "component"), rtol=1e-5)


def test_the_two_normalisations_differ_where_defects_differ_in_size():
    mask = np.zeros((32, 32), np.uint8)
    mask[2:5, 2:5] = mask[10:25, 10:25] = 1
    whole = weight_map(mask, TargetSpec(1, 10.0, 1.0, "whole"))
    component = weight_map(mask, TargetSpec(1, 10.0, 1.0, "component"))
    assert whole[3, 3] == pytest.approx(10 * 2 / 8) and component[3, 3] == pytest.approx(10)
    assert whole[17, 17] == component[17, 17] == pytest.approx(10)


def test_dilation_comes_before_the_resize():
    """A margin of 3 mask pixels is 1.5 pixels at half the size, not 3."""
    mask = np.zeros((64, 64), np.uint8)
    mask[32:40, 32:40] = 1
    target, _ = make_target(mask, (32, 32), TargetSpec(7, 1.0, 1.0))
    expected = np.zeros((32, 32))
    expected[15:21, 15:21] = 1  # pixels 29 to 42 of the mask: 14.5 to 21.5 here
    expected[14, 15:21] = expected[21, 15:21] = expected[15:21, 14] = expected[15:21, 21] = 0.5
    np.testing.assert_allclose(target[0], brute_reduce(expected), atol=0.01)


@pytest.mark.parametrize("size", [(16, 24), (48, 64), (24, 32), (8, 8)])
def test_resized_masks_keep_their_place_and_share(size):
    mask = random_mask(3)
    soft = resize_mask(mask, size)
    assert soft.shape == size and 0 <= soft.min() and soft.max() <= 1
    assert soft.mean() == pytest.approx(mask.mean(), rel=0.1)


def test_empty_mask():
    target, weight = make_target(np.zeros((20, 20), np.uint8), (16, 24), TargetSpec(7, 10.0, 1.0))
    assert torch.equal(target, torch.zeros(1, 2, 3)) and torch.equal(weight, torch.ones(1, 2, 3))


def test_mask_that_covers_everything():
    target, weight = make_target(np.ones((16, 16), np.uint8), (16, 16), TargetSpec(7, 10.0, 2.0))
    assert torch.allclose(target, torch.ones(1, 2, 2)) and torch.allclose(weight, torch.full((1, 2, 2), 10.0))


@pytest.mark.parametrize("size", [(8, 8), (8, 64), (16, 8)])
def test_sides_of_eight_pixels_have_a_target(size):
    assert torch.allclose(reduce_to_grid(torch.full(size, 0.5)), torch.full((1, size[0] // 8, size[1] // 8), 0.5))


def test_thin_defects_survive_the_resize():
    mask = np.zeros((256, 256), np.uint8)
    mask[100, 20:200] = 1
    target, weight = make_target(mask, (32, 32), TargetSpec(1, 10.0, 1.0))
    assert target.max() > 0 and weight.max() > 1
    assert 10 <= binary_mask(mask, (32, 32)).sum() <= 60


def test_binary_mask_is_the_mask_where_sizes_agree():
    mask = random_mask(5)
    assert np.array_equal(binary_mask(mask, mask.shape).numpy(), mask)
