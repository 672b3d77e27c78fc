"""Items of a data set: what they hold, that caching and workers change nothing, that broken data is found at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mffpa_ext.data.dataset import DefectDataset, PixelBudget
from mffpa_ext.data.images import read_image, read_mask
from mffpa_ext.data.synthetic import SyntheticImage
from mffpa_ext.data.targets import TargetSpec, make_target
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

from .conftest import noise, spot, write_gray

SPEC = TargetSpec(3, 10.0, 1.0)


@pytest.fixture
def records(tmp_path):
    """Positive, positive without annotation, three negatives, one of them with a mask file; a synthetic positive."""
    made = []
    for i, (label, annotated, has_mask) in enumerate(
            [(0, True, False), (1, True, True), (0, True, True), (1, False, True), (0, True, False)]):
        image = write_gray(tmp_path / f"{i}.png", noise(i, (30, 44)))
        mask = write_gray(tmp_path / f"{i}_mask.png", spot((30, 44), 255 * label)) if has_mask else None
        made.append(Record(f"{i}", image, mask, label, annotated))
    return made + [Record("5", SyntheticImage((1, 2, 3), (24, 32), "blob"), None, 1, True)]


def dataset(records, **settings):
    return DefectDataset(records, (24, 32), settings.pop("channels", 1), SPEC, **settings)


def test_items(records):
    data = dataset(records)
    assert len(data) == 6 and data.names == list("012345")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.annotated.tolist() == [True, True, True, False, True, True]
    for i in range(6):
        item = data[i]
        assert set(item) == {"image", "target", "weight", "label", "segmented", "index"}
        assert item["image"].shape == (1, 24, 32) and item["image"].dtype == torch.uint8
        assert item["target"].shape == item["weight"].shape == (1, 3, 4)
        assert item["target"].dtype == item["weight"].dtype == item["label"].dtype == torch.float32
        assert item["label"].shape == item["segmented"].shape == () and item["segmented"].dtype == torch.bool
        assert item["index"] == i and item["label"] == data.labels[i]
        assert bool(item["segmented"]) == (i != 3)


def test_targets_by_kind(records):
    data = dataset(records)
    target, weight = make_target(read_mask(records[1].mask), (24, 32), SPEC)
    assert torch.equal(data[1]["target"], target) and torch.equal(data[1]["weight"], weight) and target.max() > 0
    for negative in (0, 2, 4):
        assert data[negative]["target"].eq(0).all() and data[negative]["weight"].eq(1).all()
    assert data[3]["target"].eq(0).all() and data[3]["weight"].eq(0).all()
    assert data[5]["target"].max() > 0


def test_samples_hide_masks_that_are_not_annotated(records):
    data = dataset(records)
    assert data.sample(3).mask is None and not data.sample(3).annotated
    assert data.sample(0).mask.eq(0).all()
    sample = data.sample(1)
    assert sample.mask.shape == (24, 32) and sample.mask.dtype == torch.uint8
    assert sample.mask.unique().tolist() == [0, 1]
    assert sample.mask.float().mean() == pytest.approx(spot((30, 44), 1).mean(), rel=0.2)
    assert torch.equal(sample.image, data[1]["image"]) and (sample.name, sample.label) == ("1", 1)


def same(one, two):
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one)


@pytest.mark.parametrize("kept", [0, 1, 4, 6])
def test_items_do_not_depend_on_what_is_cached(records, kept):
    everything, some = dataset(records), dataset(records, budget=PixelBudget((kept * 24 * 32 + 5) / 2**30))
    assert len(some._pixels) == kept
    assert all(same(everything[i], some[i]) for i in range(6))


def test_cached_images_are_not_read_again(records):
    data = dataset(records)
    before = [data[i] for i in range(5)]
    for record in records[:5]:
        record.image.unlink()
    assert all(same(data[i], before[i]) for i in range(5))


def test_positives_are_kept_first_and_parts_share_a_budget(records):
    budget = PixelBudget(4 * 24 * 32 / 2**30)
    first, second = dataset(records, budget=budget), dataset(records, budget=budget)
    assert [i for i in range(6) if first._slots[i] >= 0] == [0, 1, 3, 5] and len(second._pixels) == 0


def test_items_are_the_callers_own(records):
    data = dataset(records)
    item = data[1]
    expected = {key: torch.as_tensor(value).clone() for key, value in item.items()}
    for key in ("image", "target", "weight"):
        item[key].zero_()
    assert same(data[1], expected) and expected["image"].any()


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_workers_change_nothing(records, kept):
    data = dataset(records, budget=PixelBudget(kept * 24 * 32 / 2**30))
    here, there = (list(DataLoader(data, batch_size=4, num_workers=workers)) for workers in (0, 2))
    assert len(here) == len(there) == 2
    assert all(same(one, two) for one, two in zip(here, there))
    assert here[0]["label"].dtype == torch.float32 and here[0]["index"].tolist() == [0, 1, 2, 3]


def test_colour(records):
    assert dataset(records, channels=3)[5]["image"].shape == (3, 24, 32)
    assert torch.equal(dataset(records, channels=3)[0]["image"], read_image(records[0].image, 3, (24, 32)))


def test_index_out_of_range(records):
    data = dataset(records)
    assert data[-1]["index"] == 5
    with pytest.raises(IndexError):
        data[6]


@pytest.mark.parametrize("kept", [0, 6])
def test_broken_files_are_found_before_the_first_item(records, kept):
    for number in (4, 2):
        content = records[number].image.read_bytes()
        records[number].image.write_bytes(content[:len(content) // 2])
    with pytest.raises(UserError) as error:  # the first in order, whichever thread was quicker
        dataset(records, budget=PixelBudget(kept * 24 * 32 / 2**30))
    assert "2.png" in str(error.value)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_masks_of_another_size_are_told_even_unused(records, number):
    Image.fromarray(spot((44, 30), 255 * records[number].label)).save(records[number].mask)
    with pytest.raises(UserError, match="30x44.*44x30") as error:
        dataset(records)
    assert f"{number}_mask.png" in str(error.value) and f"{number}.png" in str(error.value)


@pytest.mark.parametrize("number, word", [(1, "marks no pixel"), (2, "marks pixels")])
def test_masks_that_contradict_the_label_are_told(records, number, word):
    Image.fromarray(spot((30, 44), 255 * (1 - records[number].label))).save(records[number].mask)
    with pytest.raises(UserError, match=word):
        dataset(records)


def test_annotated_positives_need_a_mask(records):
    with pytest.raises(UserError, match="1.png.*has none"):
        dataset([replace(records[1], mask=None)])
    assert not np.any(dataset([replace(records[1], mask=None, annotated=False)]).annotated)


@pytest.mark.parametrize("flips", [(), (-2,), (-1,), (-2, -1)])
def test_targets_of_mirrored_images_come_from_the_mask_file(records, flips):
    data = dataset(records)
    target, weight = make_target(np.flip(read_mask(records[1].mask), flips), (24, 32), SPEC)
    for _ in range(2):  # made, then kept
        assert torch.equal(data.target(1, flips)[0], target) and torch.equal(data.target(1, flips)[1], weight)
