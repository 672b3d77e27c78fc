"""What an epoch holds, over labels of every proportion, and that it resumes exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mffpa_ext.data.sampler import BalancedSampler
from mffpa_ext.errors import UserError


def labels_of(positives, negatives, seed=0):
    return np.random.default_rng(seed).permutation([1] * positives + [0] * negatives)


@settings(max_examples=60, deadline=None)
@given(positives=st.integers(1, 20), negatives=st.integers(1, 40), seed=st.integers(0, 100))
def test_an_epoch_is_all_positives_and_as_many_negatives_in_turn(positives, negatives, seed):
    labels = labels_of(positives, negatives, seed)
    sampler = BalancedSampler(labels, seed)
    for _ in range(3):
        order = np.array(list(sampler))
        assert len(order) == len(sampler) == 2 * positives
        assert (labels[order[0::2]] == 1).all() and (labels[order[1::2]] == 0).all()
        assert sorted(order[0::2]) == list(np.flatnonzero(labels))
        used = np.bincount(order[1::2], minlength=len(labels))[labels == 0]
        # Without replacement as far as there are enough, and as evenly as can be where there are not.
        assert used.max() - used.min() <= 1 and used.sum() == positives


def test_negatives_are_used_evenly_over_epochs():
    sampler = BalancedSampler(labels_of(10, 100), seed=3)
    uniform = np.random.default_rng(3)
    by_chance = np.zeros(100)
    for _ in range(40):
        list(sampler)
        by_chance[uniform.permutation(100)[:10]] += 1
    assert sampler.times_used.sum() == 400
    assert sampler.times_used.std() < 0.5 * by_chance.std()
    assert sampler.times_used.min() >= 2


def test_draws_are_random_and_not_a_rota():
    """Even use must not mean that the same images always meet."""
    sampler = BalancedSampler(labels_of(10, 40), seed=0)
    epochs = [frozenset(list(sampler)[1::2]) for _ in range(8)]
    assert len(set(epochs)) == 8
    assert any(len(epochs[i] & epochs[i + 1]) > 0 for i in range(7))


def test_seed_decides():
    labels = labels_of(8, 30)
    first, again, other = ([list(s) for _ in range(4)] for s in
                           (BalancedSampler(labels, 1), BalancedSampler(labels, 1), BalancedSampler(labels, 2)))
    assert first == again != other
    assert first[0] != first[1]


@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_saved_state_goes_on_exactly(done, tmp_path):
    labels = labels_of(8, 30)
    straight = BalancedSampler(labels, 1)
    expected = [list(straight) for _ in range(9)]
    first = BalancedSampler(labels, 1)
    for _ in range(done):
        list(first)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed = BalancedSampler(labels, 99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [list(resumed) for _ in range(9 - done)] == expected[done:]


def test_saved_state_does_not_move_with_the_sampler():
    sampler = BalancedSampler(labels_of(8, 30), 1)
    state = sampler.state_dict()
    list(sampler)
    assert state["times_used"].sum() == 0 and state["epoch"] == 0


def test_set_epoch_chooses_the_epoch():
    labels = labels_of(8, 8)
    one, two = BalancedSampler(labels, 1), BalancedSampler(labels, 1)
    one.set_epoch(3)
    two.set_epoch(3)
    assert list(one) == list(two)
    two.set_epoch(4)
    one.set_epoch(3)
    assert list(one) != list(two)


@pytest.mark.parametrize("labels, word", [([0, 0], "no defective"), ([1, 1], "no defect-free")])
def test_a_missing_kind_is_told(labels, word):
    with pytest.raises(UserError, match=word):
        BalancedSampler(labels, 0)


def test_state_of_other_data_is_refused():
    state = BalancedSampler([0, 0, 1], 0).state_dict()
    with pytest.raises(UserError, match="2 defect-free training images, there are 3"):
        BalancedSampler([0, 0, 0, 1], 0).load_state_dict(state)
