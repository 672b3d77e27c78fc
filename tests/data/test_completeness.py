"""Incomplete copies of published data sets: they train, but not as official ones."""

import shutil

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.loading import load_part, plan_splits


def told(plan):
    return [note for note in plan.notes if "not the published data set" in note]


def blank(path):
    Image.fromarray(np.zeros((40, 24), np.uint8)).save(path)


def test_ksdd2(ksdd2_root):
    config = DataConfig("ksdd2", str(ksdd2_root), image_size=(40, 24))
    whole = plan_splits(config, 0)
    assert whole.official and told(whole) == []
    blank(ksdd2_root / "train" / "10000_GT.png")
    plan = plan_splits(config, 0)
    assert not plan.official and len(plan.train) == 13 and not any("as published" in note for note in plan.notes)
    assert len(told(plan)) == 1 and "train: expected 5 + 8 images" in told(plan)[0] and "found 4 + 9" in told(plan)[0]
    assert load_part(config, 0, "test", progress=False).official  # which is complete
    for name in ("20006.png", "20006_GT.png"):
        (ksdd2_root / "test" / name).unlink()
    part = load_part(config, 0, "test", progress=False)
    assert not part.official and any("test: expected 3 + 4" in note and "found 3 + 3" in note for note in part.notes)


@pytest.mark.parametrize("half", ["Train", "Test"])
def test_dagm_without_a_listing_that_knows_of_the_lost_mask(dagm_root, half):
    config = DataConfig("dagm", str(dagm_root), image_size=(24, 32))
    assert plan_splits(config, 0).official
    label = dagm_root / "Class1" / half / "Label"
    (label / "Labels.txt").unlink()
    assert plan_splits(config, 0).official
    next(label.glob("*_label.PNG")).unlink()
    plan = plan_splits(config, 0)
    assert not plan.official and len(told(plan)) == 1 and f"{half}: expected" in told(plan)[0]


def test_ksdd(ksdd_root):
    config = DataConfig("ksdd", str(ksdd_root), image_size=(40, 24))
    assert told(plan_splits(config, 0)) == []
    shutil.rmtree(ksdd_root / "kos05")
    assert "all: expected 9 + 18 images (defective + defect-free), found 8 + 16" in told(plan_splits(config, 0))[0]


def test_steel(steel_root, small_steel_lists):
    config = DataConfig("steel", str(steel_root), image_size=(64, 400), steel_positives=3)
    assert told(plan_splits(config, 0)) == []
    lines = (steel_root / "train.csv").read_text().splitlines(keepends=True)
    (steel_root / "train.csv").write_text("".join(lines[:-1]))
    assert "found 11 + 15" in told(plan_splits(config, 0))[0]
