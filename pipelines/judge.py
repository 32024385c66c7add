"""Train an attribute judge on the faces: data/faces -> data/models/judge-ITEM (a: perceptual features; b: measures)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from facegen.artifacts import write_json
from facegen.data.shards import Faces
from facegen.metrics.classification import attribute_figures, curve_tables
from facegen.models.initialize import draw_weights
from facegen.models.judges import Judge, build_judge
from facegen.rng import torch_generator
from facegen.train.faces import FaceSet
from facegen.train.judge import JudgeLearner, JudgeRecipe, best_thresholds, fit_temperatures, predict
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

LOG_INTERVALS = 20  # lines in the log of one training
MEANS = ("balanced_accuracy", "auroc", "calibration_error", "calibration_error_uncalibrated")


def run(stage: Stage) -> None:
    """Train on the train split, set temperatures and thresholds on val, measure on test."""
    path = f"data/models/judge-{stage.item}"
    if not Faces.open(stage.root / "data/faces", "train").attribute_names:
        with stage.output(path) as folder:
            if stage.is_main:
                write_json(folder / "accuracy.json", {"absent": "the data name no attributes"})
        return
    p, device, dtype = getattr(stage.params.judge, str(stage.item)), stage.device, stage.dtype
    accelerator, threads = make_accelerator(device, dtype), stage.params.machine.threads
    learned, held_out, unseen = (
        FaceSet(Faces.open(stage.root / "data/faces", split), device=accelerator.device, threads=threads)
        for split in ("train", "val", "test")
    )
    seed = stage.params.base.seed
    judge = build_judge(p.architecture, attribute_names=learned.faces.attribute_names, width=p.width)
    draw_weights(judge, torch_generator(seed, f"judge {stage.item} weights"))
    judge = judge.to(accelerator.device, memory_format=torch.channels_last)
    recipe = JudgeRecipe(
        seed=seed, name=str(stage.item), total_images=p.total_images, learning_rate=p.learning_rate,
        weight_decay=p.weight_decay,
    )  # fmt: skip
    train(
        JudgeLearner(judge, learned, recipe), total_images=p.total_images, batch_size=p.batch_size,
        scratch=stage.scratch, identity={"key": stage.key}, log_images=max(1, p.total_images // LOG_INTERVALS),
        checkpoint_images=max(1, p.total_images // 4), checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    set_decisions(judge.eval(), held_out, batch_size=p.batch_size)
    figures, curves = measured(judge, unseen, batch_size=p.batch_size)
    with stage.output(path) as folder:
        judge.save_pretrained(folder)
        if stage.is_main:
            write_json(folder / "accuracy.json", figures)
            write_json(folder / "curves.json", curves)
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
    stage.metrics({name: value for name, value in figures["mean"].items() if value is not None})
    stage.model(path)


def set_decisions(judge: Judge, held_out: FaceSet, *, batch_size: int) -> None:
    """Write temperatures, and thresholds on the probabilities that they give, into the judge's configuration."""
    logits, states = predict(judge, held_out, batch_size=batch_size), held_out.attributes.numpy()
    temperatures = [round(t, 4) for t in fit_temperatures(logits, states)]
    judge.register_to_config(temperatures=temperatures, resolution=held_out.faces.resolution)
    thresholds = best_thresholds(judge.probabilities(torch.from_numpy(logits)).numpy(), states)
    judge.register_to_config(thresholds=[round(t, 2) for t in thresholds])


def measured(judge: Judge, unseen: FaceSet, *, batch_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of accuracy.json and of curves.json."""
    logits, states = torch.from_numpy(predict(judge, unseen, batch_size=batch_size)), unseen.attributes.numpy()
    said, raw = judge.probabilities(logits).numpy(), logits.sigmoid().numpy()
    rows, curves = {}, {}
    for k, name in enumerate(judge.config.attribute_names):
        threshold, temperature = judge.config.thresholds[k], judge.config.temperatures[k]
        found = attribute_figures(said[:, k], raw[:, k], states[:, k], threshold=threshold)
        rows[name] = found | {"threshold": threshold, "temperature": temperature}
        curves[name] = curve_tables(said[:, k], states[:, k])
    return {"mean": {key: mean_of(rows, key) for key in MEANS}, "attributes": rows, "images": len(unseen)}, curves


def mean_of(rows: dict[str, dict[str, Any]], key: str) -> float | None:
    """Return the mean over the attributes that have this figure."""
    values = [row[key]["value"] if isinstance(row[key], dict) else row[key] for row in rows.values()]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


if __name__ == "__main__":
    main(run)
