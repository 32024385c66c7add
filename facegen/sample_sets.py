"""The requests that the sample stage answers, and the grids that show the answers.

    prior                  states drawn from the training set's rows, for scoring
    flip/<Attribute>       one seed, the attribute absent and present, all else equal and as the data have it
    null                   one seed and one request, twice: the pictures must be identical
    unseen                 combinations that no training picture has
    combination            every combination of the three most balanced attributes, the same seeds for each
    strength/<Attribute>   one attribute present at rising guidance scales, the same seeds for each
    guidance=<w>/flip/<A>  the first pairs of flip/<A> at another guidance scale
    steps=<n>              the first requests of prior with another number of solver steps
    images=<n>             the first requests of prior by the weights after so many training images

Shapes: N requests, A attributes, H image side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.data.interventions import flip_states, unseen_states
from facegen.data.samples import (
    COMBINATION,
    FLIP,
    NULL,
    PRIOR,
    STRENGTH,
    UNSEEN,
    at_guidance,
    at_images,
    at_steps,
)
from facegen.grids import fold_rows, image_grid
from facegen.pipeline import FacePipeline
from facegen.rng import derive_seed, numpy_generator

NUM_COMBINED = 3
STRENGTH_SEEDS = 1
NUM_NULL = 8
TILE_PX = 128  # side of an image in a grid, at least
RELEASED = 0  # in Requests.images_seen: the released weights


@dataclass(frozen=True)
class Requests:
    """N requests, row by row."""

    seeds: np.ndarray  # (N,) int64
    attributes: np.ndarray  # (N, A) int8
    sets: list[str]
    guidance: np.ndarray  # (N,) float64
    steps: np.ndarray  # (N,) int64, of the solver
    images_seen: np.ndarray  # (N,) int64, of the weights; 0: the released ones

    @classmethod
    def joined(cls, parts: Sequence[Requests]) -> Requests:
        """Return the parts one after the other."""
        return cls(
            np.concatenate([p.seeds for p in parts]),
            np.concatenate([p.attributes for p in parts]),
            [name for p in parts for name in p.sets],
            np.concatenate([p.guidance for p in parts]),
            np.concatenate([p.steps for p in parts]),
            np.concatenate([p.images_seen for p in parts]),
        )

    def of(self, name: str) -> Requests:
        """Return the rows of one set, in order."""
        return self.rows(np.flatnonzero(np.array(self.sets) == name))

    def rows(self, index: np.ndarray) -> Requests:
        """Return these rows."""
        sets = [self.sets[i] for i in index]
        return Requests(
            self.seeds[index], self.attributes[index], sets, self.guidance[index], self.steps[index],
            self.images_seen[index],
        )  # fmt: skip

    def named(self, rename: Callable[[str], str], num: int | None = None, **changes: float) -> Requests:
        """Return the first num rows (all of them: None) under other names, with other guidance, steps or images_seen."""
        rows = self.rows(np.arange(len(self.seeds))[:num])
        values = {key: np.full_like(getattr(rows, key), value) for key, value in changes.items()}
        return replace(rows, sets=[rename(name) for name in rows.sets], **values)


def requests(
    train_attributes: np.ndarray,
    names: Sequence[str],
    *,
    seed: int,
    num_images: int,
    num_pairs: int,
    guidance_scale: float,
    num_steps: int,
) -> Requests:
    """Return the requests that every conditional generator answers: prior, flip/<Attribute>, null and unseen.

    Args:
        train_attributes: (S, A) states of the training set.
        names: the A attribute names.
        seed: the user's; every image's seed derives from it.
        num_images: size of `prior`.
        num_pairs: pairs of each `flip/<Attribute>`, and size of `unseen`.
        guidance_scale, num_steps: of all of them; a generator that has neither ignores them.
    """

    def part(name: str, seeds: np.ndarray, states: np.ndarray) -> Requests:
        return _part(name, seeds, states, scale=guidance_scale, steps=num_steps)

    rows = numpy_generator(seed, "prior attributes").integers(0, len(train_attributes), num_images)
    parts = [part(PRIOR, _seeds(seed, PRIOR, num_images), train_attributes[rows])]
    pair_seeds = _seeds(seed, "flip", num_pairs)
    for k, name in enumerate(names):
        pairs = flip_states(train_attributes, k, num_pairs, generator=numpy_generator(seed, "flip states", k))
        parts.append(part(f"{FLIP}{name}", pair_seeds.repeat(2), pairs.states.reshape(-1, len(names))))
    first = np.resize(np.arange(num_images), NUM_NULL)
    parts.append(parts[0].rows(np.tile(first, 2)).named(lambda _: NULL))
    unseen = unseen_states(train_attributes, num_pairs, generator=numpy_generator(seed, "unseen states"))
    if len(unseen):
        states = unseen[np.resize(np.arange(len(unseen)), num_pairs)]
        parts.append(part(UNSEEN, _seeds(seed, UNSEEN, num_pairs), states))
    return Requests.joined(parts)


def picture_requests(
    train_attributes: np.ndarray,
    names: Sequence[str],
    *,
    seed: int,
    strengths: Sequence[float],
    guidance_scale: float,
    num_steps: int,
    num_columns: int,
) -> Requests:
    """Return the requests of combination and strength/<Attribute>, which are looked at and not scored.

    Args:
        train_attributes, names, seed, guidance_scale, num_steps: as for `requests`.
        strengths: guidance scales of `strength/<Attribute>`.
        num_columns: seeds of `combination`.
    """
    parts = []
    for states in combinations(train_attributes):
        row = np.repeat(states[None], num_columns, axis=0)
        seeds = _seeds(seed, COMBINATION, num_columns)
        parts.append(_part(COMBINATION, seeds, row, scale=guidance_scale, steps=num_steps))
    for k, name in enumerate(names):
        states = np.full((STRENGTH_SEEDS, len(names)), UNKNOWN)
        states[:, k] = PRESENT
        seeds = _seeds(seed, "strength", STRENGTH_SEEDS)
        parts += [_part(f"{STRENGTH}{name}", seeds, states, scale=s, steps=num_steps) for s in strengths]
    return Requests.joined(parts)


def curve_requests(
    table: Requests,
    names: Sequence[str],
    *,
    guidance: Sequence[float],
    num_pairs: int,
    steps: Sequence[int],
    images_seen: Sequence[int],
    num_images: int,
) -> Requests:
    """Return the further requests of the curves over guidance, solver steps and training length.

    Args:
        table: what `requests` returned; points at its own settings are there already and left out.
        names: the attribute names.
        guidance: scales of guidance=<w>/flip/<A>; num_pairs: how many pairs of each.
        steps: of steps=<n>; images_seen: of images=<n>; num_images: how many images of each.
    """
    prior, parts = table.of(PRIOR), []
    for scale in guidance:
        for name in names:
            flips = table.of(f"{FLIP}{name}")
            if scale != flips.guidance[0]:
                parts.append(flips.named(at_guidance(scale), 2 * num_pairs, guidance=scale))
    parts += [prior.named(at_steps(n), num_images, steps=n) for n in steps if n != prior.steps[0]]
    parts += [prior.named(at_images(n), num_images, images_seen=n) for n in images_seen]
    return Requests.joined([*parts, prior.rows(np.arange(0))])


def _part(name: str, seeds: np.ndarray, states: np.ndarray, *, scale: float, steps: int) -> Requests:
    n = len(seeds)
    return Requests(
        seeds, states.astype(np.int8), [name] * n, np.full(n, scale, np.float64), np.full(n, steps, np.int64),
        np.full(n, RELEASED, np.int64),
    )  # fmt: skip


def _seeds(seed: int, purpose: str, num: int) -> np.ndarray:
    return np.array([derive_seed(seed, purpose, i) for i in range(num)], dtype=np.int64)


def combinations(train_attributes: np.ndarray) -> np.ndarray:
    """Return the states (2^n, A) of every combination of the n most balanced attributes, all others open."""
    present = (train_attributes == PRESENT).mean(axis=0)
    num = min(NUM_COMBINED, train_attributes.shape[1])
    chosen = sorted(np.argsort(np.abs(present - 0.5), kind="stable")[:num])
    table = np.full((2**num, train_attributes.shape[1]), UNKNOWN, dtype=np.int8)
    table[:, chosen] = list(itertools.product((ABSENT, PRESENT), repeat=num))
    return table


def generate(
    pipe_of: Callable[[int], FacePipeline], table: Requests, *, batch_size: int, on_images: Callable[[int], object]
) -> np.ndarray:
    """Return the answers, uint8 (N, H, H, 3), in the order of the requests.

    The two halves of `null` are made in two calls of one shape, so that nothing but chance could tell them apart.

    Args:
        pipe_of: the pipeline with the weights after so many training images (0: the released ones).
        table: the requests.
        batch_size: images at once.
        on_images: called with the number of images that were just made.
    """
    images: np.ndarray | None = None
    halves = np.zeros(len(table.seeds), np.int64)
    null = np.flatnonzero(np.array(table.sets) == NULL)
    halves[null[: len(null) // 2]], halves[null[len(null) // 2 :]] = 1, 2
    settings = np.stack([table.images_seen, table.steps, table.guidance, halves], axis=1)
    for row in np.unique(settings, axis=0):
        members = np.flatnonzero((settings == row).all(axis=1))
        pipe = pipe_of(int(row[0]))
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            made = pipe(
                table.attributes[rows], seeds=table.seeds[rows].tolist(), num_inference_steps=int(row[1]),
                guidance_scale=float(row[2]), output_type="np",
            ).images  # fmt: skip
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
