"""What the score stage measures on: the pictures of every generator as the judges see them, and the real ones beside.

Shapes: N images, H W size, T training images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegen.data.face_embedder import FaceEmbedder
from facegen.data.images import to_uint8, to_unit
from facegen.data.samples import PRIOR, read_samples
from facegen.data.shards import Faces
from facegen.evaluation import JUDGED, Real
from facegen.judging import Answers, judge_samples
from facegen.metrics.judge_features import JudgeFeatures
from facegen.models.autoencoder import Autoencoder, decode, encode_moments
from facegen.scoring import (
    RealSet,
    Reconstruct,
    Reconstructed,
    Spaces,
    chosen_rows,
    features_before_and_after,
    features_of,
    measure_reconstruction,
    person_labels,
)

BATCH = 64
NUM_SHOWN = 12
GENERATORS = {"dit": "dit", "gan": "gan", "gan_unconditional": "gan-unconditional"}  # in metrics.json: the file
FAR = "1e-3"  # false accept rate of the cosine from which two pictures count as one person
JUDGE_FIGURES = ("balanced_accuracy", "auroc", "calibration_error", "majority_accuracy")
LEFT_OUT = ("aligned_by_landmarks", "threshold_from")  # of the recogniser's accuracy.json

Progress = Callable[[Any, str], Any]  # (what to go through, or how many; a label) -> a progress bar


def judged(
    folder: Path, judge: JudgeFeatures, embedder: FaceEmbedder | None, *, progress: Progress
) -> dict[str, Answers]:
    """Return the pictures of every generator as the judges see them; folder: eval/samples."""
    found = {}
    for name, file in GENERATORS.items():
        samples = read_samples(folder / f"{file}.parquet")
        bar = progress(len(samples), f"judging {file}")
        found[name] = judge_samples(samples, judge, embedder, on_images=bar.update)
        bar.close()
    return found


def prior_features(found: Answers, spaces: Spaces, n: int) -> dict[str, np.ndarray]:
    """Return the features (n, D) of the first prior pictures in every space; judge b has seen them already."""
    rows = found.rows(PRIOR)[:n]
    others = {name: extractor for name, extractor in spaces.items() if name != JUDGED}
    return features_of(found.samples.images(rows.tolist()), others) | {JUDGED: found.features[rows]}


def round_trip(vae: Autoencoder, *, dtype: torch.dtype) -> Reconstruct:
    """Return the function that passes uint8 (B, H, W, 3) through the autoencoder, which computes where it is."""

    @torch.inference_mode()
    def reconstruct(images: np.ndarray) -> np.ndarray:
        device = vae.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return to_uint8(decode(vae, encode_moments(vae, to_unit(images).to(device))[0]))

    return reconstruct


def real_sets(
    train: Faces, test: Faces, spaces: Spaces, reconstruct: Reconstruct, *, seed: int, num_reference: int, n: int,
    threads: int, progress: Progress,
) -> tuple[Real, Reconstructed, np.ndarray]:  # fmt: skip
    """Return the real images in every space, the reconstructions of test images, and who is on those.

    Args:
        train, test: the splits.
        spaces: the feature spaces.
        reconstruct: the autoencoder's round trip.
        seed: of the choice of images; num_reference: test images that are reconstructed; n: images of every distance.
        threads: of decoding.
        progress: shows how far it is.
    """

    def batches(faces: Faces, rows: np.ndarray, desc: str) -> Iterator[np.ndarray]:
        for start in progress(range(0, len(rows), BATCH), desc):
            yield faces.images(rows[start : start + BATCH], threads=threads)

    test_rows = chosen_rows(seed, "test", size=len(test), num=num_reference)
    train_rows = chosen_rows(seed, "train", size=len(train), num=n)
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


def same_person_cosine(embedder: FaceEmbedder | None) -> float | None:
    """Return the cosine from which the judging recogniser calls two pictures one person; None if that is not known."""
    return embedder.thresholds[FAR] if embedder is not None and FAR in embedder.thresholds else None


def judge_figures(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Return judge b's figures on real test pictures, means first, from its accuracy.json."""
    rows = {name: {key: row[key] for key in JUDGE_FIGURES} for name, row in accuracy["attributes"].items()}
    return {**accuracy["mean"], "images": accuracy["images"], "attributes": rows}


def recognizer_figures(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the judging recogniser's figures on real test pictures, or why there is none, from its accuracy.json."""
    return {key: value for key, value in accuracy.items() if key not in LEFT_OUT}
