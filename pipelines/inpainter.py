"""Fine-tune the LatentDiT to fill masked parts: data/faces, data/latents, models/dit -> data/models/inpainter."""

from __future__ import annotations

import torch

from facegen.data.latents import Latents
from facegen.data.shards import Faces
from facegen.models.autoencoder import load_autoencoder
from facegen.models.dit import LatentDiT, inpainting_model
from facegen.train.faces import FaceSet
from facegen.train.inpainter import InpainterLearner, InpainterRecipe, validation_mse
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from facegen.train.preview import averaged_copy
from pipelines.stage import Stage, main

VALIDATION_IMAGES = 512


def recipe_of(stage: Stage) -> InpainterRecipe:
    """Return the recipe that params.yaml states: what the section inpainter does not name is as in dit."""
    p, d, f = stage.params.inpainter, stage.params.dit, stage.params.flow
    return InpainterRecipe(
        seed=stage.params.base.seed, dtype=stage.dtype, path=f.path, time_mean=f.time_mean, time_std=f.time_std,
        laplacian_weight=f.laplacian_weight, total_images=p.total_images, learning_rate=p.learning_rate,
        warmup_images=p.warmup_images, decay_fraction=p.decay_fraction, betas=(d.betas[0], d.betas[1]),
        grad_clip=d.grad_clip, drop_all=d.drop_all, drop_some=d.drop_some, drop_identity=d.drop_identity,
        empty_share=p.empty_share, zoom_share=p.zoom_share, zoom_side=p.zoom_side, mask_weight=p.mask_weight,
        ema_sigma_rel=p.ema_sigma_rel,
    )  # fmt: skip


def learner_of(stage: Stage, split: str, model: LatentDiT, vae: torch.nn.Module) -> InpainterLearner:
    """Return the learner over a split.

    Raises:
        ValueError: if data/latents were made of other pictures.
    """
    faces, latents = Faces.open(stage.root / "data/faces", split), Latents.open(stage.root / "data/latents", split)
    if list(faces.ids) != list(latents.ids):
        raise ValueError("data/latents and data/faces hold different pictures; run the latents stage again")
    held = FaceSet(faces, device=stage.device, threads=stage.params.machine.threads)
    return InpainterLearner(model, vae, held, recipe_of(stage), latents=latents.mean, embedding=latents.embedding)


def run(stage: Stage) -> None:
    """Train from the released generator, and write the averaged weights."""
    p, device, dtype = stage.params.inpainter, stage.device, stage.dtype
    accelerator = make_accelerator(device, dtype)
    generator = LatentDiT.from_pretrained(stage.root / "data/models/dit")
    faces = Faces.open(stage.root / "data/faces", "train")
    where = (faces.landmarks.mean(axis=0) + 0.5) / faces.resolution  # (5, 2)
    model = inpainting_model(generator, mean_landmarks=where.round(4).tolist()).to(accelerator.device)
    vae = load_autoencoder(stage.root / "data/models/autoencoder").to(device, memory_format=torch.channels_last)
    learner, held_out = learner_of(stage, "train", model, vae), learner_of(stage, "val", model, vae)
    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=stage.scratch,
        identity={"key": stage.key}, log_images=p.log_images, checkpoint_images=p.checkpoint_images,
        checkpoint_minutes=p.checkpoint_minutes, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    released = averaged_copy(model, learner.ema, p.ema_sigma_rel)
    errors = {}
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for name, network in (("before", inpainting_model(generator).to(device).eval()), ("after", released)):
            errors[f"val_mse_{name}"] = validation_mse(
                held_out, network, batch_size=p.batch_size, num_images=VALIDATION_IMAGES
            )
    stage.metrics(errors)
    with stage.output("data/models/inpainter") as folder:
        released.save_pretrained(folder)
        if stage.is_main:
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
    stage.model("data/models/inpainter")


if __name__ == "__main__":
    main(run)
