"""Choices that a seed makes: which positives are annotated, what validates, how images are parted."""

from pathlib import Path

import pytest

from mffpa_ext.data.splits import (
    carve_validation,
    check_fixed_flags,
    choose_annotated,
    draw_parts,
    group_folds,
    part_by_seed,
    split_in_halves,
)
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError


def records_of(positives, negatives):
    return [Record(f"{i:03d}.png", Path(f"{i:03d}.png"), Path("mask"), int(i < positives), True)
            for i in range(positives + negatives)]


def foldered(folders=9, parts=4, twins=()):
    canonical = {second: first for first, second in twins}
    names = [f"kos{f:02d}" for f in range(folders)]
    return [Record(f"{name}/{p}", Path("x"), Path("mask"), int(p == 0), True, canonical.get(name, name), folder=name)
            for name in names for p in range(parts)]


def annotated(records):
    return {record.name for record in records if record.label and record.annotated}


@pytest.mark.parametrize("number, expected", [(0, 0), (1, 1), (7, 7), (20, 20), ("all", 20)])
def test_n_positives_are_annotated_and_every_negative(number, expected):
    chosen = choose_annotated(records_of(20, 30), number, seed=4)
    assert len(annotated(chosen)) == expected
    assert all(record.annotated for record in chosen if not record.label)
    assert [r.name for r in chosen] == [r.name for r in records_of(20, 30)]


def test_choice_depends_on_seed_only_and_grows_with_n():
    records = records_of(20, 5)
    sets = [annotated(choose_annotated(records, n, seed=4)) for n in (2, 5, 11)]
    assert sets[0] < sets[1] < sets[2]
    assert annotated(choose_annotated(records[::-1], 5, seed=4)) == sets[1]
    assert annotated(choose_annotated(records, 5, seed=5)) != sets[1]


def test_n_above_the_positives_given_by_hand_is_an_error():
    with pytest.raises(UserError, match="at most 20.*got 21"):
        choose_annotated(records_of(20, 30), 21, seed=0)


def test_ksdd_counts_folders():
    records = foldered() + [Record("kos00/9", Path("x"), None, 1, True, "kos00", "kos00")]
    for number in (1, 5):
        chosen = choose_annotated(records, number, seed=1, by_folder=True)
        marked = {r.folder for r in chosen if r.label and r.annotated}
        assert len(marked) == number
        assert all(r.annotated == (r.folder in marked) for r in chosen if r.label)
    with pytest.raises(UserError, match="at most 9.*folders"):
        choose_annotated(records, 10, seed=1, by_folder=True)


def test_flags_of_a_split_file_decide():
    records = choose_annotated(records_of(20, 5), 5, seed=0)
    assert "5 of 20" in check_fixed_flags(records, "all", "split_5.pyb", False)[0]
    assert check_fixed_flags(records, 5, "split_5.pyb", False) == []
    for number in (4, 6, 1000):
        with pytest.raises(UserError, match="marks 5 of 20"):
            check_fixed_flags(records, number, "split_5.pyb", False)
    everything = records_of(20, 5)
    assert "means all 20" in check_fixed_flags(everything, 1000, "split_1000.pyb", False)[0]
    with pytest.raises(UserError, match="marks 20 of 20"):
        check_fixed_flags(everything, 7, "split_1000.pyb", False)
    # The published N of KSDD's last fold is 33 where 34 folders are marked.
    assert check_fixed_flags(foldered(), 8, "split_8_8.pyb", True)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.95])
def test_validation_is_stratified(fraction):
    records = records_of(20, 60)
    train, validation = carve_validation(records, fraction, seed=2)
    assert sorted(r.name for r in train + validation) == [r.name for r in records]
    assert sum(r.label for r in validation) == min(19, round(20 * fraction))
    assert sum(not r.label for r in validation) == round(60 * fraction)


def test_validation_depends_on_the_seed_alone():
    records = records_of(20, 60)
    names = [{r.name for r in carve_validation(records, 0.2, seed)[1]} for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]
    assert {r.name for r in carve_validation(records[::-1], 0.2, 1)[1]} == names[0]
    assert carve_validation(records, 0.0, 1) == (records, [])


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_validation_keeps_items_whole(fraction):
    records = foldered(twins=[("kos01", "kos05")])
    for seed in range(8):
        train, validation = carve_validation(records, fraction, seed)
        assert not {r.group for r in train} & {r.group for r in validation}
        assert len({r.group for r in validation}) == round(8 * fraction)
        assert ("kos01" in {r.folder for r in train}) == ("kos05" in {r.folder for r in train})


@pytest.mark.parametrize("positives, negatives, kind",
                         [(1, 9, "defective"), (5, 1, "defect-free"), (5, 0, "defect-free")])
def test_too_few_to_part(positives, negatives, kind):
    with pytest.raises(UserError, match=f"at least 2 {kind}"):
        carve_validation(records_of(positives, negatives), 0.2, 0)


def test_small_fractions_set_one_of_each_kind_aside():
    _, validation = carve_validation(records_of(4, 6), 0.01, 0)
    assert sorted(r.label for r in validation) == [0, 1]


def test_halves():
    first, second = split_in_halves(records_of(71, 106), seed=0)
    assert (sum(r.label for r in first), len(first), sum(r.label for r in second), len(second)) == (36, 89, 35, 88)
    assert not {r.name for r in first} & {r.name for r in second}
    assert [r.name for r in first] != [r.name for r in split_in_halves(records_of(71, 106), seed=1)[0]]
    assert first == split_in_halves(records_of(71, 106), seed=0)[0]


def test_parts_of_given_numbers():
    records = records_of(20, 60)
    parts = draw_parts(records, ((5, 10), (3, 3), (4, 40)), seed=3)
    assert [(sum(r.label for r in part), sum(not r.label for r in part)) for part in parts] == [(5, 10), (3, 3), (4, 40)]
    names = [{record.name for record in part} for part in parts]
    assert len(set.union(*names)) == 65 and all(part == sorted(part, key=lambda r: r.name) for part in parts)
    assert draw_parts(records[::-1], ((5, 10),), seed=3)[0][::-1] == parts[0]
    assert draw_parts(records, ((5, 10),), seed=4)[0] != parts[0]
    larger = draw_parts(records, ((5, 10), (3, 3), (12, 40)), seed=3)
    assert larger[:2] == parts[:2] and names[2] < {record.name for record in larger[2]}
    with pytest.raises(ValueError, match="of 20 records"):
        draw_parts(records, ((5, 10), (16, 0)), seed=3)


def test_folds_by_group():
    groups = [("kos01", "kos26")] + [(f"kos{i:02d}",) for i in range(2, 10)]
    folds = group_folds(groups, 3, seed=7)
    assert sorted(name for fold in folds for name in fold) == sorted(name for group in groups for name in group)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert any({"kos01", "kos26"} <= fold for fold in folds)
    assert folds == group_folds(groups, 3, seed=7) != group_folds(groups, 3, seed=8)


def folder_records(good, masked, unmasked):
    kinds = [("g", 0, None)] * good + [("m", 1, Path("m"))] * masked + [("u", 1, None)] * unmasked
    return [Record(f"{kind}{i}", Path("x"), mask, label, annotated=True) for i, (kind, label, mask) in enumerate(kinds)]


@pytest.mark.parametrize("good, masked, unmasked", [
    (40, 12, 28), (3, 3, 0), (3, 0, 3), (3, 1, 2), (50, 2, 1), (7, 5, 5)])
@pytest.mark.parametrize("test, val", [(0.2, 0.2), (0.5, 0.5), (0, 0.9), (0.01, 0), (0, 0)])
def test_parts_by_seed_hold_every_kind(good, masked, unmasked, test, val):
    records = folder_records(good, masked, unmasked)
    for seed in range(5):
        parts = part_by_seed(records, test, val, seed)
        assert list(parts) == [record.name for record in records]
        for part in ["train"] + ["test"] * (test > 0) + ["val"] * (val > 0):
            names = [name for name in parts if parts[name] == part]
            assert any(name.startswith("g") for name in names) and any(name[0] in "mu" for name in names)
            if part == "train" and masked:
                assert any(name.startswith("m") for name in names)
    if (good, test, val) == (40, 0.2, 0.2):
        sizes = {part: [sum(parts[name] == part and name[0] == kind for name in parts) for kind in "gmu"]
                 for part in ("test", "val", "train")}
        assert sizes == {"test": [8, 2, 6], "val": [6, 2, 4], "train": [26, 8, 18]}
