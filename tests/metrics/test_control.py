"""Interventions whose outcome is known."""

import numpy as np
import pytest
from scipy import stats

from facegen.metrics.control import (
    answered,
    effect_interval,
    holm,
    intervention_effects,
    leakage_figures,
    leakage_noise,
    natural_differences,
    significant_leaks,
)


def pairs_with(effects, num=400, spread=0.05, seed=0):
    """Probabilities (N, 2, A) whose mean change is `effects`, with noise."""
    rng = np.random.default_rng(seed)
    before = np.full((num, len(effects)), 0.4 - np.array(effects) / 2) + rng.normal(0, spread, (num, len(effects)))
    after = before + effects + rng.normal(0, spread, before.shape)
    return np.clip(np.stack([before, after], axis=1), 0, 1)


def test_effects_are_present_minus_absent():
    pairs = np.array([[[0.1, 0.5], [0.9, 0.4]], [[0.3, 0.5], [0.9, 0.2]]])
    assert intervention_effects(pairs) == pytest.approx([0.7, -0.2])
    interval = effect_interval(pairs, 0)
    half = stats.t.ppf(0.975, 1) * np.std([0.8, 0.6], ddof=1) / np.sqrt(2)
    assert (interval.value, interval.low) == pytest.approx((0.7, 0.7 - half)) and interval.n == 2
    for bad in (pairs[:, :1], pairs[:0], pairs + 1):
        with pytest.raises(ValueError, match="probabilities"):
            intervention_effects(bad)


def test_natural_differences_are_conditional_shares():
    states = np.array([[1, 1, 1], [1, 1, 0], [1, 0, -1], [0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, -1]])
    natural = natural_differences(states)
    assert natural[0, 1] == pytest.approx(2 / 3 - 1 / 4)
    assert natural[0, 2] == pytest.approx(1 / 2 - 3 / 3)  # unknown ones do not count
    assert natural[1, 0] == pytest.approx(2 / 3 - 1 / 4)
    assert natural.diagonal() == pytest.approx(np.ones(3))
    assert np.isnan(natural_differences(np.array([[1, 1], [1, 0]]))[0, 1])


def test_leakage_of_a_known_matrix():
    effects = np.array([[0.9, 0.2, 0.0], [-0.1, 0.8, 0.1], [0.0, 0.0, 0.6]])
    natural = np.array([[1, 0.15, 0.3], [-0.3, 1, 0.01], [0.02, np.nan, 1]])
    figures = leakage_figures(effects, natural)
    assert figures.effect == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert figures.leakage == pytest.approx(0.4 / 6)
    assert figures.excess_leakage == pytest.approx((0.05 + 0 + 0 + 0.09 + 0 + 0) / 6)
    assert figures.independent_leakage == pytest.approx((0.1 + 0 + 0) / 3)
    assert figures.selectivity == pytest.approx((0.9 / 1.1 + 0.8 / 1.0 + 1) / 3)
    tied = leakage_figures(np.eye(2), np.full((2, 2), 0.5))
    assert tied.independent_leakage is None and tied.excess_leakage == 0
    with pytest.raises(ValueError, match="shapes"):
        leakage_figures(effects, natural[:2])
    with pytest.raises(ValueError, match="at least 2"):
        leakage_figures(np.ones((1, 1)), np.ones((1, 1)))


def test_noise_floor_matches_what_chance_does():
    silent = [pairs_with([0.0] * 6, num=60, seed=k) for k in range(6)]
    matrix = np.stack([intervention_effects(pairs) for pairs in silent])
    seen = leakage_figures(matrix, np.zeros((6, 6))).leakage
    assert leakage_noise(silent) == pytest.approx(seen, rel=0.3)


def test_only_real_leaks_are_called_so():
    pairs = [
        pairs_with([0.5, 0.1, 0.0], seed=1),
        pairs_with([0.0, 0.5, 0.0], seed=2),
        pairs_with([0, -0.1, 0.5], seed=3),
    ]
    assert significant_leaks(pairs, level=0.05) == [(0, 1), (2, 1)]
    nothing = [
        significant_leaks([pairs_with([0.0] * 4, num=50, seed=100 * i + k) for k in range(4)], level=0.05)
        for i in range(60)
    ]
    assert sum(bool(found) for found in nothing) <= 9  # 3 expected


def test_holm_by_hand():
    assert holm(np.array([0.04, 0.01, 0.03, 0.005])) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_answers_count_only_what_was_asked():
    decisions = np.array([[True, False, True], [False, True, True]])
    states = np.array([[1, 1, -1], [0, -1, 0]])
    found = answered(decisions, states)
    assert found[0, 0] == 1 and found[0, 1] == 0 and found[1, 0] == 1 and found[1, 2] == 0
    assert np.isnan(found[0, 2]) and np.isnan(found[1, 1])
