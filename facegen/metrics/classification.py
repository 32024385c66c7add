"""How good a binary classifier is: areas, rates and calibration, attribute by attribute.

A picture whose state is unknown never counts. Where a figure needs a class that has no picture, it is None.

Shapes: N pictures, T points of a curve, K bins. States are -1 unknown, 0 absent, 1 present. All arithmetic float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from facegen.attributes import ABSENT, PRESENT
from facegen.metrics.intervals import Interval, wilson_interval

NUM_BINS = 15  # of the calibration error; Guo et al.
MAX_POINTS = 60  # of a curve that is kept in a file


@dataclass(frozen=True)
class Rates:
    """What a classifier's decisions are worth; pictures count as independent."""

    sensitivity: Interval | None  # share of present that is called present
    specificity: Interval | None  # share of absent that is called absent
    accuracy: float | None

    def balanced_accuracy(self) -> Interval | None:
        """Return the mean of sensitivity and specificity, with an interval from both of theirs.

        Source: Zou and Donner 2008, equation 5 (square and add), of two independent halves.
        """
        if self.sensitivity is None or self.specificity is None:
            return None
        both = (self.sensitivity, self.specificity)
        value = sum(rate.value for rate in both) / 2
        below = math.hypot(*(rate.value - rate.low for rate in both)) / 2
        above = math.hypot(*(rate.high - rate.value for rate in both)) / 2
        return Interval(value, value - below, value + above, sum(rate.n for rate in both))


@dataclass(frozen=True)
class Reliability:
    """Said and true probability of presence in the bins that hold a picture; all (K,)."""

    confidence: np.ndarray  # mean probability said
    frequency: np.ndarray  # share present
    count: np.ndarray

    def error(self) -> float:
        """Return the expected calibration error. Source: Guo et al. 2017, equation 3, of P(present)."""
        return float((self.count * np.abs(self.confidence - self.frequency)).sum() / self.count.sum())


def classification_rates(decisions: np.ndarray, states: np.ndarray) -> Rates:
    """Return the rates of decisions bool (N,) against states (N,)."""
    right, present = _known(np.asarray(decisions, bool), states)
    right = right == present

    def rate(among: np.ndarray) -> Interval | None:
        return wilson_interval(int(right[among].sum()), int(among.sum())) if among.any() else None

    return Rates(rate(present), rate(~present), float(right.mean()) if len(right) else None)


def majority_baseline(states: np.ndarray) -> float | None:
    """Return the accuracy of always saying the commoner class, whose balanced accuracy is one half."""
    present = _known(states, states)[1]
    return float(max(present.mean(), 1 - present.mean())) if len(present) else None


def roc_points(scores: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return false and true positive rates (T,), one point for each distinct score, from (0, 0) to (1, 1).

    Args:
        scores: finite (N,); higher says present.
        states: (N,).
    """
    values, present = _known(scores, states)
    if present.all() or not present.any():  # none at all is both
        return None
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # the last of each run of equal scores
    true = np.concatenate([[0], np.cumsum(present[order])[ends]])
    false = np.concatenate([[0], np.cumsum(~present[order])[ends]])
    return false / false[-1], true / true[-1]


def auroc(scores: np.ndarray, states: np.ndarray) -> float | None:
    """Return the probability that a picture with the attribute scores higher than one without, ties counting half.

    Source: Hanley and McNeil 1982: the area under the curve of `roc_points` is Mann and Whitney's U / (P Q).
    """
    points = roc_points(scores, states)
    return None if points is None else float(np.trapezoid(points[1], points[0]))


def thinned(false: np.ndarray, true: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `num` points of a curve (T,), its ends among them: its corners, evenly along it if there are more.

    Raises:
        ValueError: if `num` is below 2.
    """
    if num < 2:
        raise ValueError(f"a curve cannot be kept in {num} points; at least 2 are needed")
    across, up = np.diff(false), np.diff(true)
    bends = ~np.isclose(across[1:] * up[:-1], across[:-1] * up[1:], rtol=0, atol=1e-12)
    corners = np.concatenate([[0], 1 + np.flatnonzero(bends), [len(false) - 1]])
    if len(corners) > num:
        length = (false + true)[corners]  # rises along the curve
        corners = corners[np.unique(np.searchsorted(length, np.linspace(0, length[-1], num)))]
    return false[corners], true[corners]


def reliability(probabilities: np.ndarray, states: np.ndarray, *, num_bins: int = NUM_BINS) -> Reliability:
    """Return the table of bins of equal width over [0, 1]; 1 itself belongs to the last one.

    Raises:
        ValueError: if a probability lies outside [0, 1], or there is no bin.
    """
    said, present = _known(probabilities, states)
    if num_bins < 1 or not ((said >= 0) & (said <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1] and the bins number at least 1, got {num_bins} bins")
    place = np.minimum((said * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(place, minlength=num_bins)
    held = count > 0
    sums = (np.bincount(place, weights=w, minlength=num_bins)[held] for w in (said, present.astype(np.float64)))
    confidence, frequency = (total / count[held] for total in sums)
    return Reliability(confidence, frequency, count[held])


def expected_calibration_error(
    probabilities: np.ndarray, states: np.ndarray, *, num_bins: int = NUM_BINS
) -> float | None:
    """Return the mean distance of said from true probability, over bins by their size; arguments as `reliability`."""
    table = reliability(probabilities, states, num_bins=num_bins)
    return table.error() if len(table.count) else None


def corrected_share(observed: float, sensitivity: float, specificity: float) -> float | None:
    """Return the true share of present among pictures of which the classifier calls a share present, within [0, 1].

    None where its decisions are worth no more than chance. Source: Rogan and Gladen 1978, equation 2.
    """
    worth = sensitivity + specificity - 1
    return min(max((observed + specificity - 1) / worth, 0.0), 1.0) if worth > 0 else None


def attribute_figures(
    calibrated: np.ndarray, uncalibrated: np.ndarray, states: np.ndarray, *, threshold: float
) -> dict[str, Any]:
    """Return all figures of one attribute, for a JSON file; those that need a missing class are None.

    Args:
        calibrated, uncalibrated: (N,) probabilities of presence with and without temperature.
        states: (N,).
        threshold: on the calibrated ones, from which the attribute counts as present.
    """
    rates = classification_rates(calibrated >= threshold, states)
    present, absent = (int((states == state).sum()) for state in (PRESENT, ABSENT))
    both = present > 0 and absent > 0
    intervals = {
        "balanced_accuracy": rates.balanced_accuracy(),
        "sensitivity": rates.sensitivity,
        "specificity": rates.specificity,
    }
    return {
        **{name: None if found is None else found.to_json() for name, found in intervals.items()},
        "auroc": auroc(calibrated, states),
        "calibration_error": expected_calibration_error(calibrated, states) if both else None,
        "calibration_error_uncalibrated": expected_calibration_error(uncalibrated, states) if both else None,
        "accuracy": rates.accuracy,
        "majority_accuracy": majority_baseline(states),
        "present": present,
        "absent": absent,
    }


def curve_tables(calibrated: np.ndarray, states: np.ndarray) -> dict[str, dict[str, list[float]] | None]:
    """Return the ROC curve and the reliability of one attribute, for a JSON file; None where a class is missing."""
    points = roc_points(calibrated, states)
    if points is None:
        return {"roc": None, "reliability": None}
    false, true = thinned(*points, MAX_POINTS)
    table = reliability(calibrated, states)
    return {
        "roc": {"false_positive_rate": false.tolist(), "true_positive_rate": true.tolist()},
        "reliability": {
            "confidence": table.confidence.tolist(),
            "frequency": table.frequency.tolist(),
            "count": table.count.tolist(),
        },
    }


def _known(values: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the presence, bool, of the pictures whose state is known.

    Raises:
        ValueError: for another shape, or a value that is not finite.
    """
    if values.ndim != 1 or values.shape != states.shape:
        raise ValueError(f"values {values.shape} and states {states.shape}; expected two (N,)")
    known = (states == PRESENT) | (states == ABSENT)
    kept = values[known] if values.dtype == bool else values[known].astype(np.float64)
    if not np.isfinite(kept).all():
        raise ValueError(f"{int((~np.isfinite(kept)).sum())} of {len(kept)} values are NaN or infinite")
    return kept, states[known] == PRESENT
