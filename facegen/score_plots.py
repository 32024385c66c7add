"""The tables and pictures of eval/plots: each table as CSV (for `dvc plots` and the report) and as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facegen.artifacts import atomic_write_bytes
from facegen.charts import drawn_curves, figure_png, interval_chart, loss_chart, read_csv, time_chart, write_csv
from facegen.grids import image_grid, save_png
from facegen.scoring import TIME_BIN, error_by_time

SETS = {"training images": "floor", "their reconstructions": "reconstruction", "DiT samples": "dit"}
TILE_PX = 128  # side of an image in a grid, at least


def write_plots(folder: Path, figures: Mapping[str, Any], *, models: Path, shown: np.ndarray) -> None:
    """Write everything.

    Args:
        folder: where to.
        figures: what `score_figures` returned.
        models: the folder that holds `dit/log.csv` and, if it was trained here, `autoencoder/log.csv`.
        shown: uint8 (2, K, H, W, 3): test images and their reconstructions.
    """
    for name in ("dit", "autoencoder"):
        if (models / name / "log.csv").is_file():
            write_losses(folder / f"{name}_loss", read_csv(models / name / "log.csv"))
    write_error_by_time(folder / "dit_loss_by_time", read_csv(models / "dit/log.csv"))
    write_distances(folder / "frechet", figures)
    sheet = image_grid(
        shown, row_labels=["original", "reconstruction"], group_rows=2, scale=max(1, TILE_PX // shown.shape[2])
    )
    save_png(folder / "reconstructions.png", sheet)
    pairs = shown.transpose(0, 2, 1, 3, 4).reshape(2 * shown.shape[2], -1, 3)
    save_png(folder / "reconstruction_pairs.png", Image.fromarray(pairs))


def write_losses(path: Path, log: Mapping[str, np.ndarray]) -> None:
    """Write a training log, without its bins of t, as path.csv and its curves as path.png."""
    columns = [column for column in log if not column.startswith(TIME_BIN)]
    write_csv(path.with_suffix(".csv"), columns, list(zip(*(log[column] for column in columns), strict=True)))
    chart = loss_chart(log["images"], drawn_curves(log), ylabel="loss")
    atomic_write_bytes(path.with_suffix(".png"), figure_png(chart))


def write_error_by_time(path: Path, log: Mapping[str, np.ndarray]) -> None:
    """Write the velocity error per bin of t, where the log has it, as path.csv and path.png."""
    series = error_by_time(log)
    if series:
        bins = len(next(iter(series.values())))
        rows = [((i + 0.5) / bins, *(values[i] for values in series.values())) for i in range(bins)]
        write_csv(path.with_suffix(".csv"), ["t", *series], rows)
        atomic_write_bytes(path.with_suffix(".png"), figure_png(time_chart(series)))


def write_distances(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the Fréchet distances beside their floor as path.csv and path.png."""
    rows = [(label, *(figures[key]["frechet"][end] for end in ("value", "low", "high"))) for label, key in SETS.items()]
    write_csv(path.with_suffix(".csv"), ["set", "value", "low", "high"], rows)
    values, lows, highs = np.array([row[1:] for row in rows], dtype=np.float64).T
    chart = interval_chart(list(SETS), values, lows, highs, xlabel="Fréchet distance to test images")
    atomic_write_bytes(path.with_suffix(".png"), figure_png(chart))
