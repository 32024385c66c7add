"""Train a face recogniser, or take a published one: data/faces -> data/models/recognizer-ITEM (ONNX).

Where the data name no people there is no recogniser, and the folder says so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facegen.artifacts import atomic_write_bytes, write_json
from facegen.data.face_embedder import ABOUT, ONNX, FaceEmbedder, embed_faces, open_onnx
from facegen.data.shards import Faces
from facegen.metrics.verification import accept_thresholds, verification_report
from facegen.models.initialize import draw_weights
from facegen.models.recognizer import FaceRecognizer, onnx_bytes
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from facegen.train.recognizer import (
    RecognizerLearner,
    RecognizerRecipe,
    TrainingPictures,
    known_people,
    mean_landmarks,
)
from pipelines.stage import Stage, main

if TYPE_CHECKING:
    from accelerate import Accelerator

    from facegen.config_sections import RecognizerTraining

ACCURACY = "accuracy.json"
LOG_INTERVALS = 20  # lines in the log of one training
LICENCE = {
    True: "that of the published file; insightface's model packs are for non-commercial research only",
    False: "that of the pictures it was trained on",
}


def run(stage: Stage) -> None:
    """Train on the train split, set thresholds on val, measure on the people of test."""
    p, name = getattr(stage.params.recognizer, str(stage.item)), f"recognizer-{stage.item}"
    threads = stage.params.machine.threads
    learned, held_out, unseen = (Faces.open(stage.root / "data/faces", split) for split in ("train", "val", "test"))
    out = f"data/models/{name}"
    try:
        rows = known_people(learned.identity)[0] if p.source is None else np.arange(len(learned))
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: no recogniser: {error}\n")
        with stage.output(out) as folder:
            write_absence(folder, str(error))
        return
    model = None
    if p.source is None:
        accelerator = make_accelerator(stage.device, stage.dtype)
        data = FaceSet(learned, device=accelerator.device, threads=threads)
        model = trained(stage, data, p, name=str(stage.item), scratch=stage.scratch, accelerator=accelerator)
    with stage.output(out) as folder:
        if model is None:
            sys.stderr.write(f"facegen: {stage.name}: licence of {p.source}: {LICENCE[True]}\n")
            published = stage.root / p.source  # or where it says, if it is absolute
            open_onnx(published, threads=threads)  # raises if it is no recogniser
            shutil.copyfile(published, folder / ONNX)
        else:
            write_network(folder, model, scratch=stage.scratch)
        mean = mean_landmarks(learned.landmarks[rows], resolution=learned.resolution)
        start = {"mean_landmarks": mean, "thresholds": {}}
        embedder = FaceEmbedder(folder / ONNX, name=name, about=start, threads=threads)
        about = described(embedder, source=p.source)
        accuracy = measured(stage, embedder, {"val": held_out, "test": unseen}, about)
        write_json(folder / ABOUT, about)
        write_json(folder / ACCURACY, accuracy)
    stage.metrics({k: v["value"] for k, v in accuracy.items() if isinstance(v, dict) and "value" in v})
    stage.model(out)


def trained(
    stage: Stage, data: TrainingPictures, p: RecognizerTraining, *, name: str, scratch: Path,
    accelerator: Accelerator, prefix: str = "",
) -> FaceRecognizer:  # fmt: skip
    """Train it by the recipe of params.yaml.

    Args:
        data: what it learns from.
        p: network and recipe.
        name: of the draws (weights, order, variation): equal names draw alike.
        scratch: the folder of checkpoints and log.
        prefix: of the names of the logged figures.
    """
    seed = stage.params.base.seed
    model = drawn(p, seed=seed, name=name).to(accelerator.device, memory_format=torch.channels_last)
    recipe = RecognizerRecipe(
        seed=seed, name=name, margin=p.margin, margin_size=p.margin_size, scale=p.scale,
        total_images=p.total_images, learning_rate=p.learning_rate, weight_decay=p.weight_decay,
    )  # fmt: skip
    train(
        RecognizerLearner(model, data, recipe), total_images=p.total_images, batch_size=p.batch_size,
        scratch=scratch, identity={"key": stage.key}, log_images=max(1, p.total_images // LOG_INTERVALS),
        checkpoint_images=max(1, p.total_images // 4), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log(
            {f"{prefix}{key}": value for key, value in {**record, **timing}.items()}, step=int(record["images"])
        ),
    )  # fmt: skip
    return model.eval()


def drawn(p: RecognizerTraining, *, seed: int, name: str) -> FaceRecognizer:
    """Return the network as it is before training."""
    model = FaceRecognizer(
        width=p.width, depths=list(p.depths), stem_stride=p.stem_stride, embedding_size=p.embedding_size
    )
    draw_weights(model, torch_generator(seed, f"recognizer {name} weights"))
    return model


def write_network(folder: Path, model: FaceRecognizer, *, scratch: Path) -> None:
    """Write the network, as ONNX and as diffusers does, and the log of its training."""
    atomic_write_bytes(folder / ONNX, onnx_bytes(model))
    model.save_pretrained(folder)
    write_log_csv(folder / "log.csv", read_log(scratch))


def write_absence(folder: Path, reason: str) -> None:
    """Write a recogniser's folder that holds none."""
    write_json(folder / ABOUT, {"absent": reason})
    write_json(folder / ACCURACY, {"absent": reason})


def described(embedder: FaceEmbedder, *, source: str | None) -> dict[str, Any]:
    """Return what recognizer.json says of a recogniser, but for its thresholds."""
    return {
        "mean_landmarks": embedder.mean_landmarks.tolist(),
        "thresholds": {},
        "input_size": embedder.input_size,
        "embedding_size": embedder.dim,
        "source": source,
        "licence": LICENCE[source is not None],
    }


def measured(stage: Stage, embedder: FaceEmbedder, splits: dict[str, Faces], about: dict[str, Any]) -> dict[str, Any]:
    """Return accuracy.json, and put the thresholds into `about`: those of mean landmarks, as generated pictures have."""
    reports, threads, seed = {}, stage.params.machine.threads, stage.params.base.seed
    rows = {name: np.flatnonzero(faces.identity >= 0) for name, faces in splits.items()}
    identity = {name: faces.identity[rows[name]] for name, faces in splits.items()}
    for by_landmarks in (False, True):
        vectors = {
            name: embed_faces(embedder, faces, rows[name], by_landmarks=by_landmarks, threads=threads)
            for name, faces in splits.items()
        }
        if not by_landmarks:
            generator = numpy_generator(seed, "recognizer thresholds")
            about["thresholds"], about["threshold_from"] = accept_thresholds(vectors, identity, rng=generator)
        try:
            generator = numpy_generator(seed, "recognizer pairs")
            reports[by_landmarks] = verification_report(vectors["test"], identity["test"], rng=generator)
        except ValueError as error:
            sys.stderr.write(f"facegen: {stage.name}: not verified: {error}\n")
            return {"absent": f"the test split: {error}"}
    return {**reports[False], "threshold_from": about["threshold_from"], "aligned_by_landmarks": reports[True]}


if __name__ == "__main__":
    main(run)
