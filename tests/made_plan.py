"""A plan with a sampler and a recogniser that need no network; as a program, it draws a shard and may kill itself.

python tests/made_plan.py FOLDER SHARD NUM_SHARDS [WHERE CHUNK]     WHERE: draw, embed, or between
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from facegen.identities import generation
from facegen.identities.generation import Plan, generate

SIDE, DIM, PEOPLE, EACH = 8, 5, 7, 3


def plan(**changes: object) -> Plan:
    rows = np.random.default_rng(0).normal(size=(PEOPLE, DIM)).astype(np.float32)
    values = {"vectors": rows, "images_per_person": EACH, "seed": 4, "batch_size": 4, "method": "adaptive", "about": {}}
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def draw(identity: np.ndarray, seeds: Sequence[int]) -> SimpleNamespace:
    """Pictures of noise that depend on person and seed."""
    rngs = [np.random.default_rng([seed, int(abs(row[0]) * 1e6)]) for row, seed in zip(identity, seeds, strict=True)]
    images = np.stack([rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for rng in rngs])
    return SimpleNamespace(
        images=images, switch=np.array([seed % 50 / 50 for seed in seeds], np.float32),
        evaluations=np.array([50 + seed % 50 for seed in seeds]),
    )  # fmt: skip


def embed(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1)[:, :6].astype(np.float32) + 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(folder: str, shard: str, num_shards: str, where: str = "", chunk: str = "-1") -> None:
    count = {"draw": 0, "embed": 0, "between": 0}

    def dying(name: str) -> None:
        if name == where and count[name] == int(chunk):
            os.kill(os.getpid(), signal.SIGKILL)
        count[name] += 1

    def draw_or_die(identity: np.ndarray, seeds: Sequence[int]) -> SimpleNamespace:
        dying("draw")
        return draw(identity, seeds)

    def embed_or_die(images: np.ndarray) -> np.ndarray:
        dying("embed")
        return embed(images)

    write = generation.write_people

    def write_or_die(*arguments: object, **more: object) -> None:
        dying("between")  # the embeddings are written, the pictures are not
        write(*arguments, **more)  # type: ignore[arg-type]

    generation.write_people = write_or_die
    generate(plan(), Path(folder), draw_or_die, embed=embed_or_die, shard=int(shard), num_shards=int(num_shards))


if __name__ == "__main__":
    main(*sys.argv[1:])
