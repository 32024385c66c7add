"""The Fréchet distance between two sets of features: features -> statistics -> distance.

It is called FID only where the features are Inception's; otherwise the extractor's name stands beside it. Its
value depends on the number of rows (two sets of one distribution are more than 0 apart, by about 1 in N),
so compare figures of equal N and read each beside its floor, the distance between two sets of real images.

Shapes: N rows, D features. All arithmetic float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from facegen.metrics.intervals import CONFIDENCE, Interval, variance_of_mean

NUM_LEVELS = 4  # of N behind an extrapolation to infinite N
EXTRAPOLATED_ROWS = 2  # per effective dimension, in the smallest of them


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance (ddof 1) of N feature rows, and the digest of the extractor that made them."""

    mean: np.ndarray  # (D,)
    covariance: np.ndarray  # (D, D)
    n: int
    extractor: str


@dataclass(frozen=True)
class FrechetDistance:
    """The squared distance, its two parts, and what rounding made negative (set to 0), as a share of the trace."""

    value: float
    mean_term: float
    covariance_term: float
    clipped: float


def feature_statistics(batches: Iterable[np.ndarray], *, extractor: str) -> FeatureStatistics:
    """Return the statistics of all rows of all batches, however they are cut.

    Sums are taken about the mean of the first batch, so that a large common offset costs no digits.

    Args:
        batches: finite (B, D) each, any float dtype.
        extractor: digest of the extractor.

    Raises:
        ValueError: for fewer than two rows, rows of unequal D, or a value that is not finite.
    """
    n, centre, total, outer = 0, None, None, None
    for batch in batches:
        rows = _checked(batch)
        if centre is None:
            centre = rows.mean(0) if len(rows) else None
            if centre is None:
                continue
            total, outer = np.zeros_like(centre), np.zeros((len(centre), len(centre)))
        if rows.shape[1] != len(centre):
            raise ValueError(f"features of {rows.shape[1]} dimensions after {len(centre)}")
        shifted = rows - centre
        n, total, outer = n + len(rows), total + shifted.sum(0), outer + shifted.T @ shifted
    if centre is None or total is None or outer is None or n < 2:
        raise ValueError(f"a covariance needs at least 2 rows of features, got {n}")
    mean = total / n
    covariance = (outer - n * np.outer(mean, mean)) / (n - 1)
    return FeatureStatistics(centre + mean, (covariance + covariance.T) / 2, n, extractor)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> FrechetDistance:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), symmetric in its arguments.

    No epsilon is added; fewer rows than dimensions give a singular covariance, which is handled as it is.

    Raises:
        ValueError: if dimensions or extractors differ.

    Source: Dowson and Landau 1982, equation 16; Heusel et al. 2017, equation 6.
    """
    _require_comparable(first, second)
    factor = _factor(first)
    return _distance(first, second, np.linalg.eigvalsh(factor.T @ second.covariance @ factor))


def frechet_interval(
    first: np.ndarray,
    second: np.ndarray,
    *,
    extractor: str,
    first_groups: np.ndarray | None = None,
    second_groups: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> tuple[Interval, FrechetDistance]:
    """Return the distance between two feature sets with an interval for its expectation at these N, and its parts.

    The delta method: the distance changes by the mean of psi over a set's rows,
    psi(x) = 2 (m - m') . (x - m) + (x - m)^T (I - T) (x - m), T the optimal map from this Gaussian to the other, so
    that its variance is var(psi) / N, one term a set. Where the sets are equal the first order vanishes and the
    interval is too wide rather than too narrow. A bootstrap would not do: repeated rows raise the distance itself.

    Args:
        first, second: (N, D) and (M, D); N of the result is the smaller.
        extractor: digest of the extractor.
        first_groups, second_groups: (N,) and (M,) labels of rows that belong together (pictures of one person), or
            None where all rows are independent.

    Raises:
        ValueError: as `feature_statistics`, `frechet_distance` and `variance_of_mean`.

    Source: van der Vaart, Asymptotic Statistics, chapter 3; T from Gelbrich 1990.
    """
    a, b = (feature_statistics([rows], extractor=extractor) for rows in (first, second))
    _require_comparable(a, b)
    values, vectors = np.linalg.eigh(a.covariance)
    kept = _above_rounding(values)
    scales = np.sqrt(values[kept])
    root = vectors[:, kept] * scales  # (D, K) of a's covariance
    squares, turn = np.linalg.eigh(root.T @ b.covariance @ root)
    distance = _distance(a, b, squares)
    # The maps are W s W^T and W' s^-1 W'^T, with s the roots of `squares`, each on the span of the set that it maps.
    seen = _above_rounding(squares)
    turn, roots = turn[:, seen], np.sqrt(squares[seen])
    to_second = (vectors[:, kept] / scales) @ turn * np.sqrt(roots)
    to_first = root @ turn / np.sqrt(roots)
    variance = (
        variance_of_mean(_influence(first, a, b, to_second), groups=first_groups)[0]
        + variance_of_mean(_influence(second, b, a, to_first), groups=second_groups)[0]
    )
    half = float(stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return Interval(distance.value, distance.value - half, distance.value + half, min(a.n, b.n)), distance


def frechet_infinity(
    first: np.ndarray,
    second: np.ndarray,
    *,
    extractor: str,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the distance at infinitely many rows, extrapolated: the intercept of a line in 1 / N.

    Both sets are dealt to 1, 2, 3 and 4 disjoint blocks, so that every N uses all rows once: ten distances, weighted by
    their N. The interval is that of the fit; the scatter of the blocks tells it how far samples differ.

    The line is the first order only, and fails by multiples where rows are few for the spread of the features. So the
    smallest N must reach EXTRAPOLATED_ROWS times the larger effective dimension of both sets: on Gaussians of
    several spectra at just that N, what was left of the bias was below 4 %.

    Args:
        first, second: (N, D) and (M, D); the smaller number is used of both.
        extractor: digest of the extractor.
        generator: deals the rows.

    Raises:
        ValueError: if there are too few rows for that, or as `feature_statistics`.

    Source: Chong and Forsyth 2020, section 4.
    """
    n = min(len(first), len(second))
    first, second = (rows[generator.permutation(len(rows))[:n]] for rows in (first, second))
    sizes: list[int] = []
    values: list[float] = []
    for num_blocks in range(1, NUM_LEVELS + 1):
        size = n // num_blocks
        for block in range(num_blocks):
            rows = slice(block * size, (block + 1) * size)
            a, b = (feature_statistics([part[rows]], extractor=extractor) for part in (first, second))
            if not sizes:
                _require_rows(n // NUM_LEVELS, max(effective_dimension(a), effective_dimension(b)))
            sizes.append(size)
            values.append(frechet_distance(a, b).value)
    weights = np.sqrt(np.array(sizes, np.float64))
    design = weights[:, None] * np.stack([np.ones(len(sizes)), 1 / np.array(sizes)], axis=1)
    fit, *_ = np.linalg.lstsq(design, weights * values, rcond=None)
    freedom = len(sizes) - 2
    variance = np.square(weights * values - design @ fit).sum() / freedom * np.linalg.inv(design.T @ design)[0, 0]
    half = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance))
    return Interval(float(fit[0]), float(fit[0]) - half, float(fit[0]) + half, n)


def effective_dimension(statistics: FeatureStatistics) -> float:
    """Return (tr S^1/2)^2 / tr S: D where all directions vary alike, 1 where one does."""
    values = np.clip(np.linalg.eigvalsh(statistics.covariance), 0, None)
    total = float(values.sum())
    return float(np.sqrt(values).sum()) ** 2 / total if total else 0.0


def _require_rows(smallest: int, dimension: float) -> None:
    needed = EXTRAPOLATED_ROWS * dimension
    if smallest < needed:
        raise ValueError(
            f"features of effective dimension {dimension:.0f} need at least {NUM_LEVELS * math.ceil(needed)} rows of "
            f"each set to extrapolate; got {NUM_LEVELS * smallest}"
        )


def _distance(first: FeatureStatistics, second: FeatureStatistics, squares: np.ndarray) -> FrechetDistance:
    """Return the distance from the eigenvalues of S1^1/2 S2 S1^1/2; those below 0 are rounding and count as 0."""
    trace = float(np.trace(first.covariance) + np.trace(second.covariance))
    mean_term = float(np.square(first.mean - second.mean).sum())
    covariance_term = trace - 2 * float(np.sqrt(np.clip(squares, 0, None)).sum())
    negative = float(np.sqrt(-np.clip(squares, None, 0)).sum())
    return FrechetDistance(mean_term + covariance_term, mean_term, covariance_term, negative / trace if trace else 0.0)


def _influence(
    rows: np.ndarray, own: FeatureStatistics, other: FeatureStatistics, factor: np.ndarray
) -> np.ndarray:  # (N,)
    """Return psi of each row of the set that `own` describes; T = factor @ factor^T, (D, K)."""
    shifted = np.asarray(rows, np.float64) - own.mean
    transported = np.square(shifted @ factor).sum(1)
    return 2 * shifted @ (own.mean - other.mean) + np.square(shifted).sum(1) - transported


def _factor(statistics: FeatureStatistics) -> np.ndarray:  # (D, K)
    """Return F with F F^T the covariance: Cholesky's, or where that is singular from eigenvectors (ten times slower)."""
    if statistics.n > len(statistics.mean):
        try:
            return np.linalg.cholesky(statistics.covariance)
        except np.linalg.LinAlgError:  # features that depend on each other
            pass
    values, vectors = np.linalg.eigh(statistics.covariance)
    kept = _above_rounding(values)
    return vectors[:, kept] * np.sqrt(values[kept])


def _above_rounding(values: np.ndarray) -> np.ndarray:
    return values > values.max(initial=0) * len(values) * np.finfo(np.float64).eps


def _checked(batch: np.ndarray) -> np.ndarray:
    rows = np.asarray(batch, np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"features must be (N, D), got {rows.shape}")
    bad = int((~np.isfinite(rows)).any(1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(rows)} feature rows hold NaN or infinity")
    return rows


def _require_comparable(first: FeatureStatistics, second: FeatureStatistics) -> None:
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {len(first.mean)} and {len(second.mean)} dimensions cannot be compared")
    if first.extractor != second.extractor:
        raise ValueError(
            f"features of two extractors ({first.extractor[:12]} and {second.extractor[:12]}) cannot be compared; "
            "extract both with the same one"
        )
