"""Train the upscaler: data/faces-large, autoencoder, judge-a -> data/models/upscaler.

Where no source picture is large enough there is no upscaler, and the folder says so.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image

from facegen.artifacts import write_json
from facegen.data.shards import Faces
from facegen.grids import image_grid, save_png
from facegen.metrics.reconstruction import psnr_db
from facegen.models.autoencoder import Autoencoder, load_autoencoder
from facegen.models.discriminator import PatchDiscriminator
from facegen.models.initialize import draw_weights
from facegen.models.judges import load_judge
from facegen.models.upscaler import SCALE, ResidualUpscaler, draw_upscaler_weights
from facegen.rng import torch_generator
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from facegen.train.upscaler import PairSet, UpscalerLearner, UpscalerRecipe, reduced, round_trips
from facegen.upscaling import ABOUT, FaceUpscaler, lanczos
from pipelines.stage import Stage, main

OUT = "data/models/upscaler"
SHOWN = 6  # pictures of the preview
MEASURED = 64  # pictures of the test split, at most, behind the figures
DISCRIMINATOR_WIDTH = 32


def run(stage: Stage) -> None:
    """Train on the large pictures of the train split; measure and show some of the test split."""
    learned, held_out = (Faces.open(stage.root / "data/faces-large", split) for split in ("train", "test"))
    if not len(learned):
        reason = "no training picture has a source large enough for preprocess.large_resolution"
        sys.stderr.write(f"facegen: {stage.name}: no upscaler: {reason}\n")
        with stage.output(OUT) as folder:
            write_json(folder / ABOUT, {"absent": reason})
        return
    vae = load_autoencoder(stage.root / "data/models/autoencoder").requires_grad_(False)
    vae = vae.to(stage.device, memory_format=torch.channels_last)
    upscaler = trained(stage, learned, vae)
    with stage.output(OUT) as folder:
        if stage.is_main:
            upscaler.save_pretrained(folder)
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
            figures, rows = measured(stage, upscaler, vae, held_out)
            write_json(folder / ABOUT, figures)
            if len(rows):
                save_png(folder / "enlargements.png", grid(rows, figures))
            stage.metrics(figures)
    if len(held_out):
        stage.picture(stage.root / OUT / "enlargements.png")
    stage.model(OUT)


def trained(stage: Stage, faces: Faces, vae: Autoencoder) -> ResidualUpscaler:
    """Train it by the recipe of params.yaml; returns the averaged weights."""
    p, seed = stage.params.upscaler, stage.params.base.seed
    accelerator = make_accelerator(stage.device, stage.dtype)
    place = {"device": accelerator.device, "memory_format": torch.channels_last}
    truths = FaceSet(faces, device=accelerator.device, threads=stage.params.machine.threads)
    data = PairSet(truths, vae.to(accelerator.device), scale=SCALE, dtype=stage.dtype)
    upscaler = ResidualUpscaler(
        scale=SCALE, width=p.width, growth=p.growth, layers_per_block=p.layers_per_block, num_blocks=p.num_blocks,
        resolution=data.side,
    )  # fmt: skip
    draw_upscaler_weights(upscaler, torch_generator(seed, "upscaler weights"))
    judge = discriminator = None
    if p.perceptual_weight:
        judge = load_judge(stage.root / "data/models/judge-a").to(**place)
    if p.adversarial_weight:
        discriminator = PatchDiscriminator(width=DISCRIMINATOR_WIDTH)
        draw_weights(discriminator, torch_generator(seed, "upscaler discriminator weights"))
        discriminator = discriminator.to(**place)
    recipe = UpscalerRecipe(
        seed=seed, total_images=p.total_images, learning_rate=p.learning_rate, warmup_images=p.warmup_images,
        decay_fraction=p.decay_fraction, grad_clip=p.grad_clip, ema_sigma_rel=p.ema_sigma_rel, patch_px=p.patch_px,
        round_trip_share=p.round_trip_share, l1_weight=p.l1_weight, perceptual_weight=p.perceptual_weight,
        adversarial_weight=p.adversarial_weight, adversarial_start=p.adversarial_start,
    )  # fmt: skip
    learner = UpscalerLearner(upscaler.to(**place), data, recipe, judge=judge, discriminator=discriminator)
    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=stage.scratch,
        identity={"key": stage.key}, log_images=p.log_images, checkpoint_images=p.checkpoint_images,
        checkpoint_minutes=p.checkpoint_minutes, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    return learner.released()


def measured(
    stage: Stage, upscaler: ResidualUpscaler, vae: Autoencoder, faces: Faces
) -> tuple[dict[str, float], np.ndarray]:
    """Return figures over the first test pictures, and (4, SHOWN, T, T, 3) of input, Lanczos, upscaler and truth."""
    threads = stage.params.machine.threads
    truths = faces.images(np.arange(min(MEASURED, len(faces))), threads=threads)
    if not len(truths):
        return {"images": 0.0}, np.empty(0)
    inputs = round_trips(vae, reduced(truths, SCALE, threads=threads), dtype=stage.dtype)
    made, plain = FaceUpscaler(upscaler, device=stage.device).upscale(inputs), lanczos(inputs, SCALE)
    ratios = {"psnr_db": psnr_db(truths, made), "lanczos_psnr_db": psnr_db(truths, plain)}
    figures = {"images": float(len(truths)), **{name: float(values.mean()) for name, values in ratios.items()}}
    enlarged = inputs.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    return figures, np.stack([enlarged, plain, made, truths])[:, :SHOWN]


def grid(rows: np.ndarray, figures: dict[str, float]) -> Image.Image:
    """Return inputs (enlarged pixel by pixel) over what is made of them and the truth."""
    return image_grid(
        rows,
        row_labels=["input", "Lanczos", "upscaler", "truth"],
        title=f"Test pictures after the autoencoder, enlarged: {figures['psnr_db']:.2f} dB, "
        f"Lanczos {figures['lanczos_psnr_db']:.2f} dB",
    )


if __name__ == "__main__":
    main(run)
