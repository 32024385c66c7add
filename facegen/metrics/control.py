"""Does a generator do what it was asked, and nothing else? Figures from a judge's view of same-noise interventions.

An intervention on attribute k is a pair of pictures of one noise and one request, but for k absent in the first and present
in the second. The judge gives each picture the probability of each attribute.

    M[k, j] = mean of P_j(k present) - P_j(k absent) over the pairs: what moves when k is flipped
    N[k, j] = share of j among data with k - among data without k: what goes with k in the data

Shapes: N pairs, A attributes. Probabilities float, decisions bool, states -1 unknown, 0 absent, 1 present.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from facegen.attributes import ABSENT, PRESENT
from facegen.metrics.intervals import Interval, mean_interval

INDEPENDENT = 0.05  # attributes count as independent in the data where |N| is below this


@dataclass(frozen=True)
class Leakage:
    """What one generator's intervention matrix amounts to; means over attributes, or over ordered pairs of two of them."""

    effect: float  # mean M[k, k]: how far the attribute itself moves
    leakage: float  # mean |M[k, j]|, j != k
    excess_leakage: float  # mean of what |M[k, j]| has over |N[k, j]|, never below 0
    independent_leakage: (
        float | None
    )  # mean |M[k, j]| where the data say |N[k, j]| < 0.05; None if there is no such pair
    selectivity: float  # mean |M[k, k]| / sum_j |M[k, j]|


def intervention_effects(probabilities: np.ndarray) -> np.ndarray:  # (A,)
    """Return one row of M.

    Args:
        probabilities: finite (N, 2, A): attribute absent, then present.

    Raises:
        ValueError: for another shape, no pair, or a value outside [0, 1].
    """
    _check_pairs(probabilities)
    return np.asarray(probabilities[:, 1] - probabilities[:, 0], np.float64).mean(axis=0)


def natural_differences(states: np.ndarray) -> np.ndarray:  # (A, A)
    """Return N from labels (S, A); NaN where a side has no picture, pictures with an unknown state of either left out."""
    present, absent = ((states == s).astype(np.float64) for s in (PRESENT, ABSENT))
    known = present + absent
    with np.errstate(invalid="ignore", divide="ignore"):
        return (present.T @ present) / (present.T @ known) - (absent.T @ present) / (absent.T @ known)


def leakage_figures(effects: np.ndarray, natural: np.ndarray) -> Leakage:
    """Return the summary of M (A, A) beside N (A, A); pairs whose N is unknown count as having none.

    Raises:
        ValueError: if the shapes disagree, or there is only one attribute (nothing to leak to).
    """
    if effects.ndim != 2 or effects.shape[0] != effects.shape[1] or effects.shape != natural.shape:
        raise ValueError(f"matrices of shapes {effects.shape} and {natural.shape}; expected two (A, A)")
    if len(effects) < 2:
        raise ValueError("leakage needs at least 2 attributes")
    others = ~np.eye(len(effects), dtype=bool)
    moved, tied = np.abs(effects), np.nan_to_num(np.abs(natural))
    free = others & (tied < INDEPENDENT)
    total = moved.sum(axis=1)
    share = np.divide(moved.diagonal(), total, out=np.zeros(len(total)), where=total > 0)
    return Leakage(
        effect=float(effects.diagonal().mean()),
        leakage=float(moved[others].mean()),
        excess_leakage=float(np.clip(moved - tied, 0, None)[others].mean()),
        independent_leakage=float(moved[free].mean()) if free.any() else None,
        selectivity=float(share.mean()),
    )


def leakage_noise(pairs: Sequence[np.ndarray]) -> float:
    """Return the mean |M[k, j]|, j != k, that chance alone would give at these numbers of pairs, were every true M 0.

    Args:
        pairs: probabilities (N, 2, A), attribute by attribute.
    """
    found = []
    for k, probabilities in enumerate(pairs):
        moved = np.asarray(probabilities[:, 1] - probabilities[:, 0], np.float64)
        error = moved.std(axis=0, ddof=1) / np.sqrt(len(moved))
        found += [error[j] for j in range(len(error)) if j != k]
    return float(np.mean(found) * np.sqrt(2 / np.pi))  # E|Z| of a normal


def answered(decisions: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return which requested states were found, float64 like `states`; NaN where nothing was requested.

    Args:
        decisions: bool (..., A), what the judge sees.
        states: (..., A) of -1, 0, 1.
    """
    known = (states == PRESENT) | (states == ABSENT)
    return np.where(known, (decisions == (states == PRESENT)).astype(np.float64), np.nan)


def effect_interval(probabilities: np.ndarray, k: int) -> Interval:
    """Return M[k, k] with its paired t interval; arguments as `intervention_effects`."""
    _check_pairs(probabilities)
    return mean_interval(np.asarray(probabilities[:, 1, k] - probabilities[:, 0, k], np.float64))


def significant_leaks(pairs: Sequence[np.ndarray], *, level: float) -> list[tuple[int, int]]:
    """Return the (k, j), j != k, whose mean change differs from 0 at a family-wise level (paired t tests, Holm 1979).

    Args:
        pairs: probabilities (N, 2, A), attribute by attribute.
        level: chance of a single false finding among all pairs, between 0 and 1.
    """
    cells, p_values = [], []
    for k, probabilities in enumerate(pairs):
        moved = np.asarray(probabilities[:, 1] - probabilities[:, 0], np.float64)
        spread = moved.std(axis=0, ddof=1) / np.sqrt(len(moved))
        mean = moved.mean(axis=0)
        for j in range(moved.shape[1]):
            if j != k:
                score = abs(mean[j]) / spread[j] if spread[j] > 0 else (np.inf if mean[j] else 0.0)
                cells.append((k, j))
                p_values.append(2 * float(stats.t.sf(score, len(moved) - 1)))
    kept = holm(np.array(p_values)) <= level
    return [cell for cell, real in zip(cells, kept, strict=True) if real]


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p values (M,) adjusted for M tests: the i-th smallest times M - i + 1, made monotone, at most 1 (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _check_pairs(probabilities: np.ndarray) -> None:
    if probabilities.ndim != 3 or probabilities.shape[1] != 2 or not len(probabilities):
        raise ValueError(f"probabilities have shape {probabilities.shape}; expected (N, 2, A), N at least 1")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
