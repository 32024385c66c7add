"""Encode the faces and their mirrors: data/faces, models/autoencoder -> data/latents; resumable by shard.

Where models/recognizer-condition holds a recogniser, each picture's embedding goes with its latents.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from facegen.artifacts import write_json
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.images import to_unit
from facegen.data.latents import SPLITS, STATS, channel_stats, read_shards, write_shard
from facegen.data.shards import Faces
from facegen.models.autoencoder import Autoencoder, encode_with_mirror, load_autoencoder
from pipelines.stage import Stage, main

RECOGNIZER = "data/models/recognizer-condition"


def run(stage: Stage) -> None:
    """Open the recogniser, if there is one, and encode."""
    folder, threads = stage.root / RECOGNIZER, stage.params.machine.threads
    encode_splits(stage, FaceEmbedder.load(folder, threads=threads) if available(folder) else None)


def encode_splits(stage: Stage, embedder: FaceEmbedder | None) -> None:
    """Encode both splits into the scratch folder, then put the shards and the statistics in place."""
    p, device = stage.params.latents, stage.device
    vae = load_autoencoder(stage.root / "data/models/autoencoder").to(device, memory_format=torch.channels_last)
    shards: dict[str, list[Path]] = {}
    for split in SPLITS:
        faces = Faces.open(stage.root / "data/faces", split)
        starts = range(0, max(len(faces), 1), p.rows_per_shard)
        shards[split] = [stage.scratch / f"{split}-{number:05d}.parquet" for number in range(len(starts))]
        for path, start in zip(shards[split], starts, strict=True):
            if not path.exists():  # whole, since it is written atomically; the scratch folder is this configuration's
                rows = np.arange(start, min(start + p.rows_per_shard, len(faces)))
                encode_shard(stage, vae, embedder, faces, rows, path)
    with stage.output("data/latents") as folder:
        for path in [*shards["train"], *shards["val"]]:
            shutil.copyfile(path, folder / path.name)
        columns = read_shards(shards["train"])
        stats = channel_stats(columns["mean"], columns["logvar"])
        write_json(folder / STATS, stats)
    stage.metrics({f"latent_std_{channel}": value for channel, value in enumerate(stats["std"])})


def encode_shard(
    stage: Stage, vae: Autoencoder, embedder: FaceEmbedder | None, faces: Faces, rows: np.ndarray, path: Path
) -> None:
    """Write the moments, and with a recogniser the embeddings, of these rows of the split."""
    size, threads = stage.params.latents.batch_size, stage.params.machine.threads
    means, logvars = [], []
    embedding = None if embedder is None else np.empty((len(rows), embedder.dim), np.float32)
    for start in stage.progress(range(0, len(rows), size), path.stem):
        part = rows[start : start + size]
        pixels = faces.images(part, threads=threads)
        images = to_unit(pixels)
        with torch.no_grad(), torch.autocast(vae.device.type, stage.dtype, enabled=stage.dtype != torch.float32):
            mean, logvar = encode_with_mirror(vae, images.to(vae.device))
        means.append(mean.cpu().numpy())
        logvars.append(logvar.cpu().numpy())
        if embedder is not None and embedding is not None:
            embedding[start : start + size] = embedder.embed(pixels, faces.landmarks[part])
    empty = np.empty((0, 2, vae.config.latent_channels, 1, 1), np.float32)
    write_shard(
        path, ids=[faces.ids[row] for row in rows], mean=np.concatenate(means or [empty]),
        logvar=np.concatenate(logvars or [empty]), attributes=faces.attributes[rows], identity=faces.identity[rows],
        attribute_names=faces.attribute_names, embedding=embedding,
    )  # fmt: skip


if __name__ == "__main__":
    main(run)
