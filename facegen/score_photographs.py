"""The part of the evaluation that is about photographs: edits of them, and upscaling, from their folders to figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from facegen.artifacts import read_json
from facegen.data.edits import Edits
from facegen.data.face_embedder import FaceEmbedder, embed_faces
from facegen.data.shards import Faces
from facegen.measured_edits import identity_references, measure_edits
from facegen.metrics.judge_features import JudgeFeatures
from facegen.rng import numpy_generator
from facegen.score_edits import edit_figures
from facegen.score_inputs import Progress, same_person_cosine
from facegen.score_upscaling import measure_upscaling, upscaling_figures
from facegen.scoring import Reconstruct, chosen_rows, person_labels
from facegen.upscaling import ABOUT, FaceUpscaler, available, lanczos


def score_edits(
    folder: Path, test: Faces, judge: JudgeFeatures, embedder: FaceEmbedder | None, reconstruct: Reconstruct, *,
    default: str, seed: int, threads: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return `edit` of eval/metrics.json; {"absent": reason} where nothing was edited.

    Args:
        folder: eval/edits, with the edits of whole parts and the sweep over their size.
        test: the test split, whose photographs were edited.
        judge, embedder: judge b and the judging recogniser; None: there is none.
        reconstruct: the autoencoder's round trip.
        default: the method that edits use unless told otherwise.
        seed: of the pairs and resamples.
        threads: of decoding.
        progress: shows how far it is.
    """
    edits, sweep = (Edits.open(folder / f"{name}.parquet") for name in ("edits", "areas"))
    if not len(edits):
        return {"absent": "no edit was asked for"}
    people = person_labels(test.identity)
    embedded = None
    if embedder is not None:
        embedded = embed_faces(embedder, test, np.arange(len(test)), by_landmarks=False, threads=threads)
    bar = progress(len(edits) + len(sweep), "measuring edits")
    found, swept = (
        measure_edits(
            part, test, judge, embedder, embedded=embedded, people=people, same_person=same_person_cosine(embedder),
            threads=threads, on_images=bar.update,
        )
        for part in (edits, sweep)
    )  # fmt: skip
    bar.close()
    references = None
    if embedder is not None and embedded is not None:
        references = identity_references(
            embedder, embedded, test, found.photo, reconstruct, people=people, threads=threads,
            generator=numpy_generator(seed, "score identity of edits"),
        )  # fmt: skip
    figures = edit_figures(found, swept, default=default, generator=numpy_generator(seed, "score small masks"))
    return figures | {"identity": references}


def score_upscaling(
    model: Path, large: Path, judge: JudgeFeatures, embedder: FaceEmbedder | None, reconstruct: Reconstruct, *,
    resolution: int, num: int, seed: int, threads: int, progress: Progress,
) -> tuple[dict[str, Any], np.ndarray | None]:  # fmt: skip
    """Return `upscale` of eval/metrics.json, or {"absent": reason}; and pictures to look at, uint8 (4, K, H, W, 3).

    Args:
        model: folder of the upscaler.
        large: data/faces-large.
        judge, embedder: judge b and the judging recogniser; None: there is none.
        reconstruct: the autoencoder's round trip.
        resolution: of the generator's pictures, px.
        num: test pictures at most.
        seed: of their choice and of the resamples.
        threads: of decoding.
        progress: shows how far it is.
    """
    if not available(model):
        return {"absent": read_json(model / ABOUT)["absent"]}, None
    faces = Faces.open(large, "test")
    if not len(faces):
        return {"absent": f"no test photograph has {faces.resolution} px to compare with"}, None
    upscaler = FaceUpscaler.load(model, device=judge.device)
    rows = chosen_rows(seed, "upscaling", size=len(faces), num=num)
    bar = progress(len(rows), "upscaling")
    found = measure_upscaling(
        faces, rows, ours=upscaler.upscale, lanczos=lambda images: lanczos(images, upscaler.scale),
        round_trip=reconstruct, scale=upscaler.scale, judge=judge, embedder=embedder, threads=threads,
        on_images=bar.update,
    )  # fmt: skip
    bar.close()
    figures = upscaling_figures(
        found, people=person_labels(faces.identity)[rows], truth_resolution=faces.resolution, resolution=resolution,
        scale=upscaler.scale, generator=numpy_generator(seed, "score upscaling"),
    )  # fmt: skip
    return figures, found.shown
