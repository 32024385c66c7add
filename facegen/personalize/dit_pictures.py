"""Pictures of given people by the LatentDiT: who is asked of whom, the drawing, and the grids.

People of a split that the networks have not seen are each told by one picture; what is asked for beside are the
attributes of another picture of the person. Every method draws the same requests from the same seeds:

    none                 the attributes alone
    recognizer           the embedding of the recogniser that the model was trained with
    dit_mapped           the identity encoder's features through an adapter, trained with class guidance
    dit_mapped_plain     the same without

Then two people in one picture, nothing else asked, side by side, at the largest scale: the first has the left share of
the width.
Sets of `pictures.parquet` (facegen/data/samples.py), a row a person or pair in the order of `dit_identity.json`: `none`,
`<method>/scale=<s>` and `pair/<method>/share=<s>`. Shapes: N pictures of the split, P people, Q pairs, A attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facegen.attributes import UNKNOWN
from facegen.grids import image_grid
from facegen.models.person_condition import MappedIdentity, halves
from facegen.pipeline import FacePipeline
from facegen.rng import derive_seed, numpy_generator

PICTURES, ABOUT = "pictures.parquet", "dit_identity.json"
NONE, RECOGNIZER, MAPPED, PLAIN = "none", "recognizer", "dit_mapped", "dit_mapped_plain"
METHODS = (RECOGNIZER, MAPPED, PLAIN)
PAIRED = (RECOGNIZER, MAPPED)  # that draw two people, too
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the width that the first of two people has
SHOWN_PEOPLE, SHOWN_PAIRS = 8, 6
TILE_PX = 96  # side of an image in a grid, at least

Identity = Tensor | MappedIdentity  # embeddings of the recogniser, or what an adapter made of features


@dataclass(frozen=True)
class People:
    """Whom the pictures are of: rows of a split."""

    identity: np.ndarray  # (P,)
    references: np.ndarray  # (P,) the picture that tells the person
    asked: np.ndarray  # (P,) another one, whose attributes are asked for
    pairs: np.ndarray  # (Q, 2) numbers of people, nobody twice

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {name: getattr(self, name).tolist() for name in ("identity", "references", "asked", "pairs")}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> People:
        """Read what `to_json` returned."""
        identity, references, asked = (np.array(found[k], np.int64) for k in ("identity", "references", "asked"))
        return cls(identity, references, asked, np.array(found["pairs"], np.int64).reshape(-1, 2))


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn; the meanings are in params.yaml."""

    seed: int
    num_steps: int
    guidance_scale: float
    identity_scales: tuple[float, ...]
    batch_size: int
    dtype: torch.dtype


def chosen_people(identity: np.ndarray, num_people: int, *, seed: int) -> People:
    """Draw people with two pictures at least, and disjoint pairs of them.

    Args:
        identity: (N,) of the split's pictures, -1 where unknown.

    Raises:
        ValueError: if there are not two such people.
    """
    people, counts = np.unique(identity[identity >= 0], return_counts=True)
    rng = numpy_generator(seed, "people of the adapter")
    people = rng.permutation(people[counts > 1])[:num_people]
    if len(people) < 2:
        raise ValueError(f"{len(people)} people of the split have two pictures; two such people are needed")
    rows = np.stack([rng.permutation(np.flatnonzero(identity == person))[:2] for person in people])
    pairs = np.arange(len(people) // 2 * 2).reshape(-1, 2)
    return People(people.astype(np.int64), rows[:, 0], rows[:, 1], pairs)


def middle_scale(scales: Sequence[float]) -> float:
    """Return the scale that methods are compared at: the middle one, the larger of two."""
    return sorted(scales)[len(scales) // 2]


def scales_of(method: str, scales: Sequence[float]) -> list[float]:
    """Return the scales that a method is drawn at: all; without class guidance the one that methods are compared at."""
    return [middle_scale(scales)] if method == PLAIN else list(scales)


def scale_set(method: str, scale: float) -> str:
    """Return the name of a method's set at a scale."""
    return f"{method}/scale={scale:g}"


def share_set(method: str, share: float) -> str:
    """Return the name of a method's set of two people."""
    return f"pair/{method}/share={share:g}"


def drawn(
    pipe: FacePipeline, people: People, states: np.ndarray, told: Mapping[str, Identity], drawing: Drawing,
    *, on_images: Callable[[int], object],
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Return seeds, states asked for and pictures of every set, by its name.

    Args:
        pipe: of the LatentDiT.
        states: (P, A), what is asked for.
        told: by method, what tells each person, (P, ..). Only these methods are drawn.
        drawing: how.
        on_images: called with the number of pictures that were just made.
    """
    seeds = np.array([derive_seed(drawing.seed, "person by the adapter", i) for i in range(len(people.identity))])
    of_pairs, strongest = seeds[people.pairs[:, 0]], max(drawing.identity_scales)
    nothing = np.full((len(people.pairs), states.shape[1]), UNKNOWN, states.dtype)
    out = {NONE: (seeds, states, in_batches(pipe, drawing, seeds, states, on_images=on_images))}
    for method in (m for m in METHODS if m in told):
        for s in scales_of(method, drawing.identity_scales):
            images = in_batches(pipe, drawing, seeds, states, told[method], s, on_images=on_images)
            out[scale_set(method, s)] = seeds, states, images
    for method in (m for m in PAIRED if m in told):
        both = some(told[method], people.pairs)  # (Q, 2, ..)
        for share in SHARES:
            masks = halves(share, grid=pipe.transformer.config.sample_size)
            images = in_batches(pipe, drawing, of_pairs, nothing, both, strongest, masks, on_images=on_images)
            out[share_set(method, share)] = of_pairs, nothing, images
    return out


def in_batches(
    pipe: FacePipeline, drawing: Drawing, seeds: np.ndarray, states: np.ndarray, identity: Identity | None = None,
    scale: float | None = None, masks: Tensor | None = None, *, on_images: Callable[[int], object],
) -> np.ndarray:  # fmt: skip
    """Return the pictures of one set, uint8 (N, H, H, 3); the arguments are those of the pipeline."""
    parts = []
    for start in range(0, len(seeds), drawing.batch_size):
        rows = np.arange(start, min(start + drawing.batch_size, len(seeds)))
        with torch.autocast(pipe.device.type, drawing.dtype, enabled=drawing.dtype != torch.float32):
            images = pipe(
                states[rows], seeds=seeds[rows].tolist(), num_inference_steps=drawing.num_steps,
                guidance_scale=drawing.guidance_scale, identity=None if identity is None else some(identity, rows),
                identity_scale=scale, identity_masks=masks, output_type="np",
            ).images  # fmt: skip
        parts.append(images)
        on_images(len(images))
    return np.concatenate(parts)


def some(identity: Identity, rows: np.ndarray) -> Identity:
    """Return the identities of these rows, in the shape of `rows`."""
    index = torch.from_numpy(rows)
    return MappedIdentity(identity.vectors[index]) if isinstance(identity, MappedIdentity) else identity[index]


def num_pictures(people: People, methods: Sequence[str], scales: Sequence[float]) -> int:
    """Return how many pictures `drawn` makes."""
    paired = len(SHARES) * len([m for m in PAIRED if m in methods])
    alone = 1 + sum(len(scales_of(method, scales)) for method in methods)
    return len(people.identity) * alone + len(people.pairs) * paired


def grids(
    images: Mapping[str, np.ndarray], references: np.ndarray, pairs: np.ndarray, scales: Sequence[float]
) -> dict[str, Image.Image]:
    """Return the pictures by file name: people (one row each, by every method) and pairs (over the share).

    Args:
        images: by set, uint8 (P or Q, H, H, 3).
        references: uint8 (P, H, H, 3), the pictures that tell the people.
        pairs: (Q, 2).
    """
    enlarged = max(1, TILE_PX // references.shape[1])
    columns = {"photograph": references, NONE: images[NONE]}
    columns |= {
        f"{m} {s:g}": images[scale_set(m, s)]
        for m in METHODS
        for s in scales_of(m, scales)
        if scale_set(m, s) in images
    }
    table = np.stack([column[:SHOWN_PEOPLE] for column in columns.values()], axis=1)
    found = {
        "people": image_grid(table, column_labels=list(columns), scale=enlarged,
                             title="People told by one photograph, at rising guidance towards the identity"),
    }  # fmt: skip
    rows, labels = [], []
    for method in (m for m in PAIRED if share_set(m, SHARES[0]) in images):
        for number, (first, second) in enumerate(pairs[:SHOWN_PAIRS]):
            between = [images[share_set(method, share)][number] for share in SHARES]
            rows.append(np.stack([references[second], *between, references[first]]))
            labels.append(method)
    if rows:
        heads = ["on the right", *(f"{share:g} of the width" for share in SHARES), "on the left"]
        found["pairs"] = image_grid(np.stack(rows), row_labels=labels, column_labels=heads, scale=enlarged,
                                    title="Two people, each with a part of one face")  # fmt: skip
    return found
