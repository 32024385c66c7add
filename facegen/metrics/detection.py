"""How well faces are found: recall, precision, and how far off the landmarks are.

Shapes: F faces found in a picture, T true ones, M pairs over all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from facegen.metrics.intervals import mean_interval

MIN_OVERLAP = 0.5  # intersection over union from which a face found is the true one


def overlaps(found: np.ndarray, true: np.ndarray) -> np.ndarray:  # (F, 4), (T, 4) -> (F, T)
    """Return intersection over union of boxes x0 y0 x1 y1."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (found, true)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def pairs(found: np.ndarray, true: np.ndarray) -> list[tuple[int, int]]:
    """Return (found, true) faces of one picture that belong together.

    In the order of `found` each takes the true face, not yet taken, that it overlaps most, if by MIN_OVERLAP or more.

    Args:
        found: (F, 4) boxes, the surest first.
        true: (T, 4) boxes.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, section 4.2.
    """
    shared, made = overlaps(found, true), []
    for row in range(len(found)):
        if shared.shape[1] and shared[row].max() >= MIN_OVERLAP:
            column = int(shared[row].argmax())
            made.append((row, column))
            shared[:, column] = -1.0
    return made


def point_error(found: np.ndarray, true: np.ndarray) -> float:
    """Return the mean distance of the five points (5, 2) from the true ones, as a share of the true eyes' distance."""
    apart = float(np.linalg.norm(true[1] - true[0]))
    return float(np.linalg.norm(found - true, axis=1).mean()) / max(apart, 1e-6)


def detection_figures(
    matched: Sequence[Sequence[tuple[int, int]]],
    num_found: Sequence[int],
    num_true: Sequence[int],
    errors: Sequence[float],
) -> dict[str, Any]:
    """Return {recall, precision, landmark_error, pictures}; a figure that nothing speaks to is None.

    The intervals take a picture's faces for what belongs together.

    Args:
        matched: the pairs of each picture.
        num_found, num_true: faces of each picture.
        errors: `point_error` of each pair, picture by picture.
    """
    hit = [len(own) for own in matched]
    return {
        "recall": _share(hit, num_true),
        "precision": _share(hit, num_found),
        "landmark_error": _figure(np.asarray(errors), np.repeat(np.arange(len(hit)), hit)),
        "pictures": len(hit),
    }


def _share(hit: Sequence[int], counts: Sequence[int]) -> dict[str, Any] | None:
    """Return the share of `counts` that are hits, over all pictures."""
    values = [np.arange(count) < own for own, count in zip(hit, counts, strict=True)]
    return _figure(np.concatenate([np.empty(0), *values]), np.repeat(np.arange(len(hit)), counts))


def _figure(values: np.ndarray, groups: np.ndarray) -> dict[str, Any] | None:
    if len(np.unique(groups)) < 2:
        return None
    return mean_interval(values.astype(np.float64), groups=groups).to_json()
