"""Intervals: the tables' values, and the coverage they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from facegen.metrics.intervals import bootstrap_interval, mean_interval, paired_difference, wilson_interval


def test_t_interval_of_a_worked_example() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    half = 2.776445105 * np.sqrt(2.5 / 5)  # t_{4, 0.975} from the table
    assert found.value == 3 and found.n == 5
    assert found.low == pytest.approx(3 - half) and found.high == pytest.approx(3 + half)
    assert found.to_json() == {"value": 3.0, "low": found.low, "high": found.high, "n": 5}


def test_pairs_cancel_what_they_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 100, 50)
    difference = paired_difference(shared + 1 + rng.normal(0, 0.1, 50), shared)
    assert difference.low < 1 < difference.high and difference.high - difference.low < 0.1
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference(shared, shared[:-1])


def test_bootstrap_is_seeded_and_agrees_with_the_t_interval_for_a_mean() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)

    def run(seed: int) -> tuple[float, float]:
        found = bootstrap_interval(lambda rows: float(rows.mean()), values, generator=np.random.default_rng(seed))
        return found.low, found.high

    exact = mean_interval(values)
    assert run(3) == run(3) != run(4)
    assert run(3) == pytest.approx((exact.low, exact.high), abs=0.03)


def test_t_interval_covers_as_promised_with_few_observations() -> None:
    rng = np.random.default_rng(2)
    draws = [mean_interval(rng.standard_normal(5)) for _ in range(1500)]
    assert np.mean([draw.low <= 0 <= draw.high for draw in draws]) == pytest.approx(0.95, abs=0.02)


def test_pictures_of_one_person_count_as_one() -> None:
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(30), 20)

    def draw() -> tuple[bool, bool]:
        values = rng.standard_normal(30)[people] + 0.3 * rng.standard_normal(600)
        naive, grouped = mean_interval(values), mean_interval(values, groups=people)
        return naive.low <= 0 <= naive.high, grouped.low <= 0 <= grouped.high

    naive, grouped = np.mean([draw() for _ in range(600)], axis=0)
    assert naive < 0.5 and grouped == pytest.approx(0.95, abs=0.03)
    repeated = mean_interval(np.repeat(np.arange(5.0), 3), groups=np.repeat(np.arange(5), 3))
    single = mean_interval(np.arange(5.0))
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high)) and repeated.n == 15
    assert mean_interval(np.arange(5.0), groups=np.arange(5)) == single
    with pytest.raises(ValueError, match="2 independent groups, got 1"):
        mean_interval(np.arange(5.0), groups=np.zeros(5))
    with pytest.raises(ValueError, match="4 group labels for 5 values"):
        mean_interval(np.arange(5.0), groups=np.arange(4))


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([1.0], 0.95, "at least 2"),
        (3.0, 0.95, "at least 2"),
        ([1.0, np.nan, np.inf], 0.95, "2 of 3"),
        ([1.0, 2.0], 1.0, "between 0 and 1"),
    ],
)
def test_what_has_no_interval_is_refused(values: object, confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(np.array(values), confidence=confidence)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (95, 100), (1, 1), (499, 500)])
def test_wilson_interval_is_that_of_scipy(successes: int, n: int) -> None:
    found = wilson_interval(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.value, found.n) == (successes / n, n) and 0 <= found.low <= found.value <= found.high <= 1
    for end in {found.low, found.high} - {found.value}:  # the ends solve the score equation
        assert abs(end - found.value) == pytest.approx(1.959963985 * np.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9)


def test_wilson_interval_widens_with_confidence_and_refuses_impossible_counts() -> None:
    assert wilson_interval(8, 10, confidence=0.99).low < wilson_interval(8, 10).low
    for successes, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="at least 1 trial"):
            wilson_interval(successes, n)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 2, confidence=1.0)
