"""The Fréchet distance between two sets of features: features -> statistics -> distance.

It is called FID only where the features are Inception's; otherwise the extractor's name stands beside it. Its
value depends on the number of rows (two sets of one distribution are more than 0 apart, by about 1 in N),
so compare figures of equal N and read each beside its floor, the distance between two sets of real images.

Shapes: N rows, D features. All arithmetic float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from facegen.metrics.intervals import CONFIDENCE, Interval, variance_of_mean


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
    root = _sqrtm(first.covariance)
    product = np.linalg.eigvalsh(root @ second.covariance @ root)
    trace = float(np.trace(first.covariance) + np.trace(second.covariance))
    mean_term = float(np.square(first.mean - second.mean).sum())
    covariance_term = trace - 2 * float(np.sqrt(np.clip(product, 0, None)).sum())
    negative = float(np.sqrt(-np.clip(product, None, 0)).sum())
    return FrechetDistance(mean_term + covariance_term, mean_term, covariance_term, negative / trace if trace else 0.0)


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
    distance = frechet_distance(a, b)
    variance = (
        variance_of_mean(_influence(first, a, b), groups=first_groups)[0]
        + variance_of_mean(_influence(second, b, a), groups=second_groups)[0]
    )
    half = float(stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return Interval(distance.value, distance.value - half, distance.value + half, min(a.n, b.n)), distance


def _influence(rows: np.ndarray, own: FeatureStatistics, other: FeatureStatistics) -> np.ndarray:  # (N,)
    """Return psi of each row of the set that `own` describes; T is taken on the span of its covariance."""
    shifted = np.asarray(rows, np.float64) - own.mean
    values, vectors = np.linalg.eigh(own.covariance)
    kept = values > values.max(initial=0) * len(values) * np.finfo(np.float64).eps
    root, inverse = np.sqrt(values[kept]), vectors[:, kept] / np.sqrt(values[kept])
    half = vectors[:, kept] * root  # S^1/2 = half @ vectors^T on the span
    middle = _sqrtm(half.T @ other.covariance @ half)
    projected = shifted @ inverse  # (N, K)
    transported = ((projected @ middle) * projected).sum(1)
    return 2 * shifted @ (own.mean - other.mean) + np.square(shifted).sum(1) - transported


def _sqrtm(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a positive semi-definite matrix; eigenvalues below 0 are rounding and count as 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


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
