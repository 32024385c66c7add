"""Linear probes: closed forms, what leaks and what does not, people kept apart, intervals over people."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.leakage_probe import (
    cross_fitted,
    fit_ridge,
    identity_auc,
    over_people,
    probe_report,
    within_people,
)
from facegen.metrics.pose import RIDGES, fit_landmarks, r_squared
from facegen.rng import numpy_generator


def rng(index: int = 0) -> np.random.Generator:
    return numpy_generator(0, "leakage probe tests", index)


def test_it_is_the_regression_of_the_landmarks():
    """facegen.metrics.pose solves the same problem in the space of pictures, for all targets with one ridge."""
    draw = rng()
    features, landmarks = draw.normal(size=(60, 12)), draw.normal(size=(1, 60))[0]
    features[:, 3] = 7.0  # says nothing
    landmarks = np.repeat(landmarks + features[:, 0] * 2, 10).reshape(60, 5, 2)
    theirs = fit_landmarks(features, landmarks)
    rows = draw.normal(size=(9, 12))
    mine = fit_ridge(features, landmarks.reshape(60, 10))(rows)
    centred = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    unit_theirs = np.linalg.eigvalsh(centred @ centred.T).mean()  # over pictures
    unit_mine = np.linalg.eigvalsh(centred.T @ centred).sum() / 12  # over features: another unit of the ridge
    told = []
    for ridge in RIDGES:
        inverse = np.linalg.inv(centred.T @ centred + ridge * unit_mine * np.eye(12))
        scale = np.where(features.std(0) > 0, features.std(0), 1)
        weights = inverse @ centred.T @ (landmarks.reshape(60, 10) - landmarks.reshape(60, 10).mean(0))
        told.append(
            (rows - features.mean(0)) / scale * (features.std(0) > 0) @ weights + landmarks.reshape(60, 10).mean(0)
        )
    assert unit_theirs != unit_mine and min(np.abs(mine - one).max() for one in told) < 1e-9
    assert np.corrcoef(mine[:, 0], theirs(rows)[:, 0, 0])[0, 1] > 0.98


def test_the_ridge_is_the_one_with_the_least_left_out_error():
    draw = rng(1)
    features = draw.normal(size=(25, 8))
    targets = np.stack([features[:, 0], draw.normal(size=25)], axis=1)  # told exactly; not at all
    standard = (features - features.mean(0)) / features.std(0)
    unit = np.linalg.eigvalsh(standard.T @ standard).mean()

    def without(row: int, ridge: float, target: np.ndarray) -> float:
        kept = np.arange(25) != row
        x, y = np.column_stack([np.ones(24), standard[kept]]), target[kept]
        penalty = np.diag([0.0, *[ridge * unit] * 8])
        return float(np.r_[1, standard[row]] @ np.linalg.solve(x.T @ x + penalty, x.T @ y) - target[row])

    for column in (0, 1):
        errors = [sum(without(row, ridge, targets[:, column]) ** 2 for row in range(25)) for ridge in RIDGES]
        ridge = RIDGES[int(np.argmin(errors))]
        weights = np.linalg.solve(standard.T @ standard + ridge * unit * np.eye(8), standard.T @ targets[:, column])
        offset = targets[:, column].mean() - targets.mean(0)[column]
        expected = standard @ weights + targets[:, column].mean() + offset
        assert np.allclose(fit_ridge(features, targets)(features)[:, column], expected)
    assert np.argmin(errors) == len(RIDGES) - 1  # noise: the strongest


def test_what_is_said_of_a_person_comes_from_others():
    """A feature that names the person can tell nothing about people who were never seen."""
    people = np.repeat(np.arange(12), 5)
    targets = rng(2).normal(size=12)[people][:, None]
    named = np.eye(12)[people] + rng(3).normal(0, 0.01, (60, 12))
    seen = fit_ridge(named, targets)(named)
    said = cross_fitted(named, targets, people, rng=rng(4))
    assert r_squared(targets, seen) > 0.9 and r_squared(targets, said) < 0.2
    with pytest.raises(ValueError, match="1 people"):
        cross_fitted(named, targets, np.zeros(60), rng=rng())


def test_the_interval_is_over_people():
    """Pictures that repeat each other make an interval no narrower."""
    values = rng(5).normal(size=40)
    people = np.repeat(np.arange(40), 10)

    def interval(rows: np.ndarray, who: np.ndarray):
        return over_people(lambda drawn: float(rows[drawn].mean()), who, rng=rng(6))

    once, often = interval(values, np.arange(40)), interval(np.repeat(values, 10), people)
    assert often.value == pytest.approx(once.value) and often.n == 400
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    expected = 1.96 * values.std() / 40**0.5
    assert (once.high - once.low) / 2 == pytest.approx(expected, rel=0.2)
    assert over_people(lambda _: None, people, rng=rng()) is None


def test_a_report_tells_what_each_feature_holds():
    draw = rng(7)
    people = np.repeat(np.arange(50), 6)
    who, yaw, smiling = draw.normal(size=(50, 8))[people], draw.normal(size=300), draw.integers(0, 2, 300)
    clean = who + draw.normal(0, 0.2, who.shape)
    leaking = np.concatenate([clean, yaw[:, None] + draw.normal(0, 1, (300, 1)), smiling[:, None] * 3.0], axis=1)
    report = probe_report(
        {"clean": clean, "leaking": leaking}, {"yaw": yaw, "flat": np.ones(300)}, {"smiling": smiling}, people,
        rng=lambda: rng(8),
    )  # fmt: skip
    assert report["clean"]["size"] == 8 and report["leaking"]["size"] == 10
    assert report["leaking"]["yaw_r2"]["value"] == pytest.approx(0.5, abs=0.1)  # variance 1 of 1 + 1
    assert report["clean"]["yaw_r2"]["value"] < 0.02
    assert report["leaking"]["smiling_auc"]["value"] > 0.99
    assert report["clean"]["smiling_auc"]["low"] < 0.5 < report["clean"]["smiling_auc"]["high"] + 0.05
    assert report["clean"]["identity_auc"] > report["leaking"]["identity_auc"] > 0.9
    assert report["clean"]["flat_r2"] is None
    again = probe_report(
        {"clean": clean}, {"yaw": yaw, "flat": np.ones(300)}, {"smiling": smiling}, people, rng=lambda: rng(8)
    )
    assert again["clean"] == report["clean"]  # whatever is measured beside it


def test_identity_is_that_of_verification():
    people = np.array([0, 0, 1, 1])
    rows = np.array([[1.0, 0, 5], [1.0, 0.1, 5], [-1.0, 0, 5], [-1.0, -0.1, 5]])
    assert identity_auc(rows, people, rng=rng()) == 1.0
    assert identity_auc(rows[[0, 2, 1, 3]], people, rng=rng()) < 0.5
    with pytest.raises(ValueError):
        identity_auc(rows, np.arange(4), rng=rng())


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected \(N, T\)"):
        fit_ridge(np.zeros((5, 2)), np.zeros(5))
    with pytest.raises(ValueError, match="no feature varies"):
        fit_ridge(np.ones((5, 2)), np.zeros((5, 1)))


def test_what_a_person_always_shows_is_no_pose():
    people = np.array([3, 9, 3, 9, 3, 4])
    assert np.allclose(within_people(np.array([1.0, 10, 2, 14, 6, 5]), people), [-2, -2, -1, 2, 3, 0])
