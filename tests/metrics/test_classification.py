"""Classifier figures: closed forms, other implementations, and that unknown states never count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from facegen.metrics.classification import (
    attribute_figures,
    auroc,
    classification_rates,
    corrected_share,
    curve_tables,
    expected_calibration_error,
    majority_baseline,
    reliability,
    roc_points,
    thinned,
)


def _scored(n: int, *, seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and states of which the first tend to be higher where the second is present; some unknown."""
    rng = np.random.default_rng(seed)
    states = rng.choice([-1, 0, 1], n, p=[0.2, 0.5, 0.3]).astype(np.int8)
    said = 1 / (1 + np.exp(-rng.normal(states == 1, 1.0)))
    return (said if levels is None else np.round(said * levels) / levels), states


@pytest.mark.parametrize("levels", [None, 8, 1])
def test_auroc_is_mann_whitneys_u_ties_and_unknown_states_included(levels: int | None) -> None:
    said, states = _scored(500, seed=0, levels=levels)
    present, absent = said[states == 1], said[states == 0]
    u = stats.mannwhitneyu(present, absent).statistic / (len(present) * len(absent))
    assert auroc(said, states) == pytest.approx(u, abs=1e-12)
    assert auroc(-said, states) == pytest.approx(1 - u, abs=1e-12)
    assert auroc(np.exp(5 * said), states) == pytest.approx(u, abs=1e-12)  # ranks alone matter


def test_auroc_by_hand() -> None:
    states = np.array([1, 1, 0, 0, -1])
    assert auroc(np.array([0.9, 0.5, 0.5, 0.1, 0.0]), states) == 3.5 / 4
    assert auroc(np.array([0.9, 0.8, 0.2, 0.1, 1.0]), states) == 1
    assert auroc(np.full(5, 0.3), states) == 0.5
    assert auroc(np.array([0.1, 0.2]), np.array([1, -1])) is None


def test_roc_has_a_point_for_each_distinct_score() -> None:
    found = roc_points(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0]))
    assert found is not None
    assert found[0].tolist() == [0, 0, 0.5, 1] and found[1].tolist() == [0, 0.5, 1, 1]
    assert roc_points(np.array([0.9, 0.5]), np.array([0, -1])) is None


def test_a_thinned_curve_keeps_its_ends_its_corners_and_its_area() -> None:
    perfect = roc_points(np.linspace(0, 1, 1000), (np.arange(1000) >= 700).astype(int))
    assert perfect is not None
    assert [part.tolist() for part in thinned(*perfect, 3)] == [[0, 0, 1], [0, 1, 1]]
    said, states = _scored(5000, seed=1)
    points = roc_points(said, states)
    assert points is not None
    false, true = thinned(*points, 60)
    assert 40 <= len(false) <= 60 and (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auroc(said, states), abs=2e-3)
    assert set(zip(false, true, strict=True)) <= set(zip(*points, strict=True))
    assert np.diff(false + true).max() < 0.1  # no stretch is left bare
    few = thinned(*points, len(points[0]))
    assert np.trapezoid(few[1], few[0]) == pytest.approx(auroc(said, states), abs=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        thinned(*points, 1)


def test_reliability_by_hand() -> None:
    said = np.array([0.1, 0.3, 0.5, 1.0, 0.9, 0.7])
    states = np.array([0, 1, 1, 1, 0, -1])
    table = reliability(said, states, num_bins=2)
    assert table.count.tolist() == [2, 3]  # one half opens the second bin, 1 closes it
    assert table.confidence == pytest.approx([0.2, 0.8]) and table.frequency == pytest.approx([0.5, 2 / 3])
    error = (2 * 0.3 + 3 * (0.8 - 2 / 3)) / 5
    assert expected_calibration_error(said, states, num_bins=2) == pytest.approx(error)
    assert reliability(said, states, num_bins=100).count.tolist() == [1] * 5  # empty bins are left out
    assert expected_calibration_error(said, np.full(6, -1)) is None


def test_calibration_error_is_small_where_chances_are_as_said_and_the_shift_where_not() -> None:
    rng = np.random.default_rng(2)
    chance = rng.uniform(0, 0.8, 200_000)
    states = (rng.random(len(chance)) < chance).astype(int)
    small = expected_calibration_error(chance, states)
    large = expected_calibration_error(chance + 0.15, states)
    assert small is not None and small < 0.006 and large == pytest.approx(0.15, abs=0.006)


def test_rates_by_hand() -> None:
    states = np.array([1] * 10 + [0] * 40 + [-1] * 5)
    decisions = np.array([True] * 9 + [False] + [True] * 4 + [False] * 36 + [True] * 5)
    rates = classification_rates(decisions, states)
    assert rates.sensitivity is not None and rates.specificity is not None
    assert (rates.sensitivity.value, rates.sensitivity.n) == (0.9, 10)
    assert (rates.specificity.value, rates.specificity.n) == (0.9, 40)
    assert rates.accuracy == 0.9
    balanced = rates.balanced_accuracy()
    assert balanced is not None and (balanced.value, balanced.n) == (0.9, 50)
    down = [0.9 - rate.low for rate in (rates.sensitivity, rates.specificity)]
    assert 0.9 - balanced.low == pytest.approx(np.sqrt(down[0] ** 2 + down[1] ** 2) / 2)
    assert balanced.low < 0.9 < balanced.high <= 1
    one_class = classification_rates(np.array([True, False]), np.array([1, 1]))
    assert one_class.specificity is None and one_class.balanced_accuracy() is None and one_class.accuracy == 0.5
    assert classification_rates(np.array([True]), np.array([-1])).accuracy is None


def test_balanced_accuracy_is_covered_as_promised() -> None:
    rng = np.random.default_rng(3)
    states = np.repeat([1, 0], [40, 120])
    truth = (0.9 + 0.7) / 2
    inside = 0
    for _ in range(800):
        decisions = rng.random(160) < np.where(states == 1, 0.9, 0.3)
        found = classification_rates(decisions, states).balanced_accuracy()
        assert found is not None
        inside += found.low <= truth <= found.high
    assert inside / 800 == pytest.approx(0.95, abs=0.025)


def test_the_majority_is_what_no_skill_reaches() -> None:
    assert majority_baseline(np.array([1, 0, 0, 0, -1])) == 0.75
    assert majority_baseline(np.array([1, 1, -1])) == 1
    assert majority_baseline(np.array([-1])) is None


def test_rogan_gladen_undoes_what_the_judge_does() -> None:
    for truth in (0.0, 0.25, 1.0):
        observed = truth * 0.9 + (1 - truth) * (1 - 0.8)
        assert corrected_share(observed, 0.9, 0.8) == pytest.approx(truth)
    assert corrected_share(0.1, 0.9, 0.8) == 0 and corrected_share(0.95, 0.9, 0.8) == 1
    assert corrected_share(0.4, 0.6, 0.4) is None and corrected_share(0.4, 0.2, 0.3) is None


def test_figures_of_an_attribute_agree_with_their_parts() -> None:
    said, states = _scored(400, seed=4)
    raw = said**0.5
    found = attribute_figures(said, raw, states, threshold=0.6)
    assert found["auroc"] == auroc(said, states)
    assert found["calibration_error"] == expected_calibration_error(said, states)
    assert found["calibration_error_uncalibrated"] == expected_calibration_error(raw, states)
    assert found["sensitivity"]["value"] == (said[states == 1] >= 0.6).mean()
    assert found["specificity"]["value"] == (said[states == 0] < 0.6).mean()
    assert (found["present"], found["absent"]) == ((states == 1).sum(), (states == 0).sum())
    curves = curve_tables(said, states)
    assert curves["roc"] is not None and curves["reliability"] is not None
    assert len(curves["roc"]["true_positive_rate"]) <= 60
    assert sum(curves["reliability"]["count"]) == found["present"] + found["absent"]


def test_a_missing_class_gives_none() -> None:
    said, states = np.array([0.2, 0.7]), np.array([1, -1])
    found = attribute_figures(said, said, states, threshold=0.5)
    none = ("balanced_accuracy", "auroc", "calibration_error", "calibration_error_uncalibrated", "specificity")
    assert all(found[key] is None for key in none)
    assert found["sensitivity"]["value"] == 0 and found["majority_accuracy"] == 1
    assert curve_tables(said, states) == {"roc": None, "reliability": None}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected two \(N,\)"):
        auroc(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        auroc(np.array([np.nan, 1.0, np.nan]), np.array([1, 0, -1]))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        reliability(np.array([1.2]), np.array([1]))
