"""Cosines before and after an edit, on vectors at known angles."""

import numpy as np
import pytest

from facegen.metrics.identity import identity_cosines, preserved


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cosines_are_those_of_the_angles():
    angles = np.array([0, np.pi / 6, np.pi / 2, np.pi])
    before = np.tile([1.0, 0.0], (4, 1))
    after = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert identity_cosines(before, after) == pytest.approx(np.cos(angles))
    found = preserved(before, after, threshold=np.cos(np.pi / 6) - 1e-9)
    assert found.share_same == 0.5 and found.cosine.value == pytest.approx(np.cos(angles).mean())


def test_other_people_are_the_yardstick():
    rng = np.random.default_rng(0)
    people = unit(rng.normal(size=(300, 64)))
    same = preserved(people, unit(people + 0.05 * rng.normal(size=people.shape)), threshold=0.5)
    assert same.cosine.value > 0.9 and same.share_same == 1 and abs(same.different) < 0.01
    shuffled = preserved(people, np.roll(people, 1, axis=0), threshold=0.5)
    assert abs(shuffled.cosine.value) < 0.03 and shuffled.share_same < 0.01


def test_rows_must_be_unit_vectors_and_match():
    with pytest.raises(ValueError, match="unit"):
        identity_cosines(np.full((2, 4), 0.9), np.full((2, 4), 0.5))
    with pytest.raises(ValueError, match="shapes"):
        identity_cosines(np.eye(3), np.eye(2))
