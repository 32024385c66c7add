"""Requests that differ in one attribute name people who exist; unseen ones name people who could."""

import itertools

import numpy as np
import pytest

from facegen.data.interventions import flip_states, unseen_states


def draw(num=3000, seed=0):
    """Male, Beard (men only), Bald, Dark (never bald), Smile."""
    rng = np.random.default_rng(seed)
    male = rng.random(num) < 0.5
    beard = male & (rng.random(num) < 0.4)
    bald = rng.random(num) < 0.2
    dark = ~bald & (rng.random(num) < 0.5)
    return np.stack([male, beard, bald, dark, rng.random(num) < 0.5], axis=1).astype(np.int8)


@pytest.mark.parametrize("k", range(5))
def test_both_sides_of_a_flip_exist_in_the_data(k):
    states = draw()
    flips = flip_states(states, k, 200, generator=np.random.default_rng(1))
    existing = {tuple(row) for row in states}
    assert {tuple(row) for row in flips.states.reshape(-1, 5)} <= existing
    assert (flips.states[:, 0, k] == 0).all() and (flips.states[:, 1, k] == 1).all()
    others = np.delete(flips.states, k, axis=2)
    assert (others[:, 0] == others[:, 1]).all() and min(flips.support) > 50
    if k == 1:
        assert (flips.states[:, :, 0] == 1).all()  # only a man can be asked for a beard
    if k == 2:
        assert (flips.states[:, :, 3] == 0).all()  # whoever turns bald has no dark hair before


def test_contexts_follow_the_overlap_weights():
    states = np.repeat(np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int8), [90, 10, 50, 50], axis=0)
    flips = flip_states(states, 0, 20_000, generator=np.random.default_rng(2))
    first, second = 90 * 10 / 100, 50 * 50 / 100
    assert (flips.states[:, 0, 1] == 0).mean() == pytest.approx(first / (first + second), abs=0.02)
    assert flips.support == (140, 60)


def test_what_excludes_the_attribute_is_left_open_where_nothing_else_helps():
    ages = np.eye(4, dtype=np.int8)[np.random.default_rng(0).integers(0, 4, 400)]  # exactly one bin each
    smile = (np.random.default_rng(1).random((400, 1)) < 0.5).astype(np.int8)
    flips = flip_states(np.hstack([ages, smile]), 1, 50, generator=np.random.default_rng(2))
    assert (flips.states[:, :, [0, 2, 3]] == -1).all() and set(flips.states[:, :, 4].ravel()) == {0, 1}
    always = flip_states(np.ones((30, 2), np.int8), 0, 5, generator=np.random.default_rng(2))
    assert always.states[:, 0].tolist() == [[0, -1]] * 5 and always.support == (0, 0)


def test_unseen_combinations_are_new_and_possible():
    states = draw()
    gone = (states == [1, 1, 0, 1, 1]).all(axis=1)  # a possible one, taken out
    found = unseen_states(states[~gone], 20, generator=np.random.default_rng(3))
    assert [1, 1, 0, 1, 1] in found.tolist()
    existing = {tuple(row) for row in states[~gone]}
    assert not existing & {tuple(row) for row in found} and len({tuple(row) for row in found}) == len(found)
    assert not any(row[1] == 1 and row[0] == 0 for row in found.tolist())  # no bearded women
    everything = np.array(list(itertools.product((0, 1), repeat=3)) * 20, np.int8)
    assert unseen_states(everything, 4, generator=np.random.default_rng(3)).shape == (0, 3)
