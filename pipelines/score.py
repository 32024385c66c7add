"""Measure every generator against real pictures: faces, models, eval/samples -> eval/metrics.json, eval/plots."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from facegen.artifacts import read_json, write_json
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.images import to_uint8, to_unit
from facegen.data.samples import PRIOR, read_samples
from facegen.data.shards import Faces
from facegen.evaluation import JUDGED, Real, Settings, evaluate
from facegen.judging import Answers, judge_samples
from facegen.metrics.features import RandomProjection
from facegen.metrics.inception import InceptionFeatures
from facegen.metrics.judge_features import JudgeFeatures, load_judge_features
from facegen.models.autoencoder import decode, encode_moments, factor, load_autoencoder
from facegen.score_control import judge_rates
from facegen.score_plots import COLUMNS, ROWS, write_plots
from facegen.scoring import (
    RealSet,
    Reconstructed,
    Spaces,
    chosen_rows,
    common_count,
    count_parameters,
    features_before_and_after,
    features_of,
    measure_reconstruction,
    person_labels,
)
from pipelines.stage import Stage, main

BATCH = 64
NUM_SHOWN = 12
GENERATORS = {"dit": "dit", "gan": "gan", "gan_unconditional": "gan-unconditional"}  # in metrics.json: the file
MODELS = (
    "judge-a", "judge-b", "recognizer-condition", "recognizer-judge", "autoencoder", "dit", "gan-conditional",
    "gan-unconditional",
)  # fmt: skip
COUNTED = {"autoencoder": "autoencoder", "dit": "dit", "gan": "gan-conditional/generator"}
FAR = "1e-3"  # false accept rate of the cosine from which two pictures count as one person
LEFT_OUT = ("aligned_by_landmarks", "threshold_from")  # of the recogniser's accuracy.json
FOLDERS = ("data/faces", *(f"data/models/{name}" for name in MODELS), "eval/samples")


def run(stage: Stage) -> None:
    """Take every distance at one N, ask the judges, and draw what they say."""
    p, root, models = stage.params, stage.root, stage.root / "data/models"
    judge = load_judge_features(models / "judge-b", stage.device)
    spaces: dict[str, Any] = {JUDGED: judge, "frechet_random": RandomProjection(p.score.feature_dim)}
    if p.score.inception is not None:
        spaces["fid"] = InceptionFeatures(p.score.inception, stage.device)
    recognizer = models / "recognizer-judge"
    embedder = FaceEmbedder.load(recognizer, threads=p.machine.threads) if available(recognizer) else None
    answers = judged(stage, judge, embedder)
    n = common_count(p.score.num_reference, sizes(stage, answers))
    if n < p.score.num_reference:
        sys.stderr.write(f"score: note: distances at N = {n}, not {p.score.num_reference}: a set has no more images\n")
    real, reconstructed, people = real_sets(stage, spaces, n)
    prior = {name: prior_features(found, spaces, n) for name, found in answers.items()}
    accuracy = read_json(models / "judge-b/accuracy.json")
    with threadpool_limits(1, user_api="blas"):  # small matrices: threads cost time on a busy machine, and last digits
        found = evaluate(
            answers, prior, real, reconstructed, people=people, spaces=spaces,
            rates=judge_rates(accuracy, answers["dit"].samples.attribute_names),
            same_person=same_person_cosine(embedder),
            settings=Settings(
                guidance_scale=p.sample.guidance_scale, num_steps=p.sample.num_steps,
                images_seen=p.dit.total_images, num_neighbors=p.score.num_neighbors, seed=p.base.seed,
            ),
        )  # fmt: skip
    figures = found.figures | {
        "judge": judge_figures(accuracy),
        "recognizer": {k: v for k, v in read_json(recognizer / "accuracy.json").items() if k not in LEFT_OUT},
    }
    with stage.output("eval/plots") as folder:
        write_plots(
            folder, found, models=models, shown=reconstructed.shown, train=Faces.open(root / "data/faces", "train"),
            samples={name: one.samples for name, one in answers.items()}, test=test_images(stage),
        )  # fmt: skip
        write_json(
            folder / "models.json",
            {
                "parameters": {name: count_parameters(models / path) for name, path in COUNTED.items()},
                "factor": factor(load_autoencoder(models / "autoencoder")),
                "latent_channels": read_json(models / "autoencoder/config.json")["latent_channels"],
            },
        )
        manifests = {name: read_json(root / name / "manifest.json")["parameters"] for name in FOLDERS}
        write_json(folder / "parameters.json", {k: v for part in manifests.values() for k, v in part.items()})
    write_json(root / "eval/metrics.json", figures)
    stage.metrics(figures)
    for path in sorted((root / "eval/plots").glob("*.png")):
        stage.picture(path)


def judged(stage: Stage, judge: JudgeFeatures, embedder: FaceEmbedder | None) -> dict[str, Answers]:
    """Return the pictures of every generator as the judges see them."""
    found = {}
    for name, file in GENERATORS.items():
        samples = read_samples(stage.root / f"eval/samples/{file}.parquet")
        bar = stage.progress(len(samples), f"judging {file}")
        found[name] = judge_samples(samples, judge, embedder, on_images=bar.update)
        bar.close()
    return found


def sizes(stage: Stage, answers: dict[str, Answers]) -> dict[str, int]:
    """Return how many images each set has that a distance is taken of."""
    real = {split: len(Faces.open(stage.root / "data/faces", split)) for split in ("train", "test")}
    return real | {f"{name}'s prior": len(found.rows(PRIOR)) for name, found in answers.items()}


def prior_features(found: Answers, spaces: Spaces, n: int) -> dict[str, np.ndarray]:
    """Return the features (n, D) of the first prior pictures in every space; judge b has seen them already."""
    rows = found.rows(PRIOR)[:n]
    others = {name: extractor for name, extractor in spaces.items() if name != JUDGED}
    return features_of(found.samples.images(rows.tolist()), others) | {JUDGED: found.features[rows]}


def real_sets(stage: Stage, spaces: Spaces, n: int) -> tuple[Real, Reconstructed, np.ndarray]:
    """Return the real images in every space, the reconstructions of test images, and who is on those."""
    p, device = stage.params, stage.device
    train, test = (Faces.open(stage.root / "data/faces", split) for split in ("train", "test"))
    vae = load_autoencoder(stage.root / "data/models/autoencoder").to(device)

    @torch.inference_mode()
    def reconstruct(images: np.ndarray) -> np.ndarray:
        with torch.autocast(device.type, stage.dtype, enabled=stage.dtype != torch.float32):
            return to_uint8(decode(vae, encode_moments(vae, to_unit(images).to(device))[0]))

    def batches(faces: Faces, rows: np.ndarray, desc: str) -> Iterator[np.ndarray]:
        for start in stage.progress(range(0, len(rows), BATCH), desc):
            yield faces.images(rows[start : start + BATCH], threads=p.machine.threads)

    test_rows = chosen_rows(p.base.seed, "test", size=len(test), num=p.score.num_reference)
    train_rows = chosen_rows(p.base.seed, "train", size=len(train), num=n)
    others = np.setdiff1d(np.arange(len(train)), train_rows)
    reconstructed = measure_reconstruction(
        batches(test, test_rows, "test images"), reconstruct, spaces, num_shown=NUM_SHOWN
    )
    before, after = features_before_and_after(batches(train, train_rows, "train images"), reconstruct, spaces)
    rest = [spaces[JUDGED](images) for images in batches(train, others, "all train images")]
    whole = np.empty((len(train), before[JUDGED].shape[1]), np.float32)
    whole[train_rows], whole[others] = before[JUDGED], np.concatenate([*rest, whole[:0]])
    people = person_labels(test.identity[test_rows])
    real = Real(
        {name: RealSet(rows[:n], people[:n]) for name, rows in reconstructed.features.items()},
        {name: RealSet(rows, person_labels(train.identity[train_rows])) for name, rows in before.items()},
        after,
        whole,
        train.attributes,
    )
    return real, reconstructed, people


def test_images(stage: Stage) -> np.ndarray:
    """Return the first test images that are compared with, to stand beside the generators'."""
    test = Faces.open(stage.root / "data/faces", "test")
    rows = chosen_rows(stage.params.base.seed, "test", size=len(test), num=COLUMNS * ROWS)
    return test.images(rows, threads=stage.params.machine.threads)


def same_person_cosine(embedder: FaceEmbedder | None) -> float | None:
    """Return the cosine from which the judging recogniser calls two pictures one person; None if that is not known."""
    return embedder.thresholds[FAR] if embedder is not None and FAR in embedder.thresholds else None


def judge_figures(accuracy: dict[str, Any]) -> dict[str, Any]:
    """Return judge b's figures on real test pictures, means first."""
    table = {
        name: {key: row[key] for key in ("balanced_accuracy", "auroc", "calibration_error", "majority_accuracy")}
        for name, row in accuracy["attributes"].items()
    }
    return {**accuracy["mean"], "images": accuracy["images"], "attributes": table}


if __name__ == "__main__":
    main(run)
