"""Edit test photographs by every method -> eval/edits: edits and areas.parquet (facegen/data/edits.py), and grids."""

from __future__ import annotations

import time
from collections import Counter, defaultdict

import numpy as np
import torch

from facegen.data.edits import write_edits
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.shards import Faces
from facegen.edit import METHODS, EditSettings, FaceEditor
from facegen.edit_sets import area_grid, area_requests, edit_grids, edit_requests, run_edits
from facegen.grids import save_png
from facegen.models.dit import LatentDiT
from facegen.models.loading import load_checked
from facegen.pipeline import FacePipeline
from pipelines.stage import Stage, main

SWEEP_BASELINE = "blend"  # answers the sweep beside the default method


def run(stage: Stage) -> None:
    p, threads = stage.params.edit, stage.params.machine.threads
    train, test = (Faces.open(stage.root / "data/faces", split) for split in ("train", "test"))
    editor, embedder = open_editor(stage), open_embedder(stage)
    requests = edit_requests(
        test, train.attributes, seed=stage.params.base.seed, methods=METHODS, num_photos=p.num_photos,
        num_compared=p.num_compared,
    )  # fmt: skip
    sweep = area_requests(requests, methods=sorted({p.method, SWEEP_BASELINE}), num_photos=p.num_swept)

    def photographs(rows: np.ndarray) -> np.ndarray:
        return test.images(rows, threads=threads)

    def embed(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        assert embedder is not None
        return embedder.embed(images, test.landmarks[rows])

    bar = stage.progress(len(requests) + len(sweep), "edits")
    spent: defaultdict[str, float] = defaultdict(float)
    made, last = Counter[str](), time.perf_counter()

    def on_edits(method: str, num: int) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[method] += now - last
        made[method] += num
        last = now
        bar.update(num)

    with torch.autocast(stage.device.type, stage.dtype, enabled=stage.dtype != torch.float32):
        edits, swept = [
            run_edits(
                editor, table, photographs, embed=embed if embedder else None, batch_size=p.batch_size,
                on_edits=on_edits,
            )
            for table in (requests, sweep)
        ]  # fmt: skip
    bar.close()
    stage.metrics({"seconds_an_edit": {method: spent[method] / made[method] for method in made}})
    with stage.output("eval/edits") as folder:
        write_edits(folder / "edits.parquet", edits)
        write_edits(folder / "areas.parquet", swept)
        drawn = edit_grids(requests, edits.images, photographs, default=p.method, num_columns=p.grid_columns)
        drawn |= area_grid(sweep, swept.images, photographs, method=p.method)
        for name, picture in drawn.items():
            save_png(folder / f"{name}.png", picture)
    for path in sorted((stage.root / "eval/edits").glob("*.png")):
        stage.picture(path)


def open_editor(stage: Stage) -> FaceEditor:
    """Return the editor by the stage's models and parameters, on its device."""
    models, sample, device = stage.root / "data/models", stage.params.sample, stage.device
    pipe = FacePipeline.from_models(
        models, scheduler=sample.scheduler, shift=sample.time_shift, num_inference_steps=stage.params.edit.num_steps,
        guidance_scale=sample.guidance_scale, guidance_interval=list(sample.guidance_interval),
    ).to(device)  # fmt: skip
    inpainter = load_checked(LatentDiT, models / "inpainter").eval().to(device)
    p = stage.params.edit
    settings = EditSettings(
        method=p.method, num_steps=p.num_steps, guidance_scale=p.guidance_scale, attribute_scale=p.attribute_scale,
        strength=p.strength, resamples=p.resamples, dilation_cells=p.dilation_cells, feather=p.feather,
        zoom_side=p.zoom_side, zoom_below=p.zoom_below,
    )  # fmt: skip
    return FaceEditor(pipe, inpainter=inpainter, settings=settings)


def open_embedder(stage: Stage) -> FaceEmbedder | None:
    """Return the recogniser of the generator's identity condition; None where there is none."""
    folder = stage.root / "data/models/recognizer-condition"
    return FaceEmbedder.load(folder, threads=stage.params.machine.threads) if available(folder) else None


if __name__ == "__main__":
    main(run)
