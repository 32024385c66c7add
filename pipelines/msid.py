"""Train MSID, the encoder of faces of personalised pictures, or take a published one: data/faces -> data/models/msid.

The folder is a recogniser's, too (recognizer.onnx), so that identity is verified as the others'. eval/msid.json: what
linear probes read out of each depth about pose and expression, beside a plain network of the same size and schedule
that learned on its last depth alone. Where the data name no people there is no encoder, and both say so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facegen.artifacts import atomic_write_bytes, write_json
from facegen.attributes import UNKNOWN
from facegen.data.align import face_crops
from facegen.data.face_embedder import ABOUT, ONNX, FaceEmbedder
from facegen.data.shards import Faces
from facegen.metrics.leakage_probe import probe_report, within_people
from facegen.metrics.pose import yaw_pitch
from facegen.models.msid import BATCH, MSID, load_msid, onnx_bytes
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from facegen.train.recognizer import RecognizerLearner, RecognizerRecipe, known_people, mean_landmarks
from pipelines.recognizer import ACCURACY, LOG_INTERVALS, described, measured, write_absence
from pipelines.stage import Stage, main

if TYPE_CHECKING:
    from facegen.config_personalize import Msid

NAME = "msid"
OUT, REPORT = "data/models/msid", "eval/msid.json"
LICENCE = "that of the published file; Face2Diffusion's msid.pt lies beside code that is for non-commercial use only"
STATE = "Smiling"  # the attribute of expression
MAX_PROBED = 3000  # pictures of the test split that probes are fitted and tested on


def run(stage: Stage) -> None:
    """Train on the train split, set thresholds on val, verify and probe on the people of test."""
    p, threads = stage.params.msid, stage.params.machine.threads
    learned, held_out, unseen = (Faces.open(stage.root / "data/faces", split) for split in ("train", "val", "test"))
    try:
        rows = known_people(learned.identity)[0] if p.source is None else np.arange(len(learned))
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: no encoder: {error}\n")
        with stage.output(OUT) as folder:
            write_absence(folder, str(error))
        write_json(stage.root / REPORT, {"absent": str(error)})
        return
    encoders = networks(stage, p, learned)
    model = encoders["msid"]
    with stage.output(OUT) as folder:
        atomic_write_bytes(folder / ONNX, onnx_bytes(model))
        model.save_pretrained(folder)
        if p.source is None:
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
        mean = mean_landmarks(learned.landmarks[rows], resolution=learned.resolution)
        start = {"mean_landmarks": mean, "thresholds": {}}
        embedder = FaceEmbedder(folder / ONNX, name=NAME, about=start, threads=threads)
        about = described(embedder, source=p.source) | ({} if p.source is None else {"licence": LICENCE})
        accuracy = measured(stage, embedder, {"val": held_out, "test": unseen}, about)
        write_json(folder / ABOUT, about)
        write_json(folder / ACCURACY, accuracy)
    report = probed(stage, encoders, unseen)
    write_json(stage.root / REPORT, report)
    stage.metrics({k: v["value"] for k, v in accuracy.items() if isinstance(v, dict) and "value" in v})
    stage.metrics({"probes": report})
    stage.model(OUT)


def networks(stage: Stage, p: Msid, learned: Faces) -> dict[str, MSID]:
    """Return the encoder as `msid` and, where params.yaml asks for it, the one of the last depth alone as `plain`."""
    if p.source is not None:
        sys.stderr.write(f"facegen: {stage.name}: licence of {p.source}: {LICENCE}\n")
        local = stage.root / p.source  # or where it says, if it is absolute
        published = local if local.exists() or local.suffix == ".pt" else p.source  # a hub id
        return {"msid": load_msid(published, num_heads=p.num_heads)}
    data = FaceSet(learned, device=stage.device, threads=stage.params.machine.threads)
    made = {"msid": trained(stage, data, p, depths=p.depths, scratch=stage.scratch, prefix="")}
    if p.compare_plain:
        scratch = stage.scratch / "plain"
        scratch.mkdir(exist_ok=True)
        made["plain"] = trained(stage, data, p, depths=[p.depth - 1], scratch=scratch, prefix="plain_")
    return made


def trained(stage: Stage, data: FaceSet, p: Msid, *, depths: Sequence[int], scratch: Path, prefix: str) -> MSID:
    """Train an encoder by the recipe of params.yaml; whatever is read, the draws are the same.

    Args:
        depths: blocks whose class token it is read from.
        scratch: the folder of checkpoints and log.
        prefix: of the names of the logged figures.
    """
    seed, accelerator = stage.params.base.seed, make_accelerator(stage.device, stage.dtype)
    model = MSID(patch_size=p.patch_size, width=p.width, depth=p.depth, num_heads=p.num_heads, depths=list(depths))
    model.initialize(torch_generator(seed, "msid weights"))
    recipe = RecognizerRecipe(
        seed=seed, name=NAME, margin=p.margin, margin_size=p.margin_size, scale=p.scale,
        total_images=p.total_images, learning_rate=p.learning_rate, weight_decay=p.weight_decay,
    )  # fmt: skip
    train(
        RecognizerLearner(model.to(accelerator.device), data, recipe), total_images=p.total_images,
        batch_size=p.batch_size, scratch=scratch, identity={"key": stage.key, "depths": list(depths)},
        log_images=max(1, p.total_images // LOG_INTERVALS), checkpoint_images=max(1, p.total_images // 4),
        checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log(
            {f"{prefix}{key}": value for key, value in {**record, **timing}.items()}, step=int(record["images"])
        ),
    )  # fmt: skip
    return model.eval()


def probed(stage: Stage, encoders: dict[str, MSID], faces: Faces) -> dict[str, Any]:
    """Return eval/msid.json, or why there are no probes.

    For each encoder: the class token of each depth and all of them joined, before any norm, and what it puts out.
    """
    known = faces.identity >= 0
    states = {}
    if STATE in faces.attribute_names:
        states[STATE.lower()] = faces.attributes[:, faces.attribute_names.index(STATE)]
        known &= states[STATE.lower()] != UNKNOWN
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(faces.identity[rows], kind="stable")][:MAX_PROBED]
    generator = partial(numpy_generator, stage.params.base.seed, "msid probes")
    depths, people = list(encoders["msid"].depths), faces.identity[rows]
    try:
        yaw, pitch = yaw_pitch(faces.landmarks[rows]).T
        reports = {
            name: probe_report(
                told_by(model, faces, rows, depths=depths, threads=stage.params.machine.threads),
                {"yaw": within_people(yaw, people), "pitch": within_people(pitch, people)},
                {key: state[rows] for key, state in states.items()},
                people, rng=generator,
            )
            for name, model in encoders.items()
        }  # fmt: skip
    except ValueError as error:
        sys.stderr.write(f"facegen: {stage.name}: no probes: {error}\n")
        return {"absent": f"the test split: {error}"}
    num_people = len(np.unique(people))
    return {"depths": depths, "pictures": len(rows), "people": num_people, "msid": None, "plain": None, **reports}


@torch.no_grad()
def told_by(
    model: MSID, faces: Faces, rows: np.ndarray, *, depths: Sequence[int], threads: int
) -> dict[str, np.ndarray]:
    """Return features (N, D) by name: `depth_K` for each depth, `joined`, `output`."""
    parts = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        crops = face_crops(faces.images(part, threads=threads), faces.landmarks[part], size=model.image_size)
        crops = crops.to(model.device)
        tokens = model.class_tokens(crops, depths).flatten(1)
        parts.append(torch.cat([tokens, model(crops)], dim=1).float().cpu())
    found = torch.cat(parts).numpy()
    joined = found[:, : len(depths) * model.width]
    by_depth = np.split(joined, len(depths), axis=1)
    told = {f"depth_{depth}": part for depth, part in zip(depths, by_depth, strict=True)}
    return {**told, "joined": joined, "output": found[:, joined.shape[1] :]}


if __name__ == "__main__":
    main(run)
