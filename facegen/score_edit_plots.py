"""The tables and pictures of eval/plots that edits and upscaling give: CSV for the report, PNG to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from facegen.artifacts import atomic_write_bytes
from facegen.charts import figure_png, read_csv, write_csv
from facegen.grids import image_grid, save_png
from facegen.score_edit_charts import REFERENCES, area_chart, success_chart, trade_chart

NOT_METHODS = ("default", "sweep", "small", "identity")  # of `edit` in eval/metrics.json
ENDS = ("value", "low", "high")
UPSCALED = ("input", "Lanczos", "upscaler", "truth")  # rows of the strip


def write_edit_plots(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write success by attribute and by area, and identity over other change, from `edit` of eval/metrics.json."""
    if "absent" in figures:
        return
    methods = {name: figures[name] for name in method_names(figures)}
    rows = [
        (method, name, *ends(row["success"]), ends(row["judge_accuracy"])[0])
        for method, found in methods.items()
        for name, row in found["attributes"].items()
        if row["success"] is not None
    ]
    if not rows:  # no edit asked for a change
        return
    write_csv(folder / "edit_success.csv", ["method", "attribute", *ENDS, "judge_accuracy"], rows)
    _save(folder / "edit_success.png", success_chart(read_csv(folder / "edit_success.csv"), list(methods)))
    rows = [
        (method, row["share"], *ends(row["success"]))
        for method, found in figures["sweep"].items()
        for row in found
        if row["success"] is not None
    ]
    if rows:
        write_csv(folder / "edit_areas.csv", ["method", "share", *ENDS], rows)
        _save(folder / "edit_areas.png", area_chart(read_csv(folder / "edit_areas.csv"), list(methods)))
    rows = [
        (method, *ends(found["other_change"]), *ends(found["identity_cosine"]))
        for method, found in methods.items()
        if found["identity_cosine"] is not None and found["other_change"] is not None
    ]
    if rows:
        columns = ["method", "other_change", "other_low", "other_high", *ENDS]
        write_csv(folder / "edit_identity.csv", columns, rows)
        chart = trade_chart(read_csv(folder / "edit_identity.csv"), list(methods), references=identity_lines(figures))
        _save(folder / "edit_identity.png", chart)


def write_upscaling(path: Path, shown: np.ndarray) -> None:
    """Write pictures, uint8 (4, K, H, W, 3), as rows called UPSCALED."""
    save_png(path, image_grid(shown, row_labels=list(UPSCALED)))


def method_names(figures: Mapping[str, Any]) -> list[str]:
    """Return the methods that `edit` of eval/metrics.json has figures of, in the order of tables and charts."""
    return sorted(name for name in figures if name not in NOT_METHODS)


def identity_lines(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the floors and the ceiling of identity that are known, from `edit` of eval/metrics.json."""
    found = figures["identity"] or {}
    return {key: found[key]["value"] for key in REFERENCES if found.get(key) is not None}


def ends(figure: Mapping[str, Any] | None) -> Sequence[float | None]:
    """Return (value, low, high) of a figure, None where it has none."""
    return [figure.get(key) for key in ENDS] if figure is not None else [None] * 3


def _save(path: Path, chart: Figure) -> None:
    atomic_write_bytes(path, figure_png(chart))
