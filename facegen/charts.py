"""Curves and bars of the results: CSV for `dvc plots`, PNG to look at, SVG in the colours of the page around it.

Equal figures give equal bytes: no date, no random identifiers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from facegen.artifacts import atomic_write_bytes

INK, MUTED, LINE = "#1c1e21", "#6b7077", "#d5d8dd"
SERIES = ("#2a6fb0", "#c8641b", "#2f8f5b", "#8a5bb5", "#b0902a")
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line"} | {c: f"series-{i}" for i, c in enumerate(SERIES)}
CURVES = (
    "loss",
    "mse",
    "val_mse",
    "l1",
    "perceptual",
    "d_loss",
    "g_loss",
)  # of a training log, in the order in which they are drawn
SIZE_IN, DPI = (7.2, 3.0), 150
STYLE: dict[Any, Any] = {
    "font.size": 9.5, "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0, "legend.frameon": False,
    "svg.fonttype": "none", "path.simplify": True,
}  # fmt: skip


def write_csv(path: str | Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as CSV, atomically; floats in full, missing values (None, NaN) empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if value is None or value != value else value for value in row])
    atomic_write_bytes(path, text.getvalue().encode())


def read_csv(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV by name: float64 where every cell is a number or empty (NaN), texts otherwise.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it has no header.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not header:
        raise ValueError(f"{path} is empty; expected a header line")
    columns = {}
    for name, *cells in zip(header, *rows, strict=True):
        try:
            columns[name] = np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            columns[name] = np.array(cells)
    return columns


def drawn_curves(log: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of a training log that are drawn, in order; an MSE that is the whole loss is left out."""
    curves: dict[str, np.ndarray] = {name: log[name] for name in CURVES if name in log}
    if "mse" in curves and np.allclose(curves["mse"], curves["loss"], equal_nan=True):
        del curves["mse"]
    return curves


def loss_chart(images: np.ndarray, series: Mapping[str, np.ndarray], *, ylabel: str) -> Figure:
    """Return curves over images seen, on a logarithmic axis; values that are missing or not positive leave no point."""
    figure, axes = new_axes()
    for colour, (label, values) in zip(SERIES, series.items(), strict=False):
        shown = np.isfinite(values) & (values > 0)
        marker = "o" if shown.sum() * 4 < len(values) or shown.sum() == 1 else None
        axes.plot(
            images[shown] / 1000, values[shown], color=colour, label=label, linewidth=1.6, marker=marker, markersize=5
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    wide = mpl.ticker.LogLocator(subs=(1, 3))
    axes.yaxis.set_major_locator(wide if high > 10 * low else mpl.ticker.MaxNLocator(5, prune="lower"))
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(left=0)
    axes.set_xlabel("thousand images seen")
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    _legend(axes)
    return figure


def time_chart(series: Mapping[str, np.ndarray]) -> Figure:
    """Return the error in each of equal bins of t in [0, 1], one line of steps a series."""
    figure, axes = new_axes()
    for colour, (label, values) in zip(SERIES, series.items(), strict=False):
        axes.stairs(values, np.linspace(0, 1, len(values) + 1), color=colour, label=label, linewidth=1.8, baseline=None)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("t  (0: data, 1: noise)")
    axes.set_ylabel("mean squared velocity error")
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    _legend(axes)
    return figure


def interval_chart(
    labels: Sequence[str], values: np.ndarray, lows: np.ndarray, highs: np.ndarray, *, xlabel: str
) -> Figure:
    """Return one bar a label, first label on top, with its interval as a line."""
    figure, axes = new_axes(height_in=0.75 + 0.42 * len(labels))
    places = np.arange(len(labels))[::-1]
    colours = [SERIES[i % len(SERIES)] for i in range(len(labels))]
    axes.barh(places, values, height=0.55, color=colours)
    errors = np.clip([values - lows, highs - values], 0, None)
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for place, value, high in zip(places, values, highs, strict=True):
        axes.annotate(f"{value:.3g}", (high, place), xytext=(7, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(places, labels, color=INK)
    axes.set_xlim(0, float(np.max(highs)) * 1.12 or 1)
    axes.set_xlabel(xlabel)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def figure_svg(figure: Figure, *, name: str) -> str:
    """Return a figure as an `<svg>` element for a page: transparent, its colours CSS variables (--ink, --series-0...).

    Args:
        figure: one of this module's.
        name: unique in the page; also the accessible title.
    """
    buffer = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)  # the page's own
    referred = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def new_axes(*, height_in: float = SIZE_IN[1], width_in: float = SIZE_IN[0]) -> tuple[Figure, Axes]:
    """Return an empty chart in the common style."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots()


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put the legend above the chart, three names a row at most."""
    handles, labels = axes.get_legend_handles_labels()
    with mpl.rc_context(STYLE):
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 3), fontsize=9)


def error_lengths(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:  # (2, N)
    """Return lengths of error bars from the ends of intervals; none where one is not known."""
    return np.clip(np.nan_to_num(np.array([values - low, high - values], dtype=np.float64)), 0, None)


def _legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 1:
        with mpl.rc_context(STYLE):
            axes.legend()
