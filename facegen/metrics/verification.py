"""Are two pictures of one person? The figures of face verification, from the cosines of pairs of embeddings.

A pair is accepted from a threshold on. FAR is the share of different-person pairs that are accepted, TAR that of
same-person pairs. Shapes: N pictures, E embedding, P pairs, T distinct scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegen.metrics.intervals import CONFIDENCE, Interval, mean_interval

FOLDS = 10
FARS = (1e-2, 1e-3)
NUM_FOLD_PAIRS = 6000  # of the accuracy over folds, as in Labeled Faces in the Wild
MAX_PAIRS = 100_000  # of either kind, of the other figures
NUM_RESAMPLES = 100


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures: their rows, whether they show one person, and the fold that each belongs to; all (P,)."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    disjoint_people: bool  # whether no person is in two folds

    def __len__(self) -> int:
        return len(self.same)


def cosines(embeddings: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:  # (P,)
    """Return the cosines of pairs of rows of unit vectors (N, E), float64.

    Raises:
        ValueError: if a row is no unit vector.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or not (np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3).all():
        raise ValueError(f"embeddings {embeddings.shape} are not unit vectors (N, E)")
    chunks = (slice(i, i + 65536) for i in range(0, len(first), 65536))
    return np.concatenate([np.empty(0), *((embeddings[first[c]] * embeddings[second[c]]).sum(1) for c in chunks)])


def make_pairs(identity: np.ndarray, rng: np.random.Generator, num: int, *, folds: int = FOLDS) -> Pairs:
    """Return equal numbers of same-person and different-person pairs, none twice.

    People are dealt to the folds and pairs are drawn within one, so that a threshold is never tested on a person it was
    chosen on. With fewer than two people a fold there would be no different-person pairs: there are then fewer folds;
    with fewer than four people, the folds share them and `disjoint_people` is False.

    Args:
        identity: (N,) people; negative where unknown (left out).
        num: pairs wanted; fewer are returned where a fold does not have them.

    Raises:
        ValueError: if there are not two people, none of them has two pictures, or num or folds is below 2.
    """
    if num < 2 or folds < 2:
        raise ValueError(f"{num} pairs in {folds} folds; expected at least 2 of each")
    people = np.unique(identity[identity >= 0])
    if len(people) < 2:
        raise ValueError(f"the pictures name {len(people)} people; pairs need at least 2")
    disjoint = len(people) >= 4
    groups = np.array_split(rng.permutation(people), min(folds, len(people) // 2) if disjoint else 1)
    parts = []
    for number, group in enumerate(groups):
        rows = np.flatnonzero(np.isin(identity, group))
        same = same_person_pairs(identity[rows])
        wanted = min(max(num // (2 * len(groups)), 1), len(same), _num_different(identity[rows]))
        chosen = same[rng.permutation(len(same))[:wanted]]
        different = different_person_pairs(identity[rows], rng, wanted)
        both = rows[np.concatenate([chosen, different])]
        parts.append(np.column_stack([both, np.repeat([1, 0], wanted), np.full(2 * wanted, number)]))
    table = np.concatenate(parts)
    if not len(table):
        raise ValueError("no person has two pictures: there is no same-person pair")
    if not disjoint:
        table[:, 3] = rng.permutation(np.arange(len(table)) // 2 % folds)
    return Pairs(table[:, 0], table[:, 1], table[:, 2].astype(bool), table[:, 3], disjoint)


def same_person_pairs(identity: np.ndarray) -> np.ndarray:  # (P, 2)
    """Return all pairs of rows i < j of one known person."""
    found = [np.empty((0, 2), dtype=np.int64)]
    order = np.argsort(identity, kind="stable")
    names, starts = np.unique(identity[order], return_index=True)
    for name, rows in zip(names, np.split(order, starts[1:]), strict=True):
        if name >= 0:
            found.append(rows[np.column_stack(np.triu_indices(len(rows), 1))])
    return np.concatenate(found)


def different_person_pairs(identity: np.ndarray, rng: np.random.Generator, num: int) -> np.ndarray:  # (P, 2)
    """Return up to `num` pairs of rows i < j of two known people, none twice: all of them where there are no more."""
    known = np.flatnonzero(identity >= 0)
    people, total = identity[known], _num_different(identity)
    if total <= num or len(known) <= 2048:
        i, j = np.triu_indices(len(known), 1)
        all_of_them = np.column_stack([i, j])[people[i] != people[j]]
        return known[all_of_them[np.sort(rng.permutation(total)[:num])]]
    codes = np.empty(0, dtype=np.int64)
    while len(codes) < num:
        i, j = np.sort(rng.integers(0, len(known), (2, 2 * num)), axis=0)
        codes = np.unique(np.concatenate([codes, (i * len(known) + j)[people[i] != people[j]]]))
    codes = np.sort(codes[rng.permutation(len(codes))[:num]])
    return known[np.column_stack([codes // len(known), codes % len(known)])]


def _num_different(identity: np.ndarray) -> int:
    counts = np.unique(identity[identity >= 0], return_counts=True)[1].astype(np.int64)
    return int((counts.sum() ** 2 - np.square(counts).sum()) // 2)


def verification_accuracy(scores: np.ndarray, pairs: Pairs) -> tuple[Interval, float]:
    """Return the mean accuracy over the folds with its t interval, and its standard deviation.

    The threshold of each fold is the best one of all others. Source: Huang et al., Labeled Faces in the Wild, view 2.

    Raises:
        ValueError: as `roc`, or if there are fewer than two folds.
    """
    _check(scores, pairs.same)
    accuracies = []
    for fold in np.unique(pairs.fold):
        tested = pairs.fold == fold
        threshold = best_threshold(scores[~tested], pairs.same[~tested])
        accuracies.append(((scores[tested] >= threshold) == pairs.same[tested]).mean())
    interval = mean_interval(np.array(accuracies))
    low, high = max(interval.low, 0.0), min(interval.high, 1.0)  # t's ends may lie beyond what a share can be
    return Interval(interval.value, low, high, len(scores)), float(np.std(accuracies, ddof=1))


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Return the threshold of the highest accuracy: the middle between two scores, and of the ties the median one."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    right = np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])  # of accepting the first k
    cuts = np.flatnonzero(np.diff(sorted_scores, prepend=np.inf, append=-np.inf))  # never between equal scores
    best = cuts[right[cuts] == right[cuts].max()]
    cut = int(best[len(best) // 2])
    padded = np.concatenate([[sorted_scores[0] + 1], sorted_scores, [sorted_scores[-1] - 1]])
    return float((padded[cut] + padded[cut + 1]) / 2)


@dataclass(frozen=True)
class Roc:
    """The curve of all thresholds, from the strictest to the laxest; far and tar rise from 0 to 1. All (T + 1,)."""

    far: np.ndarray
    tar: np.ndarray
    num_different: float

    def auc(self) -> float:
        """Return the area under the curve: the probability that a same-person pair scores higher, ties count half."""
        return float(np.trapezoid(self.tar, self.far))

    def tar_at_far(self, far: float) -> float:
        """Return TAR at this FAR, linear between points of the curve.

        Raises:
            ValueError: if there are fewer different-person pairs than 1 / far.
        """
        _require_pairs(self.num_different, far)
        return float(np.interp(far, self.far, self.tar))

    def equal_error_rate(self) -> float:
        """Return the rate at which FAR equals 1 - TAR, linear between points of the curve."""
        excess = self.far - (1 - self.tar)  # rises from -1 to 1
        after = int(np.argmax(excess >= 0))
        share = -excess[after - 1] / (excess[after] - excess[after - 1])
        return float(self.far[after - 1] + share * (self.far[after] - self.far[after - 1]))


def threshold_at_far(different: np.ndarray, far: float) -> float:
    """Return the threshold from which no more than this share of the different-person scores (P,) is accepted.

    Linear between the two scores around it.

    Raises:
        ValueError: if there are fewer scores than 1 / far, or one is not finite.
    """
    _require_pairs(len(different), far)
    if not np.isfinite(different).all():
        raise ValueError("a score is NaN or infinite")
    values, counts = np.unique(-np.asarray(different, np.float64), return_counts=True)  # from the highest score on
    values = -np.concatenate([[np.nextafter(values[0], -np.inf)], values])
    return float(np.interp(far, np.concatenate([[0], counts.cumsum()]) / len(different), values))


def _require_pairs(num_different: float, far: float) -> None:
    if not 0 < far < 1 or num_different * far < 1 - 1e-9:
        raise ValueError(f"FAR {far:g} cannot be read off {num_different:g} different-person pairs: fewer than 1 / FAR")


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
    """Return the curve of (P,) scores and whether each pair shows one person.

    Raises:
        ValueError: for other shapes, scores that are not finite, or one kind of pair only.
    """
    _check(scores, same)
    return _Sorted(scores, same).roc(np.ones(len(scores)))


class _Sorted:
    """Pairs from the highest score to the lowest, so that a curve under other weights needs no sorting."""

    def __init__(self, scores: np.ndarray, same: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.same = same[self.order]
        ordered = scores[self.order].astype(np.float64)
        self.ends = np.flatnonzero(np.diff(ordered, append=-np.inf))  # the last of each run of equal scores

    def roc(self, weights: np.ndarray) -> Roc:
        ordered = weights[self.order]
        same = np.concatenate([[0.0], np.cumsum(ordered * self.same)[self.ends]])
        different = np.concatenate([[0.0], np.cumsum(ordered * ~self.same)[self.ends]])
        if same[-1] == 0 or different[-1] == 0:
            raise ValueError("pairs of one kind only; the curve needs same-person and different-person pairs")
        return Roc(different / different[-1], same / same[-1], float((~self.same).sum()))


def verification_figures(
    embeddings: np.ndarray, identity: np.ndarray, *, rng: np.random.Generator
) -> tuple[dict[str, Interval | None], int]:
    """Return auc, equal_error_rate and tar_at_far_F for each of FARS, and the number of pairs behind them.

    All same-person pairs and all different-person pairs, or MAX_PAIRS of either at random. The intervals are percentiles
    of a bootstrap over people: a pair weighs as often as its people were drawn.

    Args:
        embeddings: (N, E) unit vectors.
        identity: (N,) people, negative where unknown (left out).

    Returns:
        The figures, None for a FAR that there are too few different-person pairs for (fewer than 1 / FAR).

    Raises:
        ValueError: as `roc`.
    """
    same = same_person_pairs(identity)
    same = same[rng.permutation(len(same))[:MAX_PAIRS]]
    first, second = np.concatenate([same, different_person_pairs(identity, rng, MAX_PAIRS)]).T
    is_same = np.arange(len(first)) < len(same)
    scores = cosines(embeddings, first, second)
    _check(scores, is_same)
    table = _Sorted(scores, is_same)
    fars = [far for far in FARS if (~is_same).sum() * far >= 1]
    values = _figures(table.roc(np.ones(len(first))), fars)
    people, person = np.unique(identity, return_inverse=True)
    known = np.flatnonzero(people >= 0)
    draws: list[dict[str, float]] = []
    while len(draws) < NUM_RESAMPLES:
        times = np.bincount(known[rng.integers(0, len(known), len(known))], minlength=len(people)).astype(np.float64)
        weights = times[person[first]] * np.where(is_same, 1.0, times[person[second]])
        if weights[is_same].any() and weights[~is_same].any():  # not so if one of a few people was drawn every time
            draws.append(_figures(table.roc(weights), fars))
    figures: dict[str, Interval | None] = {f"tar_at_far_{far_name(far)}": None for far in FARS}
    for name, value in values.items():
        low, high = np.quantile([d[name] for d in draws], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        figures[name] = Interval(value, float(low), float(high), len(scores))
    return figures, len(scores)


def _figures(curve: Roc, fars: list[float]) -> dict[str, float]:
    rates = {f"tar_at_far_{far_name(far)}": curve.tar_at_far(far) for far in fars}
    return {"auc": curve.auc(), "equal_error_rate": curve.equal_error_rate(), **rates}


def far_name(far: float) -> str:
    """Return 1e-3 for 0.001."""
    mantissa, exponent = f"{far:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def verification_report(embeddings: np.ndarray, identity: np.ndarray, *, rng: np.random.Generator) -> dict[str, Any]:
    """Return all figures of one set of pictures as accuracy.json has them.

    Raises:
        ValueError: as `make_pairs` and `roc`.
    """
    pairs = make_pairs(identity, rng, NUM_FOLD_PAIRS)
    accuracy, deviation = verification_accuracy(cosines(embeddings, pairs.first, pairs.second), pairs)
    figures, num_pairs = verification_figures(embeddings, identity, rng=rng)
    return {
        "accuracy": accuracy.to_json(),
        "accuracy_std": deviation,
        "folds": len(np.unique(pairs.fold)),
        "folds_share_people": not pairs.disjoint_people,
        **{name: interval.to_json() if interval else None for name, interval in figures.items()},
        "people": len(np.unique(identity[identity >= 0])),
        "pictures": int((identity >= 0).sum()),
        "pairs": num_pairs,
    }


def accept_thresholds(
    embeddings: Mapping[str, np.ndarray], identity: Mapping[str, np.ndarray], *, rng: np.random.Generator
) -> tuple[dict[str, float], dict[str, str]]:
    """Return, for each of FARS, the cosine from which a pair is accepted, and the set of pictures it was set on.

    That is the first set with at least 1 / FAR different-person pairs; after the single ones, all together (people of
    different sets are taken to differ by their numbers). A FAR that none suffices for is left out.

    Args:
        embeddings: (N, E) unit vectors of each set, by name, in the order of preference.
        identity: (N,) people of each, negative where unknown.
    """
    sets = {name: (embeddings[name], identity[name]) for name in embeddings}
    together = "+".join(sets)
    sets[together] = (np.concatenate([e for e, _ in sets.values()]), np.concatenate([i for _, i in sets.values()]))
    thresholds: dict[str, float] = {}
    chosen: dict[str, str] = {}
    for name, (vectors, people) in sets.items():
        pairs = different_person_pairs(people, rng, MAX_PAIRS)
        for far in FARS:
            if far_name(far) not in thresholds and len(pairs) * far >= 1:
                thresholds[far_name(far)] = threshold_at_far(cosines(vectors, *pairs.T), far)
                chosen[far_name(far)] = name
    return thresholds, chosen


def _check(scores: np.ndarray, same: np.ndarray) -> None:
    if scores.ndim != 1 or scores.shape != same.shape or same.dtype != bool:
        raise ValueError(f"scores {scores.shape} and same {same.dtype} {same.shape}; expected (P,) and bool (P,)")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite")
    if same.all() or not same.any():
        raise ValueError("pairs of one kind only; verification needs same-person and different-person pairs")
