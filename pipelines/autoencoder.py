"""Train, fetch, or fetch and fine-tune the autoencoder: data/faces, judge-a -> data/models/autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facegen.artifacts import write_json
from facegen.data.images import to_uint8, to_unit
from facegen.data.shards import Faces
from facegen.grids import image_grid, save_png
from facegen.metrics.reconstruction import psnr_db, ssim
from facegen.models.autoencoder import Autoencoder, build_autoencoder, load_autoencoder
from facegen.models.discriminator import PatchDiscriminator
from facegen.models.initialize import draw_weights
from facegen.models.judges import load_judge
from facegen.rng import torch_generator
from facegen.train.autoencoder import AutoencoderLearner, AutoencoderRecipe, reconstruct
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

GRID_COLUMNS = 12
GRID_BLOCKS = 2  # rows of originals, each over its row of reconstructions
GRID_SIDE_PX = 128  # at least, after enlargement
DISCRIMINATOR_WIDTH = 32


def run(stage: Stage) -> None:
    """Make the autoencoder by `autoencoder.mode`, and measure it on the test split."""
    p, device, dtype = stage.params.autoencoder, stage.device, stage.dtype
    vae = first_autoencoder(stage)
    if p.mode != "pretrained":
        vae = trained(stage, vae)
    vae = vae.to(device, memory_format=torch.channels_last).eval()
    faces = Faces.open(stage.root / "data/faces", "test")
    with stage.output("data/models/autoencoder") as folder:
        vae.save_pretrained(folder)
        if p.mode != "pretrained" and stage.is_main:
            write_log_csv(folder / "log.csv", read_log(stage.scratch))
        if stage.is_main:
            figures = measured(stage, vae, faces, folder, dtype)
            write_json(folder / "reconstruction.json", figures)
            stage.metrics({"psnr_db": figures["psnr_db"], "ssim": figures["ssim"]})
    stage.picture(stage.root / "data/models/autoencoder/reconstructions.png")
    stage.model("data/models/autoencoder")


def first_autoencoder(stage: Stage) -> Autoencoder:
    """Return the autoencoder that training starts from, or the published one."""
    p = stage.params.autoencoder
    if p.mode != "train":
        if p.source is None:
            raise ValueError(f"autoencoder.mode is {p.mode}, which needs autoencoder.source: a hub id or a folder")
        local = Path(p.source) if Path(p.source).is_absolute() else stage.root / p.source
        return load_autoencoder(local if local.is_dir() else p.source)
    vae = build_autoencoder(
        architecture=p.architecture, channels=p.channels, layers_per_block=p.layers_per_block,
        latent_channels=p.latent_channels,
    )  # fmt: skip
    draw_weights(vae, torch_generator(stage.params.base.seed, "autoencoder weights"))
    return vae


def trained(stage: Stage, vae: Autoencoder) -> Autoencoder:
    """Train it by the recipe of params.yaml; returns the averaged weights."""
    p, seed = stage.params.autoencoder, stage.params.base.seed
    accelerator = make_accelerator(stage.device, stage.dtype)
    place = {"device": accelerator.device, "memory_format": torch.channels_last}
    data = FaceSet(
        Faces.open(stage.root / "data/faces", "train"), device=accelerator.device, threads=stage.params.machine.threads
    )
    judge = discriminator = None
    if p.perceptual_weight:
        judge = load_judge(stage.root / "data/models/judge-a").to(**place)
    if p.adversarial_weight:
        discriminator = PatchDiscriminator(width=DISCRIMINATOR_WIDTH)
        draw_weights(discriminator, torch_generator(seed, "discriminator weights"))
        discriminator = discriminator.to(**place)
    recipe = AutoencoderRecipe(
        seed=seed, mode=p.mode, total_images=p.total_images, learning_rate=p.learning_rate,
        warmup_images=p.warmup_images, decay_fraction=p.decay_fraction, grad_clip=p.grad_clip,
        ema_sigma_rel=p.ema_sigma_rel, l1_weight=p.l1_weight, mse_weight=p.mse_weight,
        perceptual_weight=p.perceptual_weight,
        kl_weight=p.kl_weight, adversarial_weight=p.adversarial_weight, adversarial_start=p.adversarial_start,
    )  # fmt: skip
    learner = AutoencoderLearner(vae.to(**place), data, recipe, judge=judge, discriminator=discriminator)
    train(
        learner, total_images=p.total_images, batch_size=p.batch_size, scratch=stage.scratch,
        identity={"key": stage.key}, log_images=p.log_images, checkpoint_images=p.checkpoint_images,
        checkpoint_minutes=p.checkpoint_minutes, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
    )  # fmt: skip
    return learner.released()


def measured(stage: Stage, vae: Autoencoder, faces: Faces, folder: Path, dtype: torch.dtype) -> dict[str, float]:
    """Reconstruct the test split; writes the grid of its first pictures and returns the figures over all of it."""
    batch, threads = stage.params.autoencoder.batch_size, stage.params.machine.threads
    ratios, similarities, shown = [], [], []
    for start in stage.progress(range(0, len(faces), batch), "test reconstructions"):
        images = faces.images(np.arange(start, min(start + batch, len(faces))), threads=threads)
        unit = to_unit(images).to(vae.device, memory_format=torch.channels_last)
        pictures = to_uint8(reconstruct(vae, unit, dtype=dtype))
        ratios.append(psnr_db(images, pictures))
        similarities.append(ssim(images, pictures))
        shown.append(np.stack([images, pictures])[:, : GRID_COLUMNS * GRID_BLOCKS])
    figures = {"psnr_db": mean(ratios), "ssim": mean(similarities), "images": len(faces)}
    pairs = np.concatenate(shown, axis=1)[:, : GRID_COLUMNS * GRID_BLOCKS]
    save_png(folder / "reconstructions.png", grid(pairs, figures))
    return figures


def mean(parts: list[np.ndarray]) -> float:
    """The mean over all images, in float64."""
    return float(np.concatenate(parts).mean())


def grid(pairs: np.ndarray, figures: dict[str, float]) -> Image.Image:
    """Return originals over reconstructions from uint8 (2, N, H, W, 3)."""
    count = pairs.shape[1]
    columns = min(GRID_COLUMNS, count)
    blocks = count // columns
    cells = pairs[:, : blocks * columns].reshape(2, blocks, columns, *pairs.shape[2:]).swapaxes(0, 1)
    return image_grid(
        cells.reshape(2 * blocks, columns, *pairs.shape[2:]),
        row_labels=["original", "reconstruction"] * blocks,
        title=f"Reconstructions of the test split: {figures['psnr_db']:.2f} dB, SSIM {figures['ssim']:.3f}",
        scale=max(1, -(-GRID_SIDE_PX // pairs.shape[2])),
        group_rows=2,
    )


if __name__ == "__main__":
    main(run)
