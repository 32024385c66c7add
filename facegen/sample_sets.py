"""The requests that the sample stage answers, and the grids that show the answers.

    prior                  states drawn from the training set's rows, for scoring
    flip/<Attribute>       one seed, the attribute absent and present, everything else left open
    combination            every combination of the three most balanced attributes, the same seeds for each
    strength/<Attribute>   one attribute present at rising guidance scales, the same seeds for each

Shapes: N requests, A attributes, H image side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.data.samples import COMBINATION, FLIP, PRIOR, STRENGTH
from facegen.grids import fold_rows, image_grid
from facegen.pipeline import FacePipeline
from facegen.rng import derive_seed, numpy_generator

NUM_COMBINED = 3
STRENGTH_SEEDS = 1
TILE_PX = 128  # side of an image in a grid, at least


@dataclass(frozen=True)
class Requests:
    """N requests, row by row."""

    seeds: np.ndarray  # (N,) int64
    attributes: np.ndarray  # (N, A) int8
    sets: list[str]
    guidance: np.ndarray  # (N,) float64

    @classmethod
    def joined(cls, parts: Sequence[Requests]) -> Requests:
        """Return the parts one after the other."""
        return cls(
            np.concatenate([p.seeds for p in parts]),
            np.concatenate([p.attributes for p in parts]),
            [name for p in parts for name in p.sets],
            np.concatenate([p.guidance for p in parts]),
        )


def requests(
    train_attributes: np.ndarray,
    names: Sequence[str],
    *,
    seed: int,
    num_images: int,
    num_pairs: int,
    strengths: Sequence[float],
    guidance_scale: float,
    num_columns: int,
) -> Requests:
    """Return all requests of the sample stage.

    Args:
        train_attributes: (S, A) states of the training set.
        names: the A attribute names.
        seed: the user's; every image's seed derives from it.
        num_images: size of `prior`.
        num_pairs: seeds of each `flip/<Attribute>`.
        strengths: guidance scales of `strength/<Attribute>`.
        guidance_scale: of everything else.
        num_columns: seeds of `combination`.
    """

    def seeds(purpose: str, num: int) -> np.ndarray:
        return np.array([derive_seed(seed, purpose, i) for i in range(num)], dtype=np.int64)

    def part(name: str, which: np.ndarray, states: np.ndarray, scale: float) -> Requests:
        return Requests(which, states.astype(np.int8), [name] * len(which), np.full(len(which), scale))

    A = len(names)
    rows = numpy_generator(seed, "prior attributes").integers(0, len(train_attributes), num_images)
    parts = [part(PRIOR, seeds("prior", num_images), train_attributes[rows], guidance_scale)]
    pair_seeds = seeds("flip", num_pairs)
    for k, name in enumerate(names):
        states = np.full((num_pairs, 2, A), UNKNOWN)
        states[:, 0, k], states[:, 1, k] = ABSENT, PRESENT
        parts.append(part(f"{FLIP}{name}", pair_seeds.repeat(2), states.reshape(-1, A), guidance_scale))
    for states in combinations(train_attributes):
        row = np.repeat(states[None], num_columns, axis=0)
        parts.append(part(COMBINATION, seeds("combination", num_columns), row, guidance_scale))
    for k, name in enumerate(names):
        states = np.full((STRENGTH_SEEDS, A), UNKNOWN)
        states[:, k] = PRESENT
        parts += [part(f"{STRENGTH}{name}", seeds("strength", STRENGTH_SEEDS), states, s) for s in strengths]
    return Requests.joined(parts)


def combinations(train_attributes: np.ndarray) -> np.ndarray:
    """Return the states (2^n, A) of every combination of the n most balanced attributes, all others open."""
    present = (train_attributes == PRESENT).mean(axis=0)
    num = min(NUM_COMBINED, train_attributes.shape[1])
    chosen = sorted(np.argsort(np.abs(present - 0.5), kind="stable")[:num])
    table = np.full((2**num, train_attributes.shape[1]), UNKNOWN, dtype=np.int8)
    table[:, chosen] = list(itertools.product((ABSENT, PRESENT), repeat=num))
    return table


def generate(pipe: FacePipeline, table: Requests, *, batch_size: int, on_images: Callable[[int], object]) -> np.ndarray:
    """Return the answers, uint8 (N, H, H, 3), in the order of the requests.

    Args:
        pipe: the pipeline, with its recommended settings.
        table: the requests.
        batch_size: images at once.
        on_images: called with the number of images that were just made.
    """
    images: np.ndarray | None = None
    for scale in np.unique(table.guidance):
        members = np.flatnonzero(table.guidance == scale)
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            made = pipe(
                table.attributes[rows], seeds=table.seeds[rows].tolist(), guidance_scale=float(scale), output_type="np"
            ).images
            if images is None:
                images = np.empty((len(table.seeds), *made.shape[1:]), dtype=np.uint8)
            images[rows] = made
            on_images(len(rows))
    if images is None:
        raise ValueError("there is nothing to sample: no request")
    return images


def grids(
    table: Requests, images: np.ndarray, names: Sequence[str], *, strengths: Sequence[float], num_columns: int
) -> dict[str, Image.Image]:
    """Return the pictures by file name: attributes, combination, strength, prior."""
    where = np.array(table.sets)
    scale = max(1, TILE_PX // images.shape[1])

    def of(name: str) -> np.ndarray:
        return images[where == name]

    flips, labels = [], []
    for name in names:
        pairs = of(f"{FLIP}{name}").reshape(-1, 2, *images.shape[1:])[:num_columns]
        flips += [pairs[:, 0], pairs[:, 1]]
        labels += [f"without\n{name}", f"with\n{name}"]
    blocks = of(COMBINATION).reshape(-1, num_columns, *images.shape[1:])
    combined = [state_label(row, names) for row in table.attributes[where == COMBINATION][::num_columns]]
    strips = np.stack([of(f"{STRENGTH}{name}") for name in names])
    return {
        "attributes": image_grid(np.stack(flips), row_labels=labels, group_rows=2, scale=scale,
                                 title="Each attribute absent and present, the same noise above and below"),
        "combination": image_grid(blocks, row_labels=combined, scale=scale,
                                  title="Combinations, the same noise in each column"),
        "strength": image_grid(strips, row_labels=list(names), column_labels=[f"{s:g}" for s in strengths], scale=scale,
                               title="One attribute at rising guidance scale, the same noise"),
        "prior": image_grid(fold_rows(of(PRIOR)[: num_columns**2], columns=num_columns), scale=scale,
                            title="Attributes drawn from the training set, not selected"),
    }  # fmt: skip


def state_label(states: np.ndarray, names: Sequence[str]) -> str:
    """Return a short text of one request: "Male, not Smiling"."""
    words = {PRESENT: "", ABSENT: "not "}
    return "\n".join(words[int(s)] + name for name, s in zip(names, states, strict=True) if s != UNKNOWN) or "anything"
