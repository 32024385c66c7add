"""Accuracy over folds of pairs: the protocol of published verification sets, and the ratio of two recognisers.

Shapes: P pairs, F folds, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facegen.metrics.intervals import CONFIDENCE, Interval, mean_interval
from facegen.metrics.verification import FOLDS, Pairs, best_threshold

THRESHOLDS = np.arange(400) / 100  # of the squared distance of unit vectors, which lies between 0 and 4
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class FoldAccuracy:
    """Mean accuracy with its t interval over the folds, their standard deviation, and the threshold of each fold."""

    accuracy: Interval
    deviation: float
    thresholds: np.ndarray  # (F,)


def fold_accuracy(distances: np.ndarray, same: np.ndarray, *, folds: int = FOLDS) -> FoldAccuracy:
    """Return the accuracy of a published set: its pairs in the order of the file, in contiguous folds.

    A pair counts as one person below a threshold. Each fold takes that one of THRESHOLDS which is right most often on
    all other folds, the smallest of several. Where the pairs cannot be divided evenly, the first folds have one more.

    Args:
        distances: (P,) squared Euclidean distances of unit vectors.
        same: bool (P,).

    Raises:
        ValueError: for other shapes, distances that are not finite or negative, or fewer pairs than folds.

    Source: Huang et al., Labeled Faces in the Wild, view 2, with the threshold grid that insightface evaluates by.
    """
    if distances.ndim != 1 or distances.shape != same.shape or same.dtype != bool:
        raise ValueError(f"distances {distances.shape} and same {same.dtype} {same.shape}; expected (P,) and bool (P,)")
    if not (np.isfinite(distances) & (distances >= 0)).all():
        raise ValueError("distances must be finite and at least 0")
    if len(same) < folds or folds < 2:
        raise ValueError(f"{len(same)} pairs in {folds} folds; expected at least one a fold, and two folds")
    below = np.searchsorted(THRESHOLDS, distances, side="right")  # number of the first threshold that is larger, or T
    parts = np.array_split(np.arange(len(same)), folds)
    right = np.stack([_num_right(below[part], same[part]) for part in parts])  # (F, T)
    best = (right.sum(axis=0) - right).argmax(axis=1)  # the first maximum
    accuracies = right[np.arange(folds), best] / np.array([len(part) for part in parts])
    mean = mean_interval(accuracies)
    interval = Interval(mean.value, max(mean.low, 0.0), min(mean.high, 1.0), len(same))
    return FoldAccuracy(interval, float(accuracies.std(ddof=1)), THRESHOLDS[best])


def _num_right(below: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return how many pairs each threshold judges rightly, (T,): those of one person accepted, the others not."""
    accepted, wrongly = (
        np.bincount(below[kind], minlength=len(THRESHOLDS) + 1).cumsum()[: len(THRESHOLDS)] for kind in (same, ~same)
    )
    return accepted + (~same).sum() - wrongly


def judged_right(scores: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return for each pair whether it is judged rightly by the threshold of all folds but its own, bool (P,)."""
    right = np.empty(len(pairs), dtype=bool)
    for fold in np.unique(pairs.fold):
        tested = pairs.fold == fold
        threshold = best_threshold(scores[~tested], pairs.same[~tested])
        right[tested] = (scores[tested] >= threshold) == pairs.same[tested]
    return right


def above_chance_ratio(
    first: np.ndarray, second: np.ndarray, pairs: Pairs, people: Sequence[np.ndarray], *, rng: np.random.Generator
) -> Interval | None:
    """Return (accuracy of the first - 1/2) / (accuracy of the second - 1/2) on the same pairs of people.

    Accuracy here is the mean of that of same-person and that of different-person pairs. The interval is that of a
    bootstrap over people: a pair weighs as often as its people were drawn, and both recognisers see the same draw.

    Args:
        first, second: bool (P,), whether each recogniser judges each pair rightly.
        people: the (P,) person of each pair's first and second picture.

    Returns:
        The ratio, its n the number of people; None where the second is not above chance, in the data or in a draw.

    Source: Efron 1979.
    """
    names, person = np.unique(np.stack(people), return_inverse=True)
    one, other = person.reshape(2, -1)
    rights = np.stack([first, second]).astype(np.float64)

    def ratio(times: np.ndarray) -> float | None:
        weights = times[one] * np.where(pairs.same, 1.0, times[other])
        sums = [weights[kind].sum() for kind in (pairs.same, ~pairs.same)]
        if min(sums) == 0:  # a few people, of whom one was drawn every time: says nothing
            return np.nan
        shares = [
            rights[:, kind] @ weights[kind] / total for kind, total in zip((pairs.same, ~pairs.same), sums, strict=True)
        ]
        above = (shares[0] + shares[1]) / 2 - 0.5  # (2,)
        return float(above[0] / above[1]) if above[1] > 0 else None

    value = ratio(np.ones(len(names)))
    draws = [
        ratio(np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)).astype(np.float64))
        for _ in range(NUM_RESAMPLES)
    ]
    if value is None or any(draw is None for draw in draws):
        return None
    low, high = np.nanquantile(np.array(draws, np.float64), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high), len(names))
