"""The kernel distance between two sets of features: the squared maximum mean discrepancy of a cubic kernel.

It is called KID only where the features are Inception's. Unlike the Fréchet distance it is unbiased at every N: two sets
of one distribution are 0 apart on average, so that about half of such values lie below 0. They are left as they are.

Shapes: N and M rows, D features. All arithmetic float64, in tiles: nothing of N x M is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from facegen.metrics.intervals import CONFIDENCE, Interval, mean_interval, variance_of_mean

TILE = 2048  # rows of a tile; one of values has 32 MiB


def kernel_distance(
    first: np.ndarray,
    second: np.ndarray,
    *,
    first_groups: np.ndarray | None = None,
    second_groups: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the full U-statistic with an interval from its first-order projections.

    k(x, y) = (x . y / D + 1)^3. A row changes the statistic by the mean of
    h(x) = 2 (mean_j k(x, x_j) - mean_j k(x, y_j)), so that its variance is var(h_x) / N + var(h_y) / M. Where the
    sets are equal h vanishes and what is left of it is noise: the interval is then somewhat too wide, not too narrow.

    Args:
        first, second: finite (N, D) and (M, D).
        first_groups, second_groups: (N,) and (M,) labels of rows that belong together (pictures of one person), or
            None where all rows are independent. Pairs within a group are left out, as a row's pair with itself is.
        confidence: coverage, between 0 and 1.

    Returns:
        The distance; n is the smaller of N and M.

    Raises:
        ValueError: for fewer than two rows or groups, unequal D, or a value that is not finite.

    Source: Gretton et al. 2012, equation 3; Binkowski et al. 2018; the variance from Hoeffding 1948, section 5.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; allowed: between 0 and 1")
    first, second = checked_features(first), checked_features(second)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions cannot be compared")
    own_first, mean_first = _within(first, first_groups)
    own_second, mean_second = _within(second, second_groups)
    first_sums, second_sums = _across(first, second)
    across_first, across_second = first_sums / len(second), second_sums / len(first)
    value = mean_first + mean_second - 2 * float(across_first.mean())
    variance = (
        variance_of_mean(2 * (own_first - across_first), groups=first_groups)[0]
        + variance_of_mean(2 * (own_second - across_second), groups=second_groups)[0]
    )
    half = float(stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return Interval(value, value - half, value + half, min(len(first), len(second)))


def kernel_distance_by_blocks(
    first: np.ndarray,
    second: np.ndarray,
    *,
    generator: np.random.Generator,
    num_blocks: int = 10,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the mean of the distances of disjoint blocks with Student's t interval: a check, two to three times wider.

    Args:
        first, second: (N, D) and (M, D); rows are dealt to the blocks at random.
        generator: deals them.
        num_blocks: at least 2, of at least 2 rows each.

    Raises:
        ValueError: as `kernel_distance`, or if there are too few rows.
    """
    smaller = min(len(first), len(second))
    if num_blocks < 2 or smaller < 2 * num_blocks:
        raise ValueError(f"{num_blocks} blocks of {smaller} rows; at least 2 blocks of at least 2 rows are needed")
    deals = [np.array_split(generator.permutation(len(rows)), num_blocks) for rows in (first, second)]
    values = [kernel_distance(first[i], second[j]).value for i, j in zip(*deals, strict=True)]
    interval = mean_interval(np.array(values), confidence=confidence)
    return Interval(interval.value, interval.low, interval.high, smaller)


def checked_features(rows: np.ndarray) -> np.ndarray:
    """Return the rows as an array of floats.

    Raises:
        ValueError: unless they are finite (N, D) with N at least 2.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"features must be (N, D), got {rows.shape}")
    if len(rows) < 2:
        raise ValueError(f"a set of features needs at least 2 rows, got {len(rows)}")
    bad = int((~np.isfinite(rows)).any(1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(rows)} feature rows hold NaN or infinity")
    return rows


def _within(rows: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Return the mean of k(x_i, x_j) over the rows j of other groups for each i, (N,), and over all such pairs."""
    n = len(rows)
    if groups is not None and len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} rows")
    _, label, size = np.unique(np.arange(n) if groups is None else groups, return_inverse=True, return_counts=True)
    others = n - size[label]
    if not others.all():
        raise ValueError(f"the {n} rows are of one group; at least 2 independent groups are needed")
    sums = np.zeros(n)
    for i in _tiles(n):
        for j in _tiles(n):
            if j.start < i.start:  # the kernel is symmetric
                continue
            values = _kernel(rows[i], rows[j])
            if groups is not None:
                values[label[i, None] == label[None, j]] = 0
            elif i == j:
                np.fill_diagonal(values, 0)
            sums[i] += values.sum(1)
            if j.start > i.start:
                sums[j] += values.sum(0)
    return sums / others, float(sums.sum() / others.sum())


def _across(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of k(x_i, y_j) over j, (N,), and over i, (M,)."""
    by_first, by_second = np.zeros(len(first)), np.zeros(len(second))
    for i in _tiles(len(first)):
        for j in _tiles(len(second)):
            values = _kernel(first[i], second[j])
            by_first[i] += values.sum(1)
            by_second[j] += values.sum(0)
    return by_first, by_second


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (N, D), (M, D) -> (N, M)
    base = x.astype(np.float64) @ y.astype(np.float64).T
    base /= x.shape[1]
    base += 1
    cube = np.square(base)
    cube *= base
    return cube


def _tiles(n: int) -> Iterator[slice]:
    for start in range(0, n, TILE):
        yield slice(start, min(start + TILE, n))
