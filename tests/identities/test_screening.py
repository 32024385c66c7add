"""Screening: thresholds of strangers in closed form, and who is kept and why."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facegen.identities import screening
from facegen.identities.screening import nearest, screen, stranger_threshold


def _at(*degrees: float) -> np.ndarray:
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], np.float32)


def _cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_threshold_is_a_quantile_of_strangers_nearest() -> None:
    training = _at(0, 100)
    unseen = _at(10, 80, 130, 200)  # 10, 20, 30 and 100 degrees from the nearest
    for quantile, degrees in ((1.0, 10), (2 / 3, 20), (1 / 3, 30), (0.0, 100)):
        assert stranger_threshold(unseen, training, quantile=quantile) == pytest.approx(_cos(degrees), abs=1e-6)


def test_nearest_is_the_same_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 4)), rng.normal(size=(7, 4))
    expected = [max(float(x @ y) for y in b) for x in a]
    monkeypatch.setattr(screening, "BATCH", 3)
    assert np.allclose(nearest(a, b), expected) and len(nearest(a[:0], b)) == 0


def test_who_is_kept_and_why() -> None:
    centres = _at(40, 3, 42, 60, 61, 90, 120)
    found = screen(centres, _at(0), max_to_training=_cos(10), max_to_each_other=_cos(5), wanted=3)
    assert found.kept.tolist() == [0, 3, 5]
    assert found.reasons == ["", "training", "twin", "", "twin", "", "spare"]
    assert np.allclose(found.nearest_training, [_cos(d) for d in (40, 3, 42, 60, 61, 90, 120)], atol=1e-6)
    assert np.allclose(found.nearest_kept, [-1, _cos(37), _cos(2), _cos(20), _cos(1), _cos(30), _cos(30)], atol=1e-6)


def test_too_near_to_training_does_not_make_twins() -> None:
    """Somebody who is sorted out takes no place: the next one is compared with those kept alone."""
    found = screen(_at(3, 12), _at(0), max_to_training=_cos(10), max_to_each_other=_cos(15), wanted=2)
    assert found.reasons == ["training", ""]


def test_fewer_than_wanted_is_no_error_and_limits_are_allowed() -> None:
    found = screen(_at(10, 10), _at(0), max_to_training=1.0, max_to_each_other=1.0, wanted=5)
    assert found.kept.tolist() == [0, 1]
    assert screen(_at(1, 2), _at(0), max_to_training=-1, max_to_each_other=1, wanted=2).kept.tolist() == []


def test_what_cannot_be_told_is_refused() -> None:
    for unseen, training, quantile, message in (
        (_at(1), _at(2), 1.5, "between 0 and 1"),
        (_at(1)[:0], _at(2), 0.5, "no unseen people"),
        (_at(1), _at(2)[:0], 0.5, "expected"),
        (np.ones((2, 3)), _at(2), 0.5, "expected"),
    ):
        with pytest.raises(ValueError, match=message):
            stranger_threshold(unseen, training, quantile=quantile)
