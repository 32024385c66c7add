"""Charts of the evaluation: curves of a figure, matrices of interventions, and how good the judges are.

Each takes tables as `facegen.charts.read_csv` returns them. Shapes: A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from facegen.charts import INK, LINE, MUTED, SERIES, STYLE

DIVERGING = LinearSegmentedColormap.from_list("interventions", [SERIES[1], "#ffffff", SERIES[0]])
SHOWN_FROM = 0.095  # entries of a matrix below this are not written into their cell


def point_chart(
    table: Mapping[str, np.ndarray], *, x: str, xlabel: str, ylabel: str, floor: float | None, logarithmic: bool
) -> Figure:
    """Return one curve of `value` with its interval from `low` to `high` over column x; floor is a dashed line."""
    figure, (axes,) = _panels(1, height_in=3.0)
    order = np.argsort(table[x])
    places, values = table[x][order], table["value"][order]
    errors = np.clip([values - table["low"][order], table["high"][order] - values], 0, None)
    axes.errorbar(places, values, yerr=errors, color=SERIES[0], marker="o", markersize=5, linewidth=1.6, capsize=3)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3g}", (place, value), xytext=(7, 7), textcoords="offset points", color=INK, fontsize=8.5
        )
    if floor is not None:
        axes.axhline(floor, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate("floor", (1, floor), xycoords=("axes fraction", "data"), xytext=(-4, 3),
                      textcoords="offset points", ha="right", color=MUTED, fontsize=8.5)  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    return figure


def guidance_chart(table: Mapping[str, np.ndarray], *, baselines: Mapping[str, float]) -> Figure:
    """Return accuracy, leakage and identity over guidance, and accuracy against identity, one panel each.

    Args:
        table: columns guidance, accuracy, leakage, identity_cosine (which may be empty).
        baselines: the same figures of the conditional GAN, drawn as dashed lines and as one point.
    """
    order = np.argsort(table["guidance"])
    scale = table["guidance"][order]
    present = [key for key in ("accuracy", "leakage", "identity_cosine") if np.isfinite(table[key]).any()]
    trade = "identity_cosine" in present
    figure, panels = _panels(len(present) + trade, height_in=2.6)
    for axes, key, colour in zip(panels, present, SERIES, strict=False):
        axes.plot(scale, table[key][order], color=colour, marker="o", markersize=4.5, linewidth=1.6)
        if key in baselines:
            axes.axhline(baselines[key], color=MUTED, linewidth=1, linestyle="--")
            axes.annotate("conditional GAN", (0.02, baselines[key]), xycoords=("axes fraction", "data"),
                          xytext=(0, 3), textcoords="offset points", color=MUTED, fontsize=8)  # fmt: skip
        axes.set_xlabel("guidance scale")
        axes.set_title(key.replace("_", " "), fontsize=9.5)
        axes.margins(y=0.15)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
    if trade:
        axes = panels[-1]
        axes.plot(
            table["identity_cosine"][order], table["accuracy"][order], color=SERIES[3], marker="o", markersize=4.5
        )
        for w, x, y in zip(scale, table["identity_cosine"][order], table["accuracy"][order], strict=True):
            axes.annotate(f"{w:g}", (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, color=INK)
        if {"identity_cosine", "accuracy"} <= set(baselines):
            point = (baselines["identity_cosine"], baselines["accuracy"])
            axes.plot(*point, color=MUTED, marker="s", markersize=5, linestyle="none")
            axes.annotate("GAN", point, xytext=(5, 4), textcoords="offset points", fontsize=8, color=MUTED)
        axes.set_xlabel("identity cosine")
        axes.set_title("accuracy against identity", fontsize=9.5)
        axes.margins(0.15)
        axes.grid(color=LINE, linewidth=0.6)
    return figure


def gan_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the conditional GAN's accuracy, leakage and identity, as far as they were measured."""
    gan = figures["control"]["gan"]
    values = {key: gan[key] for key in ("accuracy", "leakage", "identity_cosine") if key in gan}
    return {key: value["value"] if isinstance(value, Mapping) else value for key, value in values.items()}


def matrix_chart(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Return matrices (A, A) of differences in [-1, 1] side by side, rows flipped, columns measured."""
    size = max(2.6, 0.3 * len(names) + 0.9)
    figure, panels = _panels(len(matrices), height_in=size + 0.5, width_in=size * len(matrices) + 1.2)
    labels = [name.replace("_", " ") for name in names]
    images = []
    for number, (axes, (title, matrix)) in enumerate(zip(panels, matrices.items(), strict=True)):
        images.append(axes.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1))
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value) and abs(value) >= SHOWN_FROM:
                axes.text(column, row, f"{value:.1f}".replace("0.", "."), ha="center", va="center", fontsize=6.5,
                          color="white" if abs(value) > 0.6 else INK)  # fmt: skip
        axes.set_title(title, fontsize=9.5)
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7.5)
        axes.set_yticks(range(len(names)), labels if number == 0 else [""] * len(names), fontsize=7.5)
        for side in axes.spines.values():
            side.set_visible(False)
    panels[0].set_ylabel("flipped")
    figure.colorbar(images[0], ax=list(panels), shrink=0.6, aspect=25, label="change of the judge's probability")
    return figure


def roc_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return the ROC curves of columns attribute, false_positive_rate, true_positive_rate."""
    figure, (axes,) = _panels(1, height_in=4.2, width_in=6.4)
    for colour, name in _coloured(table["attribute"]):
        rows = table["attribute"] == name
        axes.plot(table["false_positive_rate"][rows], table["true_positive_rate"][rows], color=colour, linewidth=1.3,
                  label=str(name).replace("_", " "))  # fmt: skip
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle="--")
    axes.set_xlim(-0.01, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    _legend_beside(axes)
    return figure


def reliability_chart(table: Mapping[str, np.ndarray]) -> Figure:
    """Return the share that is present over the probability said, from columns attribute, confidence, frequency, count.

    A point's area is the number of pictures behind it; on the diagonal the judge's probabilities mean what they say.
    """
    figure, (axes,) = _panels(1, height_in=4.2, width_in=6.4)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle="--")
    most = float(table["count"].max(initial=1))
    for colour, name in _coloured(table["attribute"]):
        rows = (table["attribute"] == name) & (table["count"] > 0)
        axes.scatter(table["confidence"][rows], table["frequency"][rows], s=6 + 150 * table["count"][rows] / most,
                     color=colour, alpha=0.7, linewidths=0, label=str(name).replace("_", " "))  # fmt: skip
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("probability that judge b says")
    axes.set_ylabel("share of pictures that have it")
    for handle in _legend_beside(axes).legend_handles:
        handle.set_sizes([22])  # type: ignore[union-attr]
    return figure


def _coloured(names: np.ndarray) -> list[tuple[object, str]]:
    """Return a colour for each different name, in order of appearance."""
    distinct = list(dict.fromkeys(names.tolist()))
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, max(len(distinct), 2)))
    return list(zip(colours, distinct, strict=False))


def _panels(num: int, *, height_in: float, width_in: float = 7.2) -> tuple[Figure, list[Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(width_in, 2.3 * num), height_in), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, list(np.atleast_1d(figure.subplots(1, num)))


def _legend_beside(axes: Axes) -> Legend:
    with mpl.rc_context(STYLE):
        return axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
