"""Mirroring: image, target and weight together, from seed, epoch and index alone."""

import torch

from mffpa_ext.training.augment import flip_batch


def batch(indices: list[int]) -> dict[str, torch.Tensor]:
    """Images whose target and weight are derived from them, so that any disagreement shows."""
    images = torch.stack([torch.randint(0, 256, (1, 16, 24), dtype=torch.uint8,
                                        generator=torch.Generator().manual_seed(index)) for index in indices])
    return {"image": images, "target": images.float(), "weight": images.float() * 2 + 1,
            "label": torch.ones(len(indices)), "index": torch.tensor(indices)}


def drawn(before: torch.Tensor, after: torch.Tensor) -> tuple[bool, bool]:
    """Which flips made `after` of `before`: (vertical, horizontal). Random images have no symmetry."""
    for vertical in (False, True):
        for horizontal in (False, True):
            dims = [dim for dim, flip in ((-2, vertical), (-1, horizontal)) if flip]
            if torch.equal(torch.flip(before, dims), after):
                return vertical, horizontal
    raise AssertionError("not a mirror image")


def test_image_target_and_weight_are_mirrored_together() -> None:
    original = batch(list(range(40)))
    flipped = flip_batch(original, seed=0, epoch=0)
    assert torch.equal(flipped["target"], flipped["image"].float())
    assert torch.equal(flipped["weight"], flipped["image"].float() * 2 + 1)
    assert torch.equal(flipped["label"], original["label"]) and torch.equal(flipped["index"], original["index"])
    seen = {drawn(a, b) for a, b in zip(original["image"], flipped["image"])}
    assert len(seen) == 4  # each of the four among forty images


def test_the_draw_depends_on_seed_epoch_and_index_only() -> None:
    together = flip_batch(batch([3, 8, 5]), seed=7, epoch=2)
    for position, index in enumerate([3, 8, 5]):
        alone = flip_batch(batch([index]), seed=7, epoch=2)  # in another batch, at another position
        assert torch.equal(alone["image"][0], together["image"][position])


def test_another_seed_or_epoch_draws_anew() -> None:
    indices = list(range(32))
    draws = [
        [drawn(a, b) for a, b in zip(batch(indices)["image"], flip_batch(batch(indices), seed, epoch)["image"])]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert draws[0] != draws[1] and draws[0] != draws[2] and draws[1] != draws[2]


def test_the_batch_that_came_in_is_left_alone() -> None:
    original, kept = batch(list(range(8))), batch(list(range(8)))
    flip_batch(original, seed=0, epoch=0)
    assert all(torch.equal(original[key], kept[key]) for key in kept)
