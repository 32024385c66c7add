"""Is it still the same person? Cosines of face embeddings before and after an edit.

Shapes: N pairs, E embedding. Embeddings are unit vectors of one recogniser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facegen.metrics.intervals import Interval, mean_interval

_TOLERANCE = 1e-3  # of the length of a unit vector in float32


@dataclass(frozen=True)
class Preserved:
    """Identity over a set of edits: the mean cosine, and the share that still passes as the same person."""

    cosine: Interval
    share_same: float  # of cosines at or above the threshold
    different: float  # mean cosine of pictures of other pairs: what no preservation at all would give


def identity_cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:  # (N,)
    """Return the cosine of each pair.

    Raises:
        ValueError: if the shapes differ or a row is not a unit vector.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.shape != after.shape or before.ndim != 2 or not len(before):
        raise ValueError(f"embeddings have shapes {before.shape} and {after.shape}; expected two (N, E)")
    for rows in (before, after):
        lengths = np.linalg.norm(rows, axis=1)
        if not (np.abs(lengths - 1) < _TOLERANCE).all():
            raise ValueError("embeddings must be unit vectors")
    return np.clip((before * after).sum(axis=1), -1, 1)


def preserved(before: np.ndarray, after: np.ndarray, *, threshold: float) -> Preserved:
    """Return how well N pairs of pictures keep the person.

    Args:
        before, after: (N, E) unit embeddings, N at least 2.
        threshold: cosine from which two pictures count as one person, as a rule that of a false accept rate of 1e-3.
    """
    cosines = identity_cosines(before, after)
    others = np.asarray(before, np.float64) @ np.asarray(after, np.float64).T
    n = len(cosines)
    different = (others.sum() - others.trace()) / (n * (n - 1)) if n > 1 else float("nan")
    return Preserved(mean_interval(cosines), float((cosines >= threshold).mean()), float(different))
