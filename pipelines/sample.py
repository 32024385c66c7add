"""Sample the trained LatentDiT: eval/samples/dit.parquet and the grids beside it, as facegen/data/samples.py describes them."""

from __future__ import annotations

import torch

from facegen.data.latents import Latents
from facegen.data.samples import write_samples
from facegen.grids import save_png
from facegen.pipeline import FacePipeline
from facegen.sample_sets import generate, grids, requests
from pipelines.stage import Stage, main


def run(stage: Stage) -> None:
    p, device, dtype = stage.params.sample, stage.device, stage.dtype
    pipe = FacePipeline.from_models(
        stage.root / "data/models", scheduler=p.scheduler, shift=p.time_shift, num_inference_steps=p.num_steps,
        guidance_scale=p.guidance_scale, guidance_interval=list(p.guidance_interval),
    ).to(device)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    table = requests(
        Latents.open(stage.root / "data/latents", "train").attributes, pipe.attribute_names, seed=stage.params.base.seed,
        num_images=p.num_images, num_pairs=p.num_pairs, strengths=p.strengths, guidance_scale=p.guidance_scale,
        num_columns=p.grid_columns,
    )  # fmt: skip
    bar = stage.progress(len(table.seeds), "images")
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        images = generate(pipe, table, batch_size=p.batch_size, on_images=bar.update)
    bar.close()
    with stage.output("eval/samples") as folder:
        write_samples(
            folder / "dit.parquet", seeds=table.seeds, attributes=table.attributes, images_uint8=images,
            sets=table.sets, attribute_names=pipe.attribute_names,
        )  # fmt: skip
        pictures = grids(table, images, pipe.attribute_names, strengths=p.strengths, num_columns=p.grid_columns)
        for name, picture in pictures.items():
            save_png(folder / f"{name}.png", picture)
    for path in sorted((stage.root / "eval/samples").glob("*.png")):
        stage.picture(path)


if __name__ == "__main__":
    main(run)
