"""Train a small face detector, or take a published one: data/scenes -> data/models/detector (ONNX, as SCRFD's are).

Where there are no scenes to learn from there is no detector, and the folder says so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from facegen.artifacts import atomic_write_bytes, read_json, write_json
from facegen.data.scenes import Scenes
from facegen.face_detector import FaceDetector
from facegen.metrics.detection import detection_figures, pairs, point_error
from facegen.models.face_finder import FaceFinder, face_boxes, fitting_input_size, onnx_bytes
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator
from facegen.train.face_finder import FaceFinderLearner, FaceFinderRecipe, SceneSet
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

OUT, ONNX, ABOUT = "data/models/detector", "detector.onnx", "detector.json"
LOG_INTERVALS = 20  # lines in the log of one training
SOFT = 0.5  # density at which pictures are shown to it a second time: generated ones are softer than drawn ones
LICENCE = {
    True: "that of the published file; insightface's model packs are for non-commercial research only",
    False: "that of the pictures it was trained on",
}


def run(stage: Stage) -> None:
    """Train on the train split, measure on the people of test."""
    source, threads = stage.params.detector.source, stage.params.machine.threads
    reason = absence(stage.root / "data/scenes")
    if source is None and reason is not None:
        sys.stderr.write(f"facegen: {stage.name}: no detector: {reason}\n")
        with stage.output(OUT) as folder:
            write_json(folder / ABOUT, {"absent": reason})
        return
    model = trained(stage) if source is None else None
    with stage.output(OUT) as folder:
        if model is None:
            sys.stderr.write(f"facegen: {stage.name}: licence of {source}: {LICENCE[True]}\n")
            published = stage.root / str(source)  # or where it says, if it is absolute
            if not published.is_file():
                raise FileNotFoundError(f"detector.source: {published} is no file; expected an SCRFD network (.onnx)")
            FaceDetector.open(published, threads=threads)  # raises if it is no detector
            shutil.copyfile(published, folder / ONNX)
        else:
            atomic_write_bytes(folder / ONNX, onnx_bytes(model))
            model.save_pretrained(folder)
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
        about: dict[str, Any] = {"source": source, "licence": LICENCE[source is not None]}
        if reason is None:
            detector = FaceDetector.open(folder / ONNX, threads=threads)
            about |= measured(detector, Scenes.open(stage.root / "data/scenes", "test"), threads=threads)
        else:
            about |= {"test": {"absent": reason}, "test_soft": {"absent": reason}}
        write_json(folder / ABOUT, about)
    stage.metrics({k: v["value"] for k, v in about["test"].items() if isinstance(v, dict)})
    stage.model(OUT)


def absence(folder: Path) -> str | None:
    """Return why a scenes folder holds no scenes, or None if it does."""
    about = folder / "scenes.json"
    reason = read_json(about).get("absent") if about.is_file() else None
    return None if reason is None else str(reason)


def trained(stage: Stage) -> FaceFinder:
    """Train it by the recipe of params.yaml."""
    p, seed = stage.params.detector, stage.params.base.seed
    accelerator = make_accelerator(stage.device, stage.dtype)
    scenes = Scenes.open(stage.root / "data/scenes", "train")
    finder = FaceFinder(width=p.width, input_size=fitting_input_size(scenes.size))
    draw_weights(finder, torch_generator(seed, "face finder weights"))
    finder.start_at_usual_faces()
    finder = finder.to(accelerator.device, memory_format=torch.channels_last)
    data = SceneSet(
        scenes, input_size=finder.config.input_size, device=accelerator.device, threads=stage.params.machine.threads
    )
    recipe = FaceFinderRecipe(seed=seed, total_images=p.total_images, learning_rate=p.learning_rate)
    train(
        FaceFinderLearner(finder, data, recipe), total_images=p.total_images, batch_size=p.batch_size,
        scratch=stage.scratch, identity={"key": stage.key}, log_images=max(1, p.total_images // LOG_INTERVALS),
        checkpoint_images=max(1, p.total_images // 4), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    return finder.eval()


def measured(detector: FaceDetector, scenes: Scenes, *, threads: int) -> dict[str, Any]:
    """Return the figures of the scenes as they are, `test`, and of softer ones, `test_soft`.

    Scenes with a person whose face is not marked are left out: whatever is found there may be right.
    """
    rows = [row for row, people in enumerate(scenes.segments) if all(s.landmarks is not None for s in people)]
    true = [[s.landmarks for s in scenes.segments[row] if s.landmarks is not None] for row in rows]
    pictures = scenes.images(rows, threads=threads)
    return {
        "test": figures(detector, pictures, true),
        "test_soft": figures(detector, softened(pictures), true),
    }


def figures(detector: FaceDetector, pictures: np.ndarray, true: list[list[np.ndarray]]) -> dict[str, Any]:
    """Return recall, precision and landmark error over pictures uint8 (B, H, W, 3) with true landmarks (5, 2) each."""
    matched, num_found, errors = [], [], []
    for pixels, marked in zip(pictures, true, strict=True):
        found = sorted(detector.detect(pixels), key=lambda face: -face.score)
        boxes = face_boxes(torch.from_numpy(np.reshape(marked, (-1, 5, 2)).astype(np.float32))).numpy()
        own = pairs(np.array([face.box for face in found]).reshape(-1, 4), boxes)
        matched.append(own)
        num_found.append(len(found))
        errors += [point_error(found[a].landmarks, marked[b]) for a, b in own]
    return detection_figures(matched, num_found, [len(marked) for marked in true], errors)


def softened(pictures: np.ndarray) -> np.ndarray:
    """Return pictures reduced to half their density and enlarged again."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    small = F.interpolate(pixels, scale_factor=SOFT, mode="bilinear", antialias=True)
    back = F.interpolate(small, size=tuple(pixels.shape[2:]), mode="bilinear")
    return back.permute(0, 2, 3, 1).contiguous().numpy()


if __name__ == "__main__":
    main(run)
