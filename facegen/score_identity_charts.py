"""Charts of synthetic people: consistency over diversity, times of taking on an identity, leakage, verification.

Each takes tables as `facegen.charts.read_csv` returns them. A method keeps its colour and marker in every chart; what
is real is drawn in the colour of the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facegen.charts import INK, LINE, MUTED, SERIES, error_lengths, legend_above, new_axes

METHOD_NAMES = {
    "one_stage": "one stage",
    "fixed": "fixed switch",
    "fixed_injection": "fixed + injection",
    "adaptive": "adaptive switch",
    "adaptive_injection": "adaptive + injection",
}
"""Methods in the order of every table and chart, and what they are called there."""
MARKERS = ("o", "s", "^", "D", "v")  # of the methods, in order
REAL, DATASET = "real", "dataset"  # what stands beside them
SETTINGS = {"one_stage": "s", "fixed": "t"}  # what a sweep of a method varies: guidance scale, time of the switch
TRAINED = {"synthetic": "on synthetic people", "real": "on real people", "untrained": "untrained"}
TRAINED_LOOK = {"synthetic": (SERIES[0], "o"), "real": (INK, "s"), "untrained": (MUTED, "X")}
CHANCE = 0.5
PEOPLE_LOOK = {
    "synthetic people": (SERIES[0], "o"),
    "real strangers": (INK, "s"),
    "training people again": (MUTED, "X"),
}
MARGIN = 0.12  # of a range, free around what is drawn
MIN_BAR = 0.004  # width of a bar of the histogram, at least


def trade_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return consistency over diversity: a point with its intervals a method, real people, and sweeps as small points.

    Args:
        table: columns method, setting (empty, but for points of a sweep), diversity, diversity_low, diversity_high,
            value, low, high.
    """
    figure, axes = new_axes(height_in=4.4, width_in=5.6)
    methods, swept = table["method"], np.isfinite(table["setting"])
    for number, (method, name) in enumerate(METHOD_NAMES.items()):
        colour, marker = SERIES[number], MARKERS[number]
        rows = (methods == method) & swept
        _points(axes, table, rows, colour=colour, marker=marker, label=None)
        for row in np.flatnonzero(rows).tolist():
            axes.annotate(
                f"{SETTINGS.get(method, '')} = {table['setting'][row]:g}".removeprefix(" = "),
                (table["diversity"][row], table["value"][row]), xytext=(6, 4), textcoords="offset points",
                color=MUTED, fontsize=8,
            )  # fmt: skip
        _points(axes, table, (methods == method) & ~swept, colour=colour, marker=marker, label=name)
    _points(axes, table, methods == REAL, colour=INK, marker="*", label="real people")
    axes.margins(MARGIN)
    axes.set_xlabel("diversity: perceptual distance of two pictures of one person")
    axes.set_ylabel("consistency: cosine to the person's centre")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def switch_chart(table: Mapping[str, np.ndarray], *, marks: Mapping[str, float]) -> Figure:
    """Return the share of pictures that take on their identity at each time; noise is on the left, as in sampling.

    Args:
        table: columns time, share.
        marks: times by what they are (early, late, target, median), drawn as lines.
    """
    figure, axes = new_axes(height_in=3.0, width_in=5.6)
    times, shares = table["time"], table["share"]
    gaps = np.diff(np.unique(times))
    width = max(float(gaps.min()) * 0.8 if len(gaps) else 0.02, MIN_BAR)
    axes.bar(times, 100 * shares, width=width, color=SERIES[0])
    ends = [*times.tolist(), *marks.values()]
    axes.set_xlim(max(ends) + 2 * width, min(ends) - 2 * width)
    axes.set_ylim(0, 100 * float(np.max(shares)) * 1.3)
    height = 1.0
    for name, time in sorted(marks.items(), key=lambda mark: -mark[1]):
        axes.axvline(time, color=MUTED, linewidth=1, linestyle="--")
        height = 0.99 if height < 0.95 else 0.91  # neighbours may stand close together
        axes.annotate(
            f"{name} {time:.3g}", (time, height), xycoords=("data", "axes fraction"), xytext=(3, 0),
            textcoords="offset points", va="top", color=MUTED, fontsize=8.5,
        )  # fmt: skip
    axes.set_xlabel("time t of the first step with the identity  (1: noise, 0: data)")
    axes.set_ylabel("share of pictures, %")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return figure


def leakage_chart(table: Mapping[str, np.ndarray], *, threshold: float) -> Figure:
    """Return how near people come to the nearest person of the training set: share of people below each cosine.

    Args:
        table: columns people (a name of PEOPLE_LOOK), quantile, cosine.
        threshold: the cosine that no synthetic person should pass.
    """
    figure, axes = new_axes(height_in=3.0, width_in=5.6)
    for name, (colour, marker) in PEOPLE_LOOK.items():
        rows = np.flatnonzero(table["people"] == name)
        if not len(rows):
            continue
        rows = rows[np.argsort(table["quantile"][rows])]
        axes.plot(
            table["cosine"][rows], 100 * table["quantile"][rows], color=colour, marker=marker, markersize=4.5,
            linewidth=1.6, label=name,
        )  # fmt: skip
    axes.axvline(threshold, color=SERIES[1], linewidth=1.2, linestyle="--", label=f"threshold {threshold:.3f}")
    axes.set_ylim(0, 104)
    axes.margins(x=0.06)
    axes.set_xlabel("cosine to the nearest person of the training set")
    axes.set_ylabel("share of people below, %")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def verification_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return verification accuracy, a row a set of pairs and a point with its interval a recogniser, beside chance.

    Args:
        table: columns pairs, recognizer (a key of TRAINED), value, low, high.
    """
    sets = list(dict.fromkeys(table["pairs"].tolist()))[::-1]
    figure, axes = new_axes(height_in=1.25 + 0.62 * len(sets), width_in=5.6)
    for number, (name, (colour, marker)) in enumerate(TRAINED_LOOK.items()):
        rows = table["recognizer"] == name
        if not rows.any():
            continue
        places = [sets.index(pairs) - 0.22 * (number - 1) for pairs in table["pairs"][rows].tolist()]
        values = table["value"][rows]
        axes.errorbar(
            100 * values, places, xerr=100 * error_lengths(values, table["low"][rows], table["high"][rows]), linestyle="none",
            marker=marker, markersize=6, color=colour, elinewidth=1.2, capsize=2.5, label=TRAINED[name],
        )  # fmt: skip
        for value, place, high in zip(values, places, table["high"][rows], strict=True):
            right = np.nanmax([value, high])
            axes.annotate(
                f"{100 * value:.1f}", (100 * right, place), xytext=(6, 0), textcoords="offset points", va="center",
                color=colour, fontsize=8.5,
            )  # fmt: skip
    axes.axvline(100 * CHANCE, color=MUTED, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(sets)), sets, color=INK)
    axes.set_ylim(-0.6, len(sets) - 0.4)
    axes.set_xlim(100 * min(CHANCE, float(np.min(table["value"]))) - 2, 104)
    axes.set_xlabel("verification accuracy, %  (dashed: chance)")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def _points(
    axes: Axes, table: Mapping[str, np.ndarray], rows: np.ndarray, *, colour: str, marker: str, label: str | None
) -> None:
    """Draw rows as points with their intervals in both directions; small and open without a label."""
    if not rows.any():
        return
    x, y = table["diversity"][rows], table["value"][rows]
    size = 5.0 if label is None else 11.0 if marker == "*" else 7.0
    axes.errorbar(
        x, y, xerr=error_lengths(x, table["diversity_low"][rows], table["diversity_high"][rows]),
        yerr=error_lengths(y, table["low"][rows], table["high"][rows]), marker=marker, markersize=size, color=colour,
        markerfacecolor=colour if label else "none", elinewidth=1.1 if label else 0.5, linestyle="none", label=label,
    )  # fmt: skip
