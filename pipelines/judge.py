"""Train an attribute judge on the faces: data/faces -> data/models/judge-ITEM (a: perceptual features too)."""

from __future__ import annotations

import torch

from facegen.artifacts import write_json
from facegen.data.shards import Faces
from facegen.models.initialize import draw_weights
from facegen.models.judge import AttributeJudge
from facegen.rng import torch_generator
from facegen.train.faces import FaceSet
from facegen.train.judge import JudgeLearner, JudgeRecipe, balanced_accuracy, best_thresholds, predict
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

LOG_INTERVALS = 20  # lines in the log of one training


def run(stage: Stage) -> None:
    """Train on the train split, set thresholds on val, measure on test."""
    p, device, dtype = getattr(stage.params.judge, str(stage.item)), stage.device, stage.dtype
    accelerator, threads = make_accelerator(device, dtype), stage.params.machine.threads
    learned, held_out, unseen = (
        FaceSet(Faces.open(stage.root / "data/faces", split), device=accelerator.device, threads=threads)
        for split in ("train", "val", "test")
    )
    names, seed = list(learned.faces.attribute_names), stage.params.base.seed
    judge = AttributeJudge(attribute_names=names, width=p.width)
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
    judge.eval()
    thresholds = best_thresholds(
        predict(judge, held_out, batch_size=p.batch_size, dtype=dtype), held_out.attributes.numpy()
    )
    judge.register_to_config(thresholds=[round(t, 2) for t in thresholds])
    said = predict(judge, unseen, batch_size=p.batch_size, dtype=dtype)
    accuracies = balanced_accuracy(said, unseen.attributes.numpy(), thresholds)
    figures = {"balanced_accuracy": dict(zip(names, accuracies, strict=True)), "images": len(unseen)}
    with stage.output(f"data/models/judge-{stage.item}") as folder:
        judge.save_pretrained(folder)
        if stage.is_main:
            write_json(folder / "accuracy.json", figures)
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
    known = [a for a in accuracies if a is not None]
    stage.metrics({"balanced_accuracy": sum(known) / max(len(known), 1)})
    stage.model(f"data/models/judge-{stage.item}")


if __name__ == "__main__":
    main(run)
