"""What the methods of editing are worth, from measured edits: `edit` in eval/metrics.json.

Means of each method first, tables by direction, attribute, region and size of the mask below them. Attributes differ in
the size of their parts; what the size alone does is in `sweep`: the same requests with the parts shrunk and grown. Then
the default method again by that name, and how it fares on small masks. Shapes: N edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from facegen.measured_edits import FIGURES, MeasuredEdits
from facegen.metrics.intervals import wilson_interval
from facegen.scoring import grouped_bootstrap, mean_figure

SMALL = 0.05  # share of the picture below which a mask is small
AREAS = {"below_5_percent": 0.05, "5_to_10_percent": 0.10, "10_to_25_percent": 0.25, "above_25_percent": np.inf}
DIRECTIONS = {1: "add", 0: "remove"}
SHARES = ("success", "judge_accuracy", "outside_identical", "same_person")  # of 0 and 1: Wilson's interval
TABLE_FIGURES = ("success", "judge_accuracy", "other_change", "identity_cosine", "perceptual", "seam")
REGION_FIGURES = ("success", "seam")  # the rest stands by attribute, which has its region
BASELINE = "blend"  # what the default method is compared with on small masks


def edit_figures(
    found: MeasuredEdits, swept: MeasuredEdits, *, default: str, generator: np.random.Generator
) -> dict[str, Any]:
    """Return the figures of every method, of the default one, of the sweep, and of small masks.

    Args:
        found: the edits of whole parts; not empty.
        swept: the same requests by some of the methods with the parts at fixed shares of the picture; may be empty.
        default: the method that edits use unless told otherwise; its rows carry its own name.
        generator: draws the resamples of the paired difference.
    """
    methods = list(dict.fromkeys(found.method.tolist()))
    figures: dict[str, Any] = {name: method_figures(found, found.method == name) for name in methods}
    if default in methods:
        figures["default"] = table(found, found.method == default, FIGURES) | {"method": default}
    return figures | {
        "sweep": {name: sweep_figures(swept, swept.method == name) for name in dict.fromkeys(swept.method.tolist())},
        "small": small_masks([found, swept], default=default, generator=generator),
    }


def sweep_figures(swept: MeasuredEdits, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the figures of some edits, (N,) bool, at each share of the picture, from small to large."""
    shares = np.round(swept.area.astype(np.float64), 3)
    return [
        {"share": share, **table(swept, rows & (shares == share), TABLE_FIGURES)}
        for share in np.unique(shares[rows]).tolist()
    ]


def method_figures(found: MeasuredEdits, rows: np.ndarray) -> dict[str, Any]:
    """Return the means over some edits, (N,) bool, and the tables below them."""

    def by(column: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        return ((str(name), rows & (column == name)) for name in dict.fromkeys(column[rows].tolist()))

    attributes = {
        name: table(found, chosen, TABLE_FIGURES)
        | {word: figure(found, chosen & (found.state == state), "success") for state, word in DIRECTIONS.items()}
        for name, chosen in by(found.attribute)
    }
    areas = area_names(found.area)
    masked = found.region != ""
    return table(found, rows, FIGURES) | {
        "directions": {
            word: table(found, rows & (found.state == state), TABLE_FIGURES) for state, word in DIRECTIONS.items()
        },
        "attributes": attributes,
        "regions": {name: table(found, chosen, REGION_FIGURES) for name, chosen in by(found.region) if name},
        "areas": {
            name: table(found, chosen, TABLE_FIGURES)
            for name in AREAS
            if (chosen := rows & masked & (areas == name)).any()
        },
    }


def table(found: MeasuredEdits, rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return {name: figure} over some edits, (N,) bool."""
    return {name: figure(found, rows, name) for name in names}


def figure(found: MeasuredEdits, rows: np.ndarray, name: str) -> dict[str, Any] | float | None:
    """Return one figure over the edits that it has a meaning for; None where there is none.

    Shares have Wilson's interval, means one that counts people; the number of evaluations has none.
    """
    rows = rows & ~np.isnan(found.values[name])
    values = found.values[name][rows]
    if not len(values):
        return None
    if name in SHARES:
        return wilson_interval(int(values.sum()), len(values)).to_json()
    return float(values.mean()) if name == "evaluations" else mean_figure(values, found.people[rows])


def area_names(area: np.ndarray) -> np.ndarray:
    """Return the name in AREAS of each mask's share of the picture, (N,): the share that it gives is the upper end."""
    return np.array(list(AREAS))[np.searchsorted(list(AREAS.values())[:-1], area, side="right")]


def small_masks(parts: Sequence[MeasuredEdits], *, default: str, generator: np.random.Generator) -> dict[str, Any]:
    """Return the success of the default method and of blending on the same small masks, and their paired difference.

    Both methods count over the requests that both answered, whole parts and swept ones, with masks below 5 % of the
    picture, where a change was asked for. The interval of the difference is a bootstrap over photographs.
    """
    pairs: list[tuple[int, float, float]] = []  # photograph, success of the default method, of the baseline
    for found in parts:
        keys = list(zip(found.photo, found.attribute, found.state, found.region, strict=True))
        success = found.values["success"]
        small = (found.area < SMALL) & (found.region != "") & ~np.isnan(success)
        ours, other = (
            {keys[i]: float(success[i]) for i in np.flatnonzero(small & (found.method == name)).tolist()}
            for name in (default, BASELINE)
        )
        pairs += [(int(key[0]), value, other[key]) for key, value in ours.items() if key in other]
    if not pairs:
        return {"default": None, BASELINE: None, "difference": None}
    photos, firsts, seconds = np.array(pairs).T
    return {
        "default": wilson_interval(int(firsts.sum()), len(pairs)).to_json(),
        BASELINE: wilson_interval(int(seconds.sum()), len(pairs)).to_json(),
        "difference": grouped_bootstrap(firsts - seconds, photos, generator=generator),
    }
