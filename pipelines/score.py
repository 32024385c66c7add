"""Measure the samples against real pictures: data/faces, models, eval/samples -> eval/metrics.json, eval/plots."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from facegen.artifacts import read_json, write_json
from facegen.data.images import to_uint8, to_unit
from facegen.data.samples import PRIOR, read_samples
from facegen.data.shards import Faces
from facegen.metrics.features import RandomProjection, extract
from facegen.models.autoencoder import decode, encode_moments, factor, load_autoencoder
from facegen.score_plots import write_plots
from facegen.scoring import (
    RealSet,
    chosen_rows,
    common_count,
    count_parameters,
    features_before_and_after,
    measure_reconstruction,
    person_labels,
    score_figures,
)
from pipelines.stage import Stage, main

BATCH = 64
NUM_SHOWN = 12
FOLDERS = ("data/faces", "data/models/judge-a", "data/models/autoencoder", "data/models/dit", "eval/samples")


def run(stage: Stage) -> None:
    """Take every distance at one N, measure the reconstructions, and draw both."""
    p, seed, root = stage.params.score, stage.params.base.seed, stage.root
    extractor, device = RandomProjection(p.feature_dim), stage.device
    train, test = (Faces.open(root / "data/faces", split) for split in ("train", "test"))
    samples = read_samples(root / "eval/samples").of(PRIOR)
    n = common_count(p.num_reference, {"train": len(train), "test": len(test), "prior": len(samples)})
    if n < p.num_reference:
        sys.stderr.write(f"score: note: distances at N = {n}, not {p.num_reference}: a set has no more images\n")
    vae = load_autoencoder(root / "data/models/autoencoder").to(device)

    @torch.inference_mode()
    def reconstruct(images: np.ndarray) -> np.ndarray:
        with torch.autocast(device.type, stage.dtype, enabled=stage.dtype != torch.float32):
            return to_uint8(decode(vae, encode_moments(vae, to_unit(images).to(device))[0]))

    def batches(faces: Faces, rows: np.ndarray, desc: str) -> Iterator[np.ndarray]:
        for start in stage.progress(range(0, len(rows), BATCH), desc):
            yield faces.images(rows[start : start + BATCH], threads=stage.params.machine.threads)

    test_rows = chosen_rows(seed, "test", size=len(test), num=p.num_reference)
    train_rows = chosen_rows(seed, "train", size=len(train), num=n)
    reconstructed = measure_reconstruction(
        batches(test, test_rows, "test images"), reconstruct, extractor, num_shown=NUM_SHOWN
    )
    before, after = features_before_and_after(batches(train, train_rows, "train images"), reconstruct, extractor)
    made = extract(extractor, [samples.images()[:n]])
    with threadpool_limits(1, user_api="blas"):  # small matrices: threads cost time on a busy machine, and last digits
        figures = score_figures(
            reconstructed,
            test_people=person_labels(test.identity[test_rows]),
            train=RealSet(before, person_labels(train.identity[train_rows])),
            train_reconstructions=after,
            samples=made,
            extractor=extractor,
        )
    with stage.output("eval/plots") as folder:
        write_plots(folder, figures, models=root / "data/models", shown=reconstructed.shown)
        write_json(
            folder / "models.json",
            {
                "parameters": {name: count_parameters(root / "data/models" / name) for name in ("autoencoder", "dit")},
                "factor": factor(vae),
                "latent_channels": vae.config.latent_channels,
            },
        )
        manifests = {name: read_json(root / name / "manifest.json")["parameters"] for name in FOLDERS}
        write_json(folder / "parameters.json", {k: v for part in manifests.values() for k, v in part.items()})
    write_json(root / "eval/metrics.json", figures)
    stage.metrics(figures)
    for path in sorted((root / "eval/plots").glob("*.png")):
        stage.picture(path)


if __name__ == "__main__":
    main(run)
