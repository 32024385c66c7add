"""Figures with their uncertainty: means, paired differences, and the bootstrap for what is not a mean.

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


def mean_interval(values: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean with Student's t interval.

    Args:
        values: finite (N,), N >= 2, independent observations.
        confidence: coverage, between 0 and 1.

    Raises:
        ValueError: for fewer than two values, or one that is not finite.

    Source: Student 1908; mean +- t_{N-1} s / sqrt(N), s with ddof 1.
    """
    values = _checked(values, confidence=confidence)
    mean = float(values.mean())
    half = float(values.std(ddof=1) / np.sqrt(len(values)) * stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half, len(values))


def paired_difference(first: np.ndarray, second: np.ndarray, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of first - second over pairs, with its t interval: what the pairs share cancels.

    Raises:
        ValueError: if they differ in length, or as `mean_interval`.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes, got {first.shape} and {second.shape}")
    return mean_interval(first - second, confidence=confidence)


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
