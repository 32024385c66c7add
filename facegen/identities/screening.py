"""Which synthetic people are kept, judged by what came out: the centres of their pictures, embedded again.

Two conditions that differ may be drawn as one face, and a condition that is far from every training person may be drawn
near to one. So each person's centre (the unit mean of the embeddings of the pictures) is compared with the centres of
all training people and of the people kept before. How near a stranger comes to his nearest training person by chance
is measured on people whom no network has seen; that is the yardstick, and a figure of another recogniser is none.
Shapes: K people generated, P training people, Q unseen people, E embedding. Centres are unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KEPT, TRAINING, TWIN, SPARE = "", "training", "twin", "spare"
BATCH = 1024  # centres compared at a time


@dataclass(frozen=True)
class Screened:
    """The outcome for each of K people."""

    kept: np.ndarray  # int64, numbers of those who are kept, in order
    reasons: list[str]  # K: "" kept, "training" or "twin" too near to one of these, "spare" there were enough already
    nearest_training: np.ndarray  # (K,) float32, cosine of the nearest training person
    nearest_kept: np.ndarray  # (K,) float32, cosine of the nearest person kept before; -1 where there is none


def nearest(centres: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosine of the nearest of `others` (P, E) to each centre, float64 (K,)."""
    people = others.astype(np.float64).T
    batches = (centres[start : start + BATCH].astype(np.float64) for start in range(0, len(centres), BATCH))
    return np.concatenate([np.empty(0), *((batch @ people).max(axis=1) for batch in batches)])


def stranger_threshold(unseen: np.ndarray, training: np.ndarray, *, quantile: float) -> float:
    """Return how near to a training person a person comes who is none: this quantile over people never seen.

    Args:
        unseen: (Q, E) centres of people of a split that nothing was trained on.
        training: (P, E) centres.
        quantile: 0 to 1; 1 is the nearest stranger of all.

    Raises:
        ValueError: if nobody is there to compare, sizes disagree, or the quantile is none.
    """
    _check(unseen, training)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}; it must be between 0 and 1")
    if not len(unseen):
        raise ValueError("there are no unseen people; how near strangers come cannot be told")
    return float(np.quantile(nearest(unseen, training), quantile))


def screen(
    centres: np.ndarray, training: np.ndarray, *, max_to_training: float, max_to_each_other: float, wanted: int
) -> Screened:
    """Keep the first `wanted` people who are near neither to a training person nor to one kept before.

    Args:
        centres: (K, E), in the order of preference.
        training: (P, E) centres.
        max_to_training, max_to_each_other: the largest cosines allowed.
        wanted: how many to keep; where fewer pass, fewer are kept.

    Raises:
        ValueError: if sizes disagree or there is no training person.
    """
    _check(centres, training)
    to_training = nearest(centres, training)
    kept: list[int] = []
    reasons: list[str] = []
    taken = np.empty((min(wanted, len(centres)), centres.shape[1]), dtype=np.float64)
    to_kept = np.full(len(centres), -1.0)
    for i, centre in enumerate(centres.astype(np.float64)):
        if kept:
            to_kept[i] = float((taken[: len(kept)] @ centre).max())
        if to_training[i] > max_to_training:
            reasons.append(TRAINING)
        elif to_kept[i] > max_to_each_other:
            reasons.append(TWIN)
        elif len(kept) == wanted:
            reasons.append(SPARE)
        else:
            taken[len(kept)] = centre
            kept.append(i)
            reasons.append(KEPT)
    return Screened(np.array(kept, dtype=np.int64), reasons, to_training.astype(np.float32), to_kept.astype(np.float32))


def _check(centres: np.ndarray, training: np.ndarray) -> None:
    if centres.ndim != 2 or training.ndim != 2 or centres.shape[1] != training.shape[1] or not len(training):
        raise ValueError(f"centres {centres.shape} and training people {training.shape}; expected (K, E) and (P, E)")
