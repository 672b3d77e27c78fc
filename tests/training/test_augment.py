"""Mirroring: the image and the target of its mirrored mask together, from seed, epoch and index alone."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.data.synthetic import SyntheticImage
from mffpa_ext.data.targets import TargetSpec, make_target
from mffpa_ext.data.types import Record
from mffpa_ext.training.augment import flip_batch

SIZE = (32, 40)
SPEC = TargetSpec(3, 10.0, 1.0)


@pytest.fixture(scope="module")
def dataset() -> DefectDataset:
    """Forty images: by turns a blob, a scratch, one without defect and a stain without annotation."""
    records = [Record(str(i), SyntheticImage((1, i), SIZE, kind), None, int(kind is not None), kind != "stain")
               for i, kind in enumerate(["blob", "scratch", None, "stain"] * 10)]
    return DefectDataset(records, SIZE, 1, SPEC)


def batch(dataset: DefectDataset, indices: list[int]) -> dict[str, torch.Tensor]:
    return default_collate([dataset[index] for index in indices])


def drawn(before: torch.Tensor, after: torch.Tensor) -> tuple[int, ...]:
    """Which flips made `after` of `before`. Noisy images have no symmetry."""
    for flips in ((), (-2,), (-1,), (-2, -1)):
        if torch.equal(torch.flip(before, flips), after):
            return flips
    raise AssertionError("not a mirror image")


def test_targets_are_those_of_the_mirrored_mask(dataset: DefectDataset) -> None:
    original = batch(dataset, list(range(40)))
    flipped = flip_batch(original, dataset, seed=0, epoch=0)
    seen = set()
    for index in range(40):
        flips = drawn(original["image"][index], flipped["image"][index])
        kind = dataset.records[index].image.kind
        target, weight = original["target"][index], original["weight"][index]
        if kind in ("blob", "scratch"):
            mask = dataset.records[index].image.render()[1]
            target, weight = make_target(np.flip(mask, flips), SIZE, SPEC)
            seen.add(flips)
        assert torch.equal(flipped["target"][index], target) and torch.equal(flipped["weight"][index], weight)
    assert len(seen) == 4  # each of the four among the annotated ones
    assert all(torch.equal(flipped[key], original[key]) for key in ("label", "segmented", "index"))


@pytest.mark.parametrize("flips", [(-2,), (-1,), (-2, -1)])
def test_a_mirrored_target_stays_with_its_defect(dataset: DefectDataset, flips: tuple[int, ...]) -> None:
    """Mirroring the map of the unmirrored mask would put its centre 7 pixels beside the mirrored defect."""
    mask = np.zeros((160, 160), dtype=np.uint8)
    mask[30:62, 80:112] = 1

    def centre(plane: np.ndarray) -> np.ndarray:
        return np.array([np.average(axis, weights=plane) for axis in np.indices(plane.shape)])

    mirrored = np.flip(mask, flips)
    target, _ = make_target(mirrored, mask.shape, TargetSpec())
    assert np.abs(8 * centre(target[0].numpy()) - centre(mirrored)).max() < 1
    naive = np.flip(make_target(mask, mask.shape, TargetSpec())[0][0].numpy(), flips)
    assert np.abs(8 * centre(naive) - centre(mirrored)).max() > 6


def test_mirrored_targets_are_made_once_and_are_the_callers_own(dataset: DefectDataset, monkeypatch) -> None:
    first = dataset.target(0, (-1,))
    monkeypatch.setattr(SyntheticImage, "render", lambda self: pytest.fail("rendered again"))
    expected = first[0].clone()
    first[0].zero_()
    assert torch.equal(dataset.target(0, (-1,))[0], expected) and expected.any()
    for index in (2, 3):  # nothing but the image is mirrored, so nothing is read for the others
        assert all(torch.equal(a, b) for a, b in zip(dataset.target(index, (-2, -1)), dataset.target(index)))


def test_the_draw_depends_on_seed_epoch_and_index_only(dataset: DefectDataset) -> None:
    together = flip_batch(batch(dataset, [3, 8, 5]), dataset, seed=7, epoch=2)
    for position, index in enumerate([3, 8, 5]):
        alone = flip_batch(batch(dataset, [index]), dataset, seed=7, epoch=2)  # in another batch, at another position
        assert all(torch.equal(alone[key][0], together[key][position]) for key in ("image", "target", "weight"))


def test_another_seed_or_epoch_draws_anew(dataset: DefectDataset) -> None:
    original = batch(dataset, list(range(32)))
    draws = [
        [drawn(a, b) for a, b in zip(original["image"], flip_batch(original, dataset, seed, epoch)["image"])]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert draws[0] != draws[1] and draws[0] != draws[2] and draws[1] != draws[2]


def test_the_batch_that_came_in_is_left_alone(dataset: DefectDataset) -> None:
    original, kept = batch(dataset, list(range(8))), batch(dataset, list(range(8)))
    flip_batch(original, dataset, seed=0, epoch=0)
    assert all(torch.equal(original[key], kept[key]) for key in kept)
