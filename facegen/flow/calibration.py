"""The threshold at which half of the pictures have gone over to their identity by a given time.

A distance depends on the network, the number of steps and the map: its threshold is not a number that one could know, and
none is carried over from elsewhere. Runs in which nobody goes over tell all distances; which step a picture would have
gone over at follows from them for every threshold, and the smallest that reaches the target is found by bisection.
Shapes: S steps, B runs.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from facegen.flow.two_stage import Crossing

_ROUNDING = 1e-6  # times of switching are float32


def first_identity_time(
    distances: Tensor, times: Tensor, *, threshold: float, early: float, late: float, patience: int
) -> Tensor:
    """Return the time (B,) of the first step with the identity, as `two_stage` has it: its `switch`; 0 is never.

    Args:
        distances: (S, B) float32, of runs in which nobody goes over; NaN where there is none.
        times: (S + 1,), the schedule.
        threshold, early, late, patience: as in `TwoStage`.

    Raises:
        ValueError: if the shapes disagree.
    """
    if distances.ndim != 2 or tuple(times.shape) != (len(distances) + 1,):
        raise ValueError(f"distances have shape {tuple(distances.shape)} and times {tuple(times.shape)}; expected "
                         "(steps, runs) and (steps + 1,)")  # fmt: skip
    crossing = Crossing(distances.shape[1], device=distances.device)
    for (t, _), distance in zip(itertools.pairwise(times.tolist()), distances, strict=True):
        crossing.begin(t, late=late)
        crossing.look(t, distance, threshold=threshold, early=early, patience=patience)
    return crossing.switch


def median_time(switch: Tensor) -> float:
    """Return the median of times of switching (B,): of an even number, the mean of the two in the middle."""
    return float(switch.double().quantile(0.5))


def threshold_for(
    distances: Tensor, times: Tensor, *, target: float, early: float, late: float, patience: int
) -> float:
    """Return the smallest threshold at which the median picture goes over at `target` or earlier (at greater t).

    Args:
        distances, times, early, late, patience: as in `first_identity_time`.
        target: a time.

    Raises:
        ValueError: if no threshold reaches the target, or every one does.
    """

    def median(threshold: float) -> float:
        return median_time(first_identity_time(
            distances, times, threshold=threshold, early=early, late=late, patience=patience
        ))  # fmt: skip

    first, last = median(math.inf), median(-math.inf)
    if not last + _ROUNDING < target <= first + _ROUNDING:
        raise ValueError(
            f"target is {target}; with early {early}, late {late} and patience {patience} on these {len(distances)} "
            f"steps, the median time of switching can only be brought above {last:.4g} and up to {first:.4g}"
        )
    seen = distances[distances.isfinite()].unique()  # rising; a distance is below a threshold just above it
    candidates = torch.nextafter(seen, torch.full_like(seen, math.inf)).tolist()
    low, high = -1, len(candidates) - 1  # low misses the target, high reaches it
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if median(candidates[middle]) >= target - _ROUNDING else (middle, high)
    return float(candidates[high])
