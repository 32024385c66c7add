"""Train a face recogniser, or take a published one: data/faces -> data/models/recognizer-ITEM (ONNX).

Where the data name no people there is no recogniser, and the folder says so.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

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
from facegen.train.recognizer import RecognizerLearner, RecognizerRecipe, known_people, mean_landmarks
from pipelines.stage import Stage, main

LOG_INTERVALS = 20  # lines in the log of one training
LICENCE = {
    True: "that of the published file; insightface's model packs are for non-commercial research only",
    False: "that of the pictures it was trained on",
}


def run(stage: Stage) -> None:
    """Train on the train split, set thresholds on val, measure on the people of test."""
    p, threads = getattr(stage.params.recognizer, str(stage.item)), stage.params.machine.threads
    learned, held_out, unseen = (Faces.open(stage.root / "data/faces", split) for split in ("train", "val", "test"))
    out = f"data/models/recognizer-{stage.item}"
    try:
        rows = known_people(learned.identity)[0] if p.source is None else np.arange(len(learned))
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: no recogniser: {error}\n")
        with stage.output(out) as folder:
            write_json(folder / ABOUT, {"absent": str(error)})
            write_json(folder / "accuracy.json", {"absent": str(error)})
        return
    model = trained(stage, learned) if p.source is None else None
    with stage.output(out) as folder:
        if model is None:
            sys.stderr.write(f"facegen: {stage.name}: licence of {p.source}: {LICENCE[True]}\n")
            published = stage.root / p.source  # or where it says, if it is absolute
            open_onnx(published, threads=threads)  # raises if it is no recogniser
            shutil.copyfile(published, folder / ONNX)
        else:
            atomic_write_bytes(folder / ONNX, onnx_bytes(model))
            model.save_pretrained(folder)
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
        mean = mean_landmarks(learned.landmarks[rows], resolution=learned.resolution).tolist()
        about: dict[str, Any] = {"mean_landmarks": mean, "thresholds": {}}
        embedder = FaceEmbedder(folder / ONNX, name=f"recognizer-{stage.item}", about=about, threads=threads)
        about |= {"input_size": embedder.input_size, "embedding_size": embedder.dim, "source": p.source}
        about |= {"licence": LICENCE[p.source is not None]}
        accuracy = measured(stage, embedder, {"val": held_out, "test": unseen}, about)
        write_json(folder / ABOUT, about)
        write_json(folder / "accuracy.json", accuracy)
    stage.metrics({k: v["value"] for k, v in accuracy.items() if isinstance(v, dict) and "value" in v})
    stage.model(out)


def trained(stage: Stage, faces: Faces) -> FaceRecognizer:
    """Train it by the recipe of params.yaml."""
    p, seed = getattr(stage.params.recognizer, str(stage.item)), stage.params.base.seed
    accelerator = make_accelerator(stage.device, stage.dtype)
    data = FaceSet(faces, device=accelerator.device, threads=stage.params.machine.threads)
    model = FaceRecognizer(
        width=p.width, depths=list(p.depths), stem_stride=p.stem_stride, embedding_size=p.embedding_size
    )
    draw_weights(model, torch_generator(seed, f"recognizer {stage.item} weights"))
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    recipe = RecognizerRecipe(
        seed=seed, name=str(stage.item), margin=p.margin, margin_size=p.margin_size, scale=p.scale,
        total_images=p.total_images, learning_rate=p.learning_rate, weight_decay=p.weight_decay,
    )  # fmt: skip
    train(
        RecognizerLearner(model, data, recipe), total_images=p.total_images, batch_size=p.batch_size,
        scratch=stage.scratch, identity={"key": stage.key}, log_images=max(1, p.total_images // LOG_INTERVALS),
        checkpoint_images=max(1, p.total_images // 4), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    return model.eval()


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
