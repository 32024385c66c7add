"""Charts of the edits: success by attribute and by the size of the mask, and what it costs in identity and the rest.

Each takes tables as `facegen.charts.read_csv` returns them, and all methods in order: a method keeps its colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facegen.charts import INK, LINE, MUTED, SERIES, STYLE, error_lengths, legend_above, new_axes

COLOURS = (*SERIES, MUTED, "#b03a6e")  # of the methods, in order
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FAR_BELOW = 0.3  # of a cosine: a floor further below the lowest method than this would press the methods together
NOTE: dict[str, Any] = {
    "xytext": (-4, 3), "textcoords": "offset points", "ha": "right", "color": MUTED, "fontsize": 8.5,
}  # fmt: skip
SPREAD = 0.66  # of a row or column, over which the methods' points are spread
REFERENCES = {
    "round_trip_cosine": "ceiling: own round trip",
    "same_person_cosine": "floor: another picture of the person",
    "other_people_cosine": "floor: other people",
}  # of identity, from top to bottom


def success_chart(table: Mapping[str, np.ndarray], methods: Sequence[str]) -> Figure:
    """Return success by attribute, one row each, a point with its interval a method; the judge's accuracy as a bar.

    Args:
        table: columns method, attribute, value, low, high, judge_accuracy.
    """
    attributes = _distinct(table["attribute"])[::-1]
    figure, axes = new_axes(height_in=1.1 + 0.52 * len(attributes), width_in=7.2)
    offsets = _offsets(len(methods))
    for number, method in enumerate(methods):
        rows = table["method"] == method
        places = [attributes.index(name) - offsets[number] for name in table["attribute"][rows].tolist()]
        errors = _errors(table, rows)
        axes.errorbar(
            table["value"][rows], places, xerr=errors, linestyle="none", marker=MARKERS[number % len(MARKERS)],
            markersize=5, color=COLOURS[number % len(COLOURS)], elinewidth=1.1, label=method,
        )  # fmt: skip
    known = np.isfinite(table["judge_accuracy"])
    judged = {
        name: float(np.mean(table["judge_accuracy"][known & (table["attribute"] == name)]))
        for name in dict.fromkeys(table["attribute"][known].tolist())
    }
    for number, (name, value) in enumerate(judged.items()):
        place = attributes.index(name)
        label = "judge b on the photographs" if number == 0 else None
        axes.plot([value, value], [place - 0.4, place + 0.4], color=INK, linewidth=1.2, label=label)
    axes.set_yticks(range(len(attributes)), [name.replace("_", " ") for name in attributes], color=INK)
    axes.set_ylim(-0.6, len(attributes) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of edits in which judge b sees what was asked")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    _legend(axes)
    return figure


def area_chart(table: Mapping[str, np.ndarray], methods: Sequence[str]) -> Figure:
    """Return success over the size of the mask, a line a method, from columns method, share, value, low, high."""
    shares = np.unique(table["share"]).tolist()
    figure, axes = new_axes(height_in=3.9, width_in=5.4)
    offsets = _offsets(len(methods)) * 0.6
    for number, method in enumerate(methods):
        rows = table["method"] == method
        if not rows.any():  # the sweep is by some of them
            continue
        places = [shares.index(share) + offsets[number] for share in table["share"][rows].tolist()]
        axes.errorbar(
            places, table["value"][rows], yerr=_errors(table, rows), marker=MARKERS[number % len(MARKERS)],
            markersize=5, color=COLOURS[number % len(COLOURS)], elinewidth=1.1, linewidth=1.4, label=method,
        )  # fmt: skip
    axes.set_xticks(range(len(shares)), [f"{100 * share:.3g} %" for share in shares])
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("mask, share of the picture")
    axes.set_ylabel("success")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def trade_chart(table: Mapping[str, np.ndarray], methods: Sequence[str], *, references: Mapping[str, float]) -> Figure:
    """Return identity over the change of everything that was not asked for, a point with its intervals a method.

    Args:
        table: columns method, other_change, other_low, other_high, value, low, high.
        references: cosines by a key of REFERENCES, drawn as lines; one far below all methods is written at the lower
            end instead, and those that are not known are left out.
    """
    figure, axes = new_axes(height_in=3.9, width_in=5.4)
    for row, method in enumerate(table["method"].tolist()):
        number, one = methods.index(method), slice(row, row + 1)
        across, along = (
            error_lengths(*(table[name][one] for name in names))
            for names in (("other_change", "other_low", "other_high"), ("value", "low", "high"))
        )
        axes.errorbar(
            table["other_change"][one], table["value"][one], xerr=across, yerr=along,
            marker=MARKERS[number % len(MARKERS)], markersize=7,
            color=COLOURS[number % len(COLOURS)], elinewidth=1.1, linestyle="none", label=method,
        )  # fmt: skip
    axes.margins(y=0.2)
    lowest = float(np.min(table["value"]))
    for key, label in REFERENCES.items():
        if key not in references:
            continue
        place = references[key]
        if place < lowest - FAR_BELOW:
            axes.annotate(f"{label}, {place:.2f} (below)", (1, 0), xycoords="axes fraction", **NOTE)
        else:
            axes.axhline(place, color=MUTED, linewidth=1, linestyle="--")
            axes.annotate(label, (1, place), xycoords=("axes fraction", "data"), **NOTE)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean change of the probability of what was not asked for")
    axes.set_ylabel("identity cosine")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def _distinct(names: np.ndarray) -> list[str]:
    return list(dict.fromkeys(names.tolist()))


def _offsets(num: int) -> np.ndarray:
    return (np.arange(num) - (num - 1) / 2) * SPREAD / max(num, 1)


def _errors(table: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:  # (2, N)
    return error_lengths(*(table[name][rows] for name in ("value", "low", "high")))


def _legend(axes: Axes) -> None:
    with mpl.rc_context(STYLE):
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
