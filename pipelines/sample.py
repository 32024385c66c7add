"""Sample every generator: eval/samples/{dit,gan,gan-unconditional}.parquet (facegen/data/samples.py) and the DiT's grids."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from facegen.attributes import UNKNOWN
from facegen.data.latents import Latents
from facegen.data.samples import PRIOR, write_samples
from facegen.gan_sampling import generate as generate_with_gan
from facegen.gan_sampling import load_generator
from facegen.grids import save_png
from facegen.models.dit import LatentDiT
from facegen.pipeline import FacePipeline
from facegen.sample_sets import RELEASED, Requests, curve_requests, generate, grids, picture_requests, requests
from pipelines.stage import Stage, main

SNAPSHOT = re.compile(r"snapshot-(\d+)")


def run(stage: Stage) -> None:
    p, seed = stage.params.sample, stage.params.base.seed
    train = Latents.open(stage.root / "data/latents", "train")
    names = list(train.attribute_names)
    table = requests(
        train.attributes, names, seed=seed, num_images=p.num_images, num_pairs=p.num_pairs,
        guidance_scale=p.guidance_scale, num_steps=p.num_steps,
    )  # fmt: skip
    pictures = picture_requests(
        train.attributes, names, seed=seed, strengths=p.strengths, guidance_scale=p.guidance_scale,
        num_steps=p.num_steps, num_columns=p.grid_columns,
    )  # fmt: skip
    curves = curve_requests(
        table, names, guidance=p.curve_guidance, num_pairs=p.curve_pairs, steps=p.curve_steps,
        images_seen=sorted(snapshots(stage)), num_images=p.curve_images,
    )  # fmt: skip
    all_of_dit = Requests.joined([table, pictures, curves])
    images = sample_dit(stage, all_of_dit)
    with stage.output("eval/samples") as folder:
        write(folder / "dit.parquet", all_of_dit, images, names)
        drawn = grids(all_of_dit, images, names, strengths=p.strengths, num_columns=p.grid_columns)
        for name, picture in drawn.items():
            save_png(folder / f"{name}.png", picture)
        write(folder / "gan.parquet", table, sample_gan(stage, "conditional", table), names)
        prior = table.of(PRIOR)
        prior = replace(prior, attributes=np.full_like(prior.attributes, UNKNOWN))  # nothing can be asked of it
        write(folder / "gan-unconditional.parquet", prior, sample_gan(stage, "unconditional", prior), names)
    for path in sorted((stage.root / "eval/samples").glob("*.png")):
        stage.picture(path)


def write(path: Path, table: Requests, images: np.ndarray, names: list[str]) -> None:
    write_samples(
        path, seeds=table.seeds, attributes=table.attributes, images_uint8=images, sets=table.sets,
        attribute_names=names,
    )  # fmt: skip


def snapshots(stage: Stage) -> dict[int, Path]:
    """Return the folders of the weights along the training, by images seen."""
    folders = (stage.root / "data/models/dit").glob("snapshot-*")
    return {int(match[1]): path for path in folders if (match := SNAPSHOT.fullmatch(path.name))}


def sample_dit(stage: Stage, table: Requests) -> np.ndarray:
    """Return the LatentDiT's answers, uint8 (N, H, H, 3)."""
    p, device, dtype, found = stage.params.sample, stage.device, stage.dtype, snapshots(stage)
    pipe = FacePipeline.from_models(
        stage.root / "data/models", scheduler=p.scheduler, shift=p.time_shift, num_inference_steps=p.num_steps,
        guidance_scale=p.guidance_scale, guidance_interval=list(p.guidance_interval),
    ).to(device)  # fmt: skip
    released = pipe.transformer

    @lru_cache(maxsize=1)  # called in runs of one model
    def pipe_of(images_seen: int) -> FacePipeline:
        weights = released
        if images_seen != RELEASED:
            weights = LatentDiT.from_pretrained(found[images_seen]).to(device)
        pipe.register_modules(transformer=weights)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    bar = stage.progress(len(table.seeds), "LatentDiT")
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        images = generate(pipe_of, table, batch_size=p.batch_size, on_images=bar.update)
    bar.close()
    return images


def sample_gan(stage: Stage, name: str, table: Requests) -> np.ndarray:
    """Return a DCGAN's answers, uint8 (N, H, H, 3)."""
    bar = stage.progress(len(table.seeds), f"DCGAN, {name}")
    images = generate_with_gan(
        load_generator(stage.root / f"data/models/gan-{name}").to(stage.device), table.attributes, table.seeds,
        batch_size=stage.params.sample.batch_size, device=stage.device, on_images=bar.update,
    )  # fmt: skip
    bar.close()
    return images


if __name__ == "__main__":
    main(run)
