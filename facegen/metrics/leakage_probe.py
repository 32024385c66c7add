"""What a linear probe reads out of a feature that it was not made to tell: pose and expression out of an identity.

    targets ~ (features - mean) / scale . weights, by ridge regression; people are dealt to folds, and what is said of
    a person comes from a probe that has not seen them

A number (yaw, pitch) is told as its deviation from the person's mean, since a long nose is a feature of a person and no
pose (`within_people`; on drawn faces a third of pitch's variance is between people). It is scored by R^2, 0 where nothing
can be read; a yes or no (smiling) by the area under the ROC curve of the regression on 0 and 1, 0.5 where nothing can be
read. Intervals are a bootstrap over people. A feature that tells more of everything tells more of this, too: what it
tells of identity (`identity_auc`) stands beside it.
Shapes: N pictures, D features, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from facegen.metrics.intervals import CONFIDENCE, Interval
from facegen.metrics.pose import RIDGES, r_squared
from facegen.metrics.verification import cosines, different_person_pairs, roc, same_person_pairs

FOLDS = 5
NUM_RESAMPLES = 200
NUM_PAIRS = 20_000  # of either kind, of the identity that a feature tells
_SMALL = 1e-6


def fit_ridge(features: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the ridge regression of targets (N, T) on standardised features (N, D): from (M, D) to (M, T).

    For each target, of the ridges of `facegen.metrics.pose` the one with the least squared error when each picture is
    left out.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than three pictures, or no feature varies.

    Source: Hoerl and Kennard 1970; the left-out residual (y - yhat)_i / (1 - H_ii): Golub, Heath and Wahba 1979.
    """
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or len(features) < 3:
        raise ValueError(f"targets {targets.shape} for features {features.shape}; expected (N, T) and (N, D), N > 2")
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    scale = np.where(deviation > _SMALL, deviation, np.inf)  # what does not vary says nothing
    standard = (features - mean) / scale
    offset = targets.mean(0)
    values, vectors = np.linalg.eigh(standard.T @ standard)
    values = np.maximum(values, 0)
    unit = values.sum() / min(standard.shape)
    if unit <= _SMALL:
        raise ValueError("no feature varies: nothing can be told from them")
    turned = standard @ vectors  # (N, D)
    along = turned.T @ (targets - offset)
    errors, fits = [], []
    for ridge in RIDGES:
        inverse = 1 / (values + ridge * unit)
        weights = inverse[:, None] * along
        shown = np.square(turned) @ inverse + 1 / len(targets)  # the diagonal of the hat matrix; 1 / N: of the mean
        residual = (targets - offset - turned @ weights) / np.maximum(1 - shown, _SMALL)[:, None]
        errors.append(np.square(residual).sum(0))
        fits.append(weights)
    best = np.argmin(errors, axis=0)
    chosen = vectors @ np.stack([fits[choice][:, target] for target, choice in enumerate(best)], axis=1)
    return lambda rows: ((rows - mean) / scale) @ chosen + offset


def within_people(values: np.ndarray, people: np.ndarray) -> np.ndarray:  # (N,)
    """Return the deviation of each of (N,) values from the mean of its person: the part that is not who it is."""
    _, place = np.unique(people, return_inverse=True)
    return values - (np.bincount(place, weights=values) / np.bincount(place))[place]


def cross_fitted(
    features: np.ndarray, targets: np.ndarray, people: np.ndarray, *, rng: np.random.Generator, folds: int = FOLDS
) -> np.ndarray:  # (N, T)
    """Return what ridge regressions say of (N, T) targets, each of people that it was not fitted on.

    Args:
        features: (N, D).
        people: (N,) who each picture shows.
        folds: fewer where there are fewer people.

    Raises:
        ValueError: if there are fewer than two people, or as `fit_ridge`.
    """
    names = np.unique(people)
    if len(names) < 2:
        raise ValueError(f"{len(names)} people; a probe needs at least 2, to be tested on others than it was fitted on")
    said = np.empty(targets.shape)
    for group in np.array_split(rng.permutation(names), min(folds, len(names))):
        tested = np.isin(people, group)
        said[tested] = fit_ridge(features[~tested], targets[~tested])(features[tested])
    return said


def over_people(
    statistic: Callable[[np.ndarray], float | None], people: np.ndarray, *, rng: np.random.Generator
) -> Interval | None:
    """Return a statistic of rows of pictures, with the percentiles of a bootstrap over people; None where it has none.

    Args:
        statistic: a number from row numbers, repeated as often as their person was drawn.
        people: (N,) who each picture shows.
    """
    value = statistic(np.arange(len(people)))
    if value is None:
        return None
    order = np.argsort(people, kind="stable")
    groups = np.split(order, np.unique(people[order], return_index=True)[1][1:])
    drawn = (rng.integers(0, len(groups), len(groups)) for _ in range(NUM_RESAMPLES))
    found = [statistic(np.concatenate([groups[g] for g in chosen])) for chosen in drawn]
    known = [figure for figure in found if figure is not None]
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) if known else (value, value)
    return Interval(value, float(low), float(high), len(people))


def probe_report(
    features: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray],
    people: np.ndarray, *, rng: Callable[[], np.random.Generator],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return what each feature tells: {feature: {size, identity_auc, NAME_r2, NAME_auc}}.

    Scores are {value, low, high, n}, None where the target does not vary. identity_auc is a number, verification's: the
    probability that two pictures of one person have a higher cosine than two of different people, standardised.

    Args:
        features: (N, D) by name.
        numbers: (N,) by name, scored by R^2.
        states: (N,) of 0 and 1 by name, scored by the area under the curve.
        people: (N,) who each picture shows.
        rng: makes the generator of each feature anew, so that all have the same folds, pairs and resamples.

    Raises:
        ValueError: as `cross_fitted`, or if no person has two pictures.
    """
    targets = np.stack([*numbers.values(), *states.values()], axis=1).astype(np.float64)
    report: dict[str, dict[str, Any]] = {}
    for name, rows in features.items():
        generator = rng()
        said = cross_fitted(rows, targets, people, rng=generator)
        figures: dict[str, Interval | None] = {}
        identity = identity_auc(rows, people, rng=generator)
        for column, target in enumerate([*numbers, *states]):
            score, suffix = (_r2, "r2") if target in numbers else (_auc, "auc")
            statistic = _of_rows(score, targets[:, column], said[:, column])
            figures[f"{target}_{suffix}"] = over_people(statistic, people, rng=generator)
        told = {key: figure.to_json() if figure else None for key, figure in figures.items()}
        report[name] = {"size": rows.shape[1], "identity_auc": identity, **told}
    return report


def identity_auc(features: np.ndarray, people: np.ndarray, *, rng: np.random.Generator) -> float:
    """Return how well cosines of standardised features (N, D) tell one person from two.

    Raises:
        ValueError: if no person has two pictures, or there is one person alone.
    """
    deviation = features.std(0, dtype=np.float64)
    standard = (features - features.mean(0, dtype=np.float64)) / np.where(deviation > _SMALL, deviation, np.inf)
    unit = standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), _SMALL)
    same = same_person_pairs(people)
    same = same[rng.permutation(len(same))[:NUM_PAIRS]]
    first, second = np.concatenate([same, different_person_pairs(people, rng, NUM_PAIRS)]).T
    return roc(cosines(unit, first, second), np.arange(len(first)) < len(same)).auc()


def _of_rows(
    score: Callable[[np.ndarray, np.ndarray], float | None], truth: np.ndarray, said: np.ndarray
) -> Callable[[np.ndarray], float | None]:
    return lambda rows: score(truth[rows], said[rows])


def _r2(truth: np.ndarray, said: np.ndarray) -> float | None:
    return r_squared(truth[:, None], said[:, None])


def _auc(truth: np.ndarray, said: np.ndarray) -> float | None:
    ones = truth > 0.5
    return None if ones.all() or not ones.any() else roc(said, ones).auc()
