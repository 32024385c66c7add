"""Figures with their uncertainty: means, shares, paired differences, and the bootstrap for what is none of these.

Shapes: N observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # of every interval in eval/metrics.json


@dataclass(frozen=True)
class Interval:
    """A figure with the two ends of its confidence interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return {value, low, high, n}, the form of eval/metrics.json."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def mean_interval(values: np.ndarray, *, groups: np.ndarray | None = None, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean with Student's t interval.

    Args:
        values: finite (N,), N >= 2.
        groups: (N,) labels of what belongs together (pictures of one person); None: every observation is independent.
        confidence: coverage, between 0 and 1.

    Raises:
        ValueError: for fewer than two values or groups, or a value that is not finite.

    Source: Student 1908; mean +- t_{G-1} times the root of `variance_of_mean`, G the number of groups.
    """
    values = _checked(values, confidence=confidence)
    mean = float(values.mean())
    variance, num_groups = variance_of_mean(values, groups=groups)
    half = float(np.sqrt(variance) * stats.t.ppf((1 + confidence) / 2, num_groups - 1))
    return Interval(mean, mean - half, mean + half, len(values))


def variance_of_mean(values: np.ndarray, *, groups: np.ndarray | None) -> tuple[float, int]:
    """Return the variance of the mean of (N,) values and the number of independent groups behind it.

    Pictures of one person are alike: a thousand of them of fifty people say less than a thousand people would.

    Args:
        values: (N,).
        groups: (N,) labels, or None where every value is its own group (then it is s^2 / N).

    Raises:
        ValueError: if the labels do not fit, or there are fewer than two groups.

    Source: Liang and Zeger 1986, for a mean: G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / N^2.
    """
    deviations = values - values.mean()
    if groups is not None:
        if len(groups) != len(values):
            raise ValueError(f"{len(groups)} group labels for {len(values)} values")
        _, place = np.unique(groups, return_inverse=True)
        deviations = np.bincount(place, weights=deviations)
    num_groups = len(deviations)
    if num_groups < 2:
        raise ValueError(f"an interval needs at least 2 independent groups, got {num_groups}")
    return float(num_groups / (num_groups - 1) * np.square(deviations).sum() / len(values) ** 2), num_groups


def paired_difference(first: np.ndarray, second: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of first - second over pairs, with its t interval: what the pairs share cancels.

    Raises:
        ValueError: if they differ in length, or as `mean_interval`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes, got {first.shape} and {second.shape}")
    return mean_interval(first - second, confidence=confidence)


def wilson_interval(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the share of successes with its score interval, which is sound at shares of 0 and 1 too.

    Args:
        successes: of n independent trials, 0 to n.
        n: at least 1.
        confidence: coverage, between 0 and 1.

    Raises:
        ValueError: for counts that cannot be, or a confidence outside (0, 1).

    Source: Wilson 1927: all p with |share - p| <= z sqrt(p (1 - p) / n).
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes in {n} trials; expected at least 1 trial and 0 to n successes")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed: between 0 and 1")
    share, z = successes / n, float(stats.norm.ppf((1 + confidence) / 2))
    middle = share + z**2 / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return Interval(share, min(max(low, 0.0), share), max(min(high, 1.0), share), n)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    values: np.ndarray,
    *,
    generator: np.random.Generator,
    num_resamples: int = 1000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return a statistic of the rows of `values` with its percentile bootstrap interval.

    For statistics that grow when observations repeat (a distance between distributions) the resamples are biased and
    this interval is wrong: those have their own, see `facegen.metrics.frechet`.

    Args:
        statistic: a number from an array of rows.
        values: finite (N, ...), N >= 2, rows independent.
        generator: draws the resamples.

    Raises:
        ValueError: as `mean_interval`.

    Source: Efron 1979.
    """
    values = _checked(values, confidence=confidence)
    n = len(values)
    draws = [statistic(values[generator.integers(0, n, n)]) for _ in range(num_resamples)]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(values)), float(low), float(high), n)


def _checked(values: np.ndarray, *, confidence: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) < 2:
        raise ValueError(f"an interval needs at least 2 observations, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed: between 0 and 1")
    return values
