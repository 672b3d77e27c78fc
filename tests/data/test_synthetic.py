"""The synthetic images: reproducible, quick, and not to be told apart by simple statistics."""

import warnings
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.loading import load_splits
from mffpa_ext.data.synthetic import KINDS, SyntheticImage
from mffpa_ext.errors import UserError

SIMPLE = 0.88  # average precision that a logistic regression on simple statistics may reach at most


@pytest.fixture(scope="module")
def splits():
    return load_splits(DataConfig(val_fraction=0.0, synthetic_train=600), 0, progress=False)


def pixels(part):
    return np.stack([part[i]["image"].numpy()[0] for i in range(len(part))])


@lru_cache(maxsize=1)
def images_of(seed):
    # More images than a training has by default: the more there are, the better the statistics are used.
    data = load_splits(DataConfig(val_fraction=0.0, synthetic_train=600), seed, progress=False)
    return pixels(data.train), data.train.labels, pixels(data.test), data.test.labels


def simple_statistics(images):
    """Mean, variance, quantiles, and the extremes of mean and variance over 8×8 blocks: [N, features]."""
    images = images / 255.0
    count, height, width = images.shape
    blocks = images.reshape(count, height // 8, 8, width // 8, 8)
    means, variances = blocks.mean((2, 4)).reshape(count, -1), blocks.var((2, 4)).reshape(count, -1)
    flat = images.reshape(count, -1)
    levels = (0, .001, .005, .01, .02, .05, .1, .25, .5, .75, .9, .95, .98, .99, .995, .999, 1)
    columns = [flat.mean(1), flat.var(1), means.min(1), means.max(1), variances.min(1), variances.max(1)]
    return np.column_stack(columns + list(np.quantile(flat, levels, axis=1)))


def relative_to_the_image(images):
    """The same with brightness and contrast of each image taken out, which is harder to defend against."""
    planes = images / 255.0
    planes = (planes - planes.mean((1, 2), keepdims=True)) / planes.std((1, 2), keepdims=True)
    return np.column_stack([simple_statistics(images), simple_statistics(planes * 255.0)])


@pytest.mark.parametrize("features", [simple_statistics, relative_to_the_image])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_simple_statistics_do_not_separate(seed, features):
    train, train_labels, test, test_labels = images_of(seed)
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=(.01, .1, 1, 10, 100), cv=3, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = model.fit(features(train), train_labels).decision_function(features(test))
    precision = average_precision_score(test_labels, scores)
    print(f"{features.__name__}, seed {seed}: AP {precision:.3f}")
    assert 0.6 < precision <= SIMPLE  # below 0.6 the statistics or the defects would be broken


def test_parts(splits):
    assert (len(splits.train), splits.train.labels.sum()) == (600, 300)
    assert (len(splits.test), splits.test.labels.sum()) == (300, 150)
    assert splits.image_size == (96, 96) and splits.channels == 1 and splits.validation is None
    for kind in KINDS:
        assert sum(kind in name for name in splits.train.names) == 100
    everything = np.concatenate([pixels(splits.train), pixels(splits.test)]).reshape(900, -1)
    assert len(np.unique(everything, axis=0)) == 900


def test_validation_by_default_and_counts_are_settings():
    data = load_splits(DataConfig(synthetic_train=60, synthetic_test=20, image_size=(32, 48)), 3, progress=False)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [48, 12, 20]
    assert [int(part.labels.sum()) for part in (data.train, data.validation, data.test)] == [24, 6, 10]
    assert data.train[0]["image"].shape == (1, 32, 48) and data.train[0]["target"].shape == (1, 4, 6)


def test_the_seed_changes_training_and_never_the_test():
    small = DataConfig(synthetic_train=12, synthetic_test=12, val_fraction=0.0)
    first, again, other = (load_splits(small, seed, progress=False) for seed in (5, 5, 6))
    assert np.array_equal(pixels(first.train), pixels(again.train))
    assert not np.array_equal(pixels(first.train), pixels(other.train))
    assert np.array_equal(pixels(first.test), pixels(other.test))
    # The seed of the test images is not one that a run may happen to have.
    assert not np.array_equal(pixels(load_splits(small, 2021, progress=False).train), pixels(first.test))


def test_an_image_does_not_depend_on_the_others():
    few = load_splits(DataConfig(synthetic_train=12, synthetic_test=6, val_fraction=0.0), 5, progress=False)
    more = load_splits(DataConfig(synthetic_train=12, synthetic_test=30, val_fraction=0.0), 5, progress=False)
    assert torch.equal(few.test[2]["image"], more.test[2]["image"])


@pytest.mark.parametrize("size", [(96, 96), (32, 32), (40, 136)])
def test_no_defect_is_without_pixels(size):
    assert all(SyntheticImage((3, i), size, KINDS[i % 3]).render()[1].sum() >= 5 for i in range(90))


def test_sizes_too_small_for_a_defect():
    with pytest.raises(UserError, match="--image-size.*at least 32.*24 96"):
        load_splits(DataConfig(image_size=(24, 96)), 0, progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_lie_on_the_defect(kind):
    """A defect differs from the same surface without it, inside its mask and nowhere far from it."""
    for i in range(12):
        image, mask = SyntheticImage((9, i), (96, 96), kind).render()
        good, empty = SyntheticImage((9, i), (96, 96), None).render()
        assert not empty.any() and 0 < mask.mean() < 0.08
        inside, outside = mask > 0, ~ndimage.binary_dilation(mask, iterations=12)
        # The exposure of the two differs, so each is compared with its own surroundings.
        change = ndimage.gaussian_filter(image.astype(float), 1) - ndimage.gaussian_filter(good.astype(float), 1)
        offset = np.median(change[outside])
        assert np.abs(change[inside] - offset).mean() > 3 * np.abs(change[outside] - offset).mean()


def test_good_and_bad_images_have_the_same_light():
    """Average brightness and contrast, the first things a network could cheat with, do not tell."""
    means, spreads = ({}, {})
    for label in (0, 1):
        images = np.stack([SyntheticImage((4, i), (96, 96), KINDS[i % 3] if label else None).render()[0]
                           for i in range(label * 500, label * 500 + 150)])
        means[label], spreads[label] = images.mean((1, 2)), images.std((1, 2))
    assert abs(means[0].mean() - means[1].mean()) < 0.3 * means[0].std()
    assert abs(spreads[0].mean() - spreads[1].mean()) < 0.5 * spreads[0].std()
