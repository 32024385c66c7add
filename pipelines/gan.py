"""Train a DCGAN on the faces: data/faces -> data/models/gan-ITEM (ITEM: unconditional, conditional)."""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image

from facegen.data.shards import Faces
from facegen.gan_sampling import generate
from facegen.grids import fold_rows, image_grid, save_png
from facegen.models.dcgan import DCGANDiscriminator, DCGANGenerator, draw_dcgan_weights
from facegen.rng import derive_seed, numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.gan import GanLearner, GanRecipe
from facegen.train.loop import make_accelerator, read_log, train, write_log_csv
from pipelines.stage import Stage, main

NUM_GRIDS = 4  # over the training, the last one of what is released
GRID_COLUMNS, GRID_ROWS = 12, 4
GRID_SIDE_PX = 128  # at least, after enlargement
ITEMS = ("unconditional", "conditional")


def run(stage: Stage) -> None:
    """Train on the train split, with or without its attributes, and keep both networks and a grid."""
    if stage.item not in ITEMS:
        raise ValueError(f"there is no DCGAN {stage.item!r}; there are: {', '.join(ITEMS)}")
    p, seed = getattr(stage.params.gan, stage.item), stage.params.base.seed
    accelerator = make_accelerator(stage.device, stage.dtype)
    if accelerator.num_processes > 1:
        raise ValueError("the gan stage trains in one process: batch norm would see a part of the batch in each")
    data = FaceSet(
        Faces.open(stage.root / "data/faces", "train"), device=accelerator.device, threads=stage.params.machine.threads
    )
    generator, discriminator = networks(stage, data)
    recipe = GanRecipe(seed=seed, name=stage.item, learning_rate=p.learning_rate, beta1=p.beta1)

    def on_grid(images_seen: int) -> None:
        path = stage.scratch / f"grid-{images_seen:012d}.png"
        save_png(path, grid(stage, released(generator), data))
        stage.picture(path)

    train(
        GanLearner(generator, discriminator, data, recipe), total_images=p.total_images, batch_size=p.batch_size,
        scratch=stage.scratch, identity={"key": stage.key}, log_images=p.log_images,
        checkpoint_images=p.checkpoint_images, checkpoint_minutes=5, accelerator=accelerator, stop=stage.stop,
        on_log=lambda record, timing: stage.log({**record, **timing}, step=int(record["images"])),
        visits=[([p.total_images * i // NUM_GRIDS for i in range(1, NUM_GRIDS)], on_grid)],
    )  # fmt: skip
    name = f"data/models/gan-{stage.item}"
    with stage.output(name) as folder:
        released(generator).save_pretrained(folder / "generator")
        discriminator.eval().save_pretrained(folder / "discriminator")
        save_png(folder / "samples.png", grid(stage, released(generator), data))
        write_log_csv(folder / "log.csv", read_log(stage.scratch))
    stage.picture(stage.root / name / "samples.png")
    stage.model(name)


def networks(stage: Stage, data: FaceSet) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Return freshly drawn networks that fit the data; where it names no attributes, both DCGANs are unconditional."""
    p, seed = getattr(stage.params.gan, str(stage.item)), stage.params.base.seed
    names = list(data.faces.attribute_names) if stage.item == "conditional" else []
    if stage.item == "conditional" and not names:
        sys.stderr.write("gan: note: the data name no attributes: this DCGAN is unconditional too\n")
    size = {"resolution": data.faces.resolution, "width": p.width, "attribute_names": names}
    made = DCGANGenerator(**size, noise_dim=p.noise_dim), DCGANDiscriminator(**size)
    for network, part in zip(made, ("generator", "discriminator"), strict=True):
        draw_dcgan_weights(network, torch_generator(seed, f"gan {stage.item} {part} weights"))
        network.to(data.device, memory_format=torch.channels_last)
    return made


def released(generator: DCGANGenerator) -> DCGANGenerator:
    """Return a copy outside of autocast, in evaluation mode: training is left as it is."""
    copy = DCGANGenerator.from_config(generator.config)
    copy.load_state_dict(generator.state_dict())
    return copy.to(generator.device).eval()


def grid(stage: Stage, generator: DCGANGenerator, data: FaceSet) -> Image.Image:
    """Return pictures of fixed noise, asked for with states of training pictures where the network takes any."""
    seed, num = stage.params.base.seed, GRID_ROWS * GRID_COLUMNS
    seeds = np.array([derive_seed(seed, "gan grid", i) for i in range(num)], dtype=np.int64)
    rows = numpy_generator(seed, "gan grid attributes").integers(0, len(data), num)
    states = data.attributes[rows].numpy() if generator.config.attribute_names else None
    images = generate(generator, states, seeds, batch_size=num, device=data.device)
    scale = max(1, -(-GRID_SIDE_PX // images.shape[1]))
    title = f"DCGAN, {stage.item}: not selected"
    return image_grid(fold_rows(images, columns=GRID_COLUMNS), scale=scale, title=title)


if __name__ == "__main__":
    main(run)
