"""The tables and pictures of eval/plots: each table as CSV (for `dvc plots` and the report) and as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facegen.artifacts import atomic_write_bytes, read_json
from facegen.charts import drawn_curves, figure_png, interval_chart, loss_chart, read_csv, time_chart, write_csv
from facegen.data.samples import PRIOR, Samples
from facegen.data.shards import Faces
from facegen.evaluation import Evaluation
from facegen.grids import fold_rows, image_grid, save_png
from facegen.metrics.manifold import Memorisation
from facegen.score_charts import gan_figures, guidance_chart, matrix_chart, point_chart, reliability_chart, roc_chart
from facegen.scoring import TIME_BIN, error_by_time

SETS = {
    "training images": "floor",
    "their reconstructions": "reconstruction",
    "LatentDiT": "dit",
    "conditional DCGAN": "gan",
    "DCGAN": "gan_unconditional",
}
MATRICES = {"LatentDiT": "dit", "conditional DCGAN": "gan", "in the data": "data"}
LOGS = {"dit": "dit", "autoencoder": "autoencoder", "gan": "gan-conditional"}  # of a plot: the model's folder
GUIDANCE = ("guidance", "accuracy", "effect", "leakage", "identity_cosine", "same_person")
JUDGE_TABLES = {
    "roc": ("false_positive_rate", "true_positive_rate"),
    "reliability": ("confidence", "frequency", "count"),
}
COLUMNS, ROWS = 12, 2  # of each generator's pictures
TILE_PX = 128  # side of an image in a grid, at least


def write_plots(
    folder: Path,
    found: Evaluation,
    *,
    models: Path,
    shown: np.ndarray,
    samples: Mapping[str, Samples],
    train: Faces,
    test: np.ndarray,
) -> None:
    """Write everything.

    Args:
        folder: where to.
        found: what was measured.
        models: the folder of the models, for their training logs and judge b's curves.
        shown: uint8 (2, K, H, W, 3): test images and their reconstructions.
        samples: the pictures of each generator, by its name in eval/metrics.json.
        train: the training set, for the neighbours of the closest pairs.
        test: uint8 (N, H, W, 3): test images to stand beside the generators'.
    """
    for name, model in LOGS.items():
        if (models / model / "log.csv").is_file():
            write_losses(folder / f"{name}_loss", read_csv(models / model / "log.csv"))
    write_error_by_time(folder / "dit_loss_by_time", read_csv(models / "dit/log.csv"))
    write_distances(folder / "frechet", found.figures)
    write_distance_curve(
        folder / "frechet_by_images", found.by_images, found.figures, "thousand images seen", scale=1e-3
    )
    write_distance_curve(folder / "frechet_by_steps", found.by_steps, found.figures, "solver steps")
    write_guidance(folder / "guidance", found)
    write_interventions(folder / "interventions", found.matrices, samples["dit"].attribute_names)
    write_judge(folder, read_json(models / "judge-b/curves.json"))
    write_generators(folder / "generators.png", samples, test)
    if found.closest is not None:
        write_closest(folder / "closest.png", found.closest, samples["dit"].of(PRIOR), train)
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
    shown = {label: figures[key]["frechet"] for label, key in SETS.items()}
    rows = [(label, *(figure[end] for end in ("value", "low", "high"))) for label, figure in shown.items()]
    write_csv(path.with_suffix(".csv"), ["set", "value", "low", "high"], rows)
    values, lows, highs = np.array([row[1:] for row in rows], dtype=np.float64).T
    chart = interval_chart(list(shown), values, lows, highs, xlabel="Fréchet distance to test images")
    atomic_write_bytes(path.with_suffix(".png"), figure_png(chart))


def write_distance_curve(
    path: Path, table: Sequence[Mapping[str, float]], figures: Mapping[str, Any], xlabel: str, *, scale: float = 1.0
) -> None:
    """Write the Fréchet distance over one setting as path.csv and path.png; the first column is the setting."""
    columns = list(table[0])
    write_csv(path.with_suffix(".csv"), columns, [[row[column] for column in columns] for row in table])
    drawn = {column: np.array([row[column] for row in table], dtype=np.float64) for column in columns}
    drawn[columns[0]] *= scale
    chart = point_chart(
        drawn,
        x=columns[0],
        xlabel=xlabel,
        ylabel=f"Fréchet distance, N = {table[0]['n']:,}",
        floor=None,
        logarithmic=True,
    )
    atomic_write_bytes(path.with_suffix(".png"), figure_png(chart))


def write_guidance(path: Path, found: Evaluation) -> None:
    """Write accuracy, leakage and identity over guidance as path.csv and path.png."""
    write_csv(path.with_suffix(".csv"), GUIDANCE, [[row[column] for column in GUIDANCE] for row in found.guidance])
    table = read_csv(path.with_suffix(".csv"))
    chart = guidance_chart(table, baselines=gan_figures(found.figures))
    atomic_write_bytes(path.with_suffix(".png"), figure_png(chart))


def write_interventions(path: Path, matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Write the intervention matrices as path.csv, one line a pair, and as path.png."""
    rows = [
        (kind, names[k], names[j], value)
        for kind, matrix in matrices.items()
        for (k, j), value in np.ndenumerate(matrix)
    ]
    write_csv(path.with_suffix(".csv"), ["of", "flipped", "measured", "change"], rows)
    shown = {title: matrices[key] for title, key in MATRICES.items()}
    atomic_write_bytes(path.with_suffix(".png"), figure_png(matrix_chart(shown, names)))


def write_judge(folder: Path, curves: Mapping[str, Any]) -> None:
    """Write judge b's ROC curves and reliability on test images as roc and reliability, CSV and PNG."""
    for table, columns in JUDGE_TABLES.items():
        known = {name: curve[table] for name, curve in curves.items() if curve[table] is not None}
        rows = [(name, *row) for name, curve in known.items() for row in zip(*(curve[c] for c in columns), strict=True)]
        write_csv(folder / f"{table}.csv", ["attribute", *columns], rows)
    for name, chart in (("roc", roc_chart), ("reliability", reliability_chart)):
        atomic_write_bytes(folder / f"{name}.png", figure_png(chart(read_csv(folder / f"{name}.csv"))))


def write_generators(path: Path, samples: Mapping[str, Samples], test: np.ndarray) -> None:
    """Write test images above the first pictures of each generator; the conditional ones answer the same requests."""
    blocks = {"test images": test[: COLUMNS * ROWS]}
    for label, key in SETS.items():
        if key in samples:
            prior = samples[key].of(PRIOR)
            blocks[label] = prior.images(range(min(COLUMNS * ROWS, len(prior))))
    num = min(len(images) for images in blocks.values()) // ROWS * ROWS
    grid = np.concatenate([fold_rows(images[:num], columns=num // ROWS) for images in blocks.values()])
    labels = [label if row == 0 else "" for label in blocks for row in range(ROWS)]
    save_png(path, image_grid(grid, row_labels=labels, group_rows=ROWS, scale=max(1, TILE_PX // grid.shape[2])))


def write_closest(path: Path, found: Memorisation, prior: Samples, train: Faces) -> None:
    """Write the generated pictures that lie closest to a training image, and that image below each."""
    made = prior.images(found.pairs[:COLUMNS, 0].tolist())
    real = train.images(found.pairs[:COLUMNS, 1], threads=1)
    sheet = image_grid(
        np.stack([made, real]), row_labels=["generated", "nearest in training"], group_rows=2,
        scale=max(1, TILE_PX // made.shape[1]),
    )  # fmt: skip
    save_png(path, sheet)
