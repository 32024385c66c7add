"""Charts of pictures of given people: identity against the prompt, both over alpha, what the identity encoder tells,
and the LatentDiT's people over the identity scale and side by side.

Each takes tables as `facegen.charts.read_csv` returns them. A method keeps its colour and marker in every chart; what
is real is drawn in the colour of the text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facegen.charts import INK, LINE, MUTED, SERIES, error_lengths, legend_above, new_axes

ONE_PERSON = {"class_word": "class word", "single_plain": "single, plain loss", "single": "single"}
TWO_PEOPLE = {
    "class_word_two": "class word",
    "naive": "naive",
    "mf2d_unlocalized": "mf2d, not localised",
    "mf2d": "mf2d",
}
"""Methods in the order of every table and chart, and what they are called there."""
SCENES = "scenes"  # photographs' yardstick of two people
LABELS = ONE_PERSON | TWO_PEOPLE | {
    "class_word": "class word (1)", "class_word_two": "class word (2)", SCENES: "real scenes",
}  # fmt: skip
"""Of the chart of both; circles and squares tell one person from two."""
ONE, TWO = "o", "s"  # markers of one person and of two
METHOD_LOOK = {
    "class_word": (MUTED, ONE), "single_plain": (SERIES[3], ONE), "single": (SERIES[0], ONE),
    "class_word_two": (MUTED, TWO), "naive": (SERIES[1], TWO), "mf2d_unlocalized": (SERIES[4], TWO),
    "mf2d": (SERIES[2], TWO), SCENES: (INK, "*"),
}  # fmt: skip
CURVES = {"min_identity": "minimum identity", "prompt": "prompt", "harmonic": "harmonic mean"}
TARGETS = {"yaw": "yaw", "pitch": "pitch", "smiling": "smiling"}
ENCODERS = {"msid": "all depths", "plain": "last depth alone"}
DIT_NAMES = {
    "none": "no identity",
    "recognizer": "recogniser",
    "dit_mapped": "adapter",
    "dit_mapped_plain": "adapter, plain loss",
}
DIT_LOOK = {
    "none": (MUTED, "X"), "recognizer": (SERIES[1], "s"), "dit_mapped": (SERIES[0], "o"),
    "dit_mapped_plain": (SERIES[3], "D"),
}  # fmt: skip
DIT_CURVES = {"identity": "-", "attributes": ":"}
PERSONS = {"first": "-", "second": ":"}
WIDTH_IN = 5.6
MARGIN = 0.12  # of a range, free around what is drawn


def trade_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return the least identity over the prompt: a point with its intervals a method, and real scenes.

    Args:
        table: columns method (of METHOD_LOOK), prompt, prompt_low, prompt_high, value, low, high.
    """
    figure, axes = new_axes(height_in=4.4, width_in=WIDTH_IN)
    for method, (colour, marker) in METHOD_LOOK.items():
        rows = table["method"] == method
        if not rows.any():
            continue
        x, y = table["prompt"][rows], table["value"][rows]
        axes.errorbar(
            x, y, xerr=error_lengths(x, table["prompt_low"][rows], table["prompt_high"][rows]),
            yerr=error_lengths(y, table["low"][rows], table["high"][rows]), marker=marker, color=colour,
            markersize=11 if marker == "*" else 7, elinewidth=1.1, linestyle="none", label=LABELS[method],
        )  # fmt: skip
    axes.margins(MARGIN)
    axes.set_xlabel("prompt: share of what is asked for that is seen")
    axes.set_ylabel("identity: least cosine to a reference")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def alpha_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return what pictures of two people are worth over the share of the steps in which the people are told.

    Args:
        table: columns alpha, figure (of CURVES), value, low, high.
    """
    figure, axes = new_axes(height_in=3.4, width_in=WIDTH_IN)
    looks = zip((SERIES[2], SERIES[0], INK), ("s", "o", "D"), strict=True)
    for (name, label), (colour, marker) in zip(CURVES.items(), looks, strict=True):
        _line(axes, table, table["figure"] == name, "alpha", colour=colour, marker=marker, label=label)
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("alpha: share of the steps, the last ones, with the people  (0: class word)")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def probe_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return what linear probes read out of each feature; the encoder of the last depth alone is open and dotted.

    Args:
        table: columns encoder (of ENCODERS), feature, target (of TARGETS), value, low, high: 0 nothing, 1 everything.
    """
    figure, axes = new_axes(height_in=3.4, width_in=WIDTH_IN)
    features = list(dict.fromkeys(table["feature"].tolist()))
    places = {feature: place for place, feature in enumerate(features)}
    placed = dict(table) | {"place": np.array([float(places[feature]) for feature in table["feature"].tolist()])}
    for number, (encoder, encoder_name) in enumerate(ENCODERS.items()):
        for (target, name), colour, marker in zip(TARGETS.items(), SERIES, (ONE, TWO, "^"), strict=False):
            rows = (table["encoder"] == encoder) & (table["target"] == target)
            _line(
                axes, placed, rows, "place", colour=colour, marker=marker, label=f"{name}, {encoder_name}",
                style=":" if number else "-", shift=0.08 * number,
            )  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_xticks(range(len(features)), features, color=INK)
    axes.set_ylabel("told: R², or 2 AUC − 1")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def dit_scale_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return identity (lines) and attributes (dotted) of the LatentDiT's people over the identity scale.

    Args:
        table: columns method (of DIT_LOOK), scale, figure (of DIT_CURVES), value, low, high.
    """
    figure, axes = new_axes(height_in=3.8, width_in=WIDTH_IN)
    for number, (method, (colour, marker)) in enumerate(DIT_LOOK.items()):
        for name, style in DIT_CURVES.items():
            rows = (table["method"] == method) & (table["figure"] == name)
            label = DIT_NAMES[method] if name == "identity" else None
            shift = 0.03 * (number - 2) if number else 0.0
            _line(axes, table, rows, "scale", colour=colour, marker=marker, label=label, style=style, shift=shift)
    axes.set_xlabel("scale of the guidance towards the identity  (0: none)")
    axes.set_ylabel("cosine, share of requests")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def dit_pair_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return the cosine of a picture with the first (lines) and the second (dotted) of two people over the mask.

    Args:
        table: columns method (of DIT_LOOK), share, person (of PERSONS), value, low, high.
    """
    figure, axes = new_axes(height_in=3.8, width_in=WIDTH_IN)
    for method, (colour, marker) in DIT_LOOK.items():
        for person, style in PERSONS.items():
            rows = (table["method"] == method) & (table["person"] == person)
            label = DIT_NAMES[method] if person == "first" else None
            _line(axes, table, rows, "share", colour=colour, marker=marker, label=label, style=style)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_xlabel("share of the picture's width that the first person has")
    axes.set_ylabel("cosine to the person's photograph")
    axes.grid(color=LINE, linewidth=0.6)
    legend_above(figure, axes)
    return figure


def _line(
    axes: Axes, table: Mapping[str, np.ndarray], rows: np.ndarray, x: str, *, colour: str, marker: str, label: str | None,
    style: str = "-", shift: float = 0.0,
) -> None:  # fmt: skip
    """Draw rows as a line of points with their intervals, in the order of x; dotted ones have open points."""
    chosen = np.flatnonzero(rows)
    if not len(chosen):
        return
    chosen = chosen[np.argsort(table[x][chosen], kind="stable")]
    y = table["value"][chosen]
    axes.errorbar(
        table[x][chosen] + shift, y, yerr=error_lengths(y, table["low"][chosen], table["high"][chosen]), color=colour,
        marker=marker, markersize=5.5, markerfacecolor="none" if style == ":" else colour, linestyle=style,
        linewidth=1.6, elinewidth=1.0, capsize=2, label=label,
    )  # fmt: skip
