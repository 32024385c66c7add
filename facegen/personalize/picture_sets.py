"""Which pictures of given people are drawn for the evaluation, from which references, and the grids of them to look at.

Every method is asked for the same: each person with each prompt of one, each pair with each prompt of two, from the same
seeds. People and pairs are disjoint among themselves, so that figures of them are independent. Shapes: N pictures, P
people, H W px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from PIL import Image

from facegen.grids import image_grid
from facegen.personalize.generation import CLASS_WORD, METHODS, MULTIPLE
from facegen.personalize.pictures import Drawn
from facegen.personalize.prompts import class_prompt
from facegen.rng import numpy_generator

SHOWN = 8  # rows of a grid, at most
SHOWN_PROMPTS = 2  # beside each other in it
TOLD_LAST = {1: (CLASS_WORD, "single_plain", "single"), 2: (CLASS_WORD, "naive", "mf2d_unlocalized", MULTIPLE)}


@dataclass(frozen=True)
class Wanted:
    """What is drawn; the meanings are in params.yaml."""

    prompts_one: tuple[str, ...]
    prompts_two: tuple[str, ...]
    num_people: int
    images_per_prompt: int
    alpha: float
    alphas: tuple[float, ...]
    alpha_people: int
    seed: int


def known_people(identity: np.ndarray) -> np.ndarray:
    """Return the people of a split, (N,) of every picture (negative where unknown), who have two pictures or more.

    One tells the person, another is what a picture of the person is compared with.
    """
    people, counts = np.unique(identity[identity >= 0], return_counts=True)
    return people[counts >= 2]


def chosen_people(identity: np.ndarray, num_people: int, *, seed: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Return known people of a split at random, and as many pairs of different people, as far as there are any.

    Args:
        identity: as `known_people`.
        num_people: how many are wanted of each.

    Raises:
        ValueError: if there are fewer than two.
    """
    people = numpy_generator(seed, "personalize people").permutation(known_people(identity)).tolist()
    if len(people) < 2:
        raise ValueError(f"{len(people)} people of the split have two pictures; pictures of two people need as many")
    pairs = list(zip(people[0::2], people[1::2], strict=False))[:num_people]
    return people[:num_people], pairs


def reference_rows(identity: np.ndarray, people: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the row of the picture that tells each person: the first one."""
    return {person: (int(np.flatnonzero(identity == person)[0]),) for person in people}


def planned(
    wanted: Wanted, people: Sequence[int], pairs: Sequence[tuple[int, int]], references: Mapping[int, tuple[int, ...]]
) -> list[Drawn]:
    """Return every picture to be drawn, method after method; one of equal rows is left out."""
    numbers = count(wanted.seed)
    asked: dict[int, list[tuple[str, tuple[int, ...], int]]] = {
        1: [
            (prompt, (person,), next(numbers))
            for person in people
            for prompt in wanted.prompts_one
            for _ in range(wanted.images_per_prompt)
        ],
        2: [
            (prompt, pair, next(numbers))
            for pair in pairs
            for prompt in wanted.prompts_two
            for _ in range(wanted.images_per_prompt)
        ],
    }

    def drawn(name: str, alpha: float, num: int, among: Sequence[tuple[int, ...]] | None = None) -> list[Drawn]:
        return [
            Drawn(name, round(alpha, 6), prompt, own, tuple(references[person] for person in own), seed)
            for prompt, own, seed in asked[num]
            if among is None or own in among
        ]

    out = [row for name, m in METHODS.items() for num in m.subjects for row in drawn(name, m.alpha(wanted.alpha), num)]
    for alpha in wanted.alphas:
        out += drawn(MULTIPLE, alpha, 2, pairs[: wanted.alpha_people])
    return list(dict.fromkeys(out))


def grids(
    rows: Sequence[Drawn], images: np.ndarray, references: Mapping[int, np.ndarray], *, alpha: float, class_word: str
) -> dict[str, Image.Image]:
    """Return one.png, two.png and alphas.png without their ending: people down, references, methods and prompts across.

    Args:
        rows, images: what was drawn, (N,) and uint8 (N, H, W, 3).
        references: the reference picture of each person, uint8 (h, w, 3).
        alpha: of the methods that take it.
        class_word: what stands for a marker in the labels.
    """
    found = {(row.method, row.alpha, row.prompt, row.subjects): i for i, row in reversed(list(enumerate(rows)))}
    tiles = {person: _tile(picture, images.shape[1:3]) for person, picture in references.items()}
    out: dict[str, Image.Image] = {}
    for name, num in (("one", 1), ("two", 2)):
        groups = list(dict.fromkeys(row.subjects for row in rows if len(row.subjects) == num))[:SHOWN]
        prompts = list(dict.fromkeys(row.prompt for row in rows if len(row.subjects) == num))[:SHOWN_PROMPTS]
        columns = [(method, round(METHODS[method].alpha(alpha), 6), p) for p in prompts for method in TOLD_LAST[num]]
        labels = [f"{method}: {class_prompt(prompt, class_word)}" for method, _, prompt in columns]
        out |= _grid(name, groups, columns, labels, found, tiles, images)
    swept = sorted({row.alpha for row in rows if row.method == MULTIPLE})
    if len(swept) > 1:
        prompt = next(row.prompt for row in rows if row.method == MULTIPLE)
        columns = [(CLASS_WORD, 0.0, prompt), *((MULTIPLE, a, prompt) for a in swept)]
        groups = list(dict.fromkeys(row.subjects for row in rows if row.method == MULTIPLE))
        groups = [own for own in groups if all((*column, own) in found for column in columns)][:SHOWN]
        out |= _grid("alphas", groups, columns, [f"alpha {a:g}" for _, a, _ in columns], found, tiles, images)
    return out


def _grid(
    name: str, groups: Sequence[tuple[int, ...]], columns: Sequence[tuple[str, float, str]], labels: Sequence[str],
    found: Mapping[tuple[str, float, str, tuple[int, ...]], int], tiles: Mapping[int, np.ndarray], images: np.ndarray,
) -> dict[str, Image.Image]:  # fmt: skip
    """Return a grid by its name; nothing where there are no rows."""
    if not groups:
        return {}
    pixels = [
        np.stack([*(tiles[person] for person in own), *(images[found[(*column, own)]] for column in columns)])
        for own in groups
    ]
    told = [f"reference {k + 1}" if len(groups[0]) > 1 else "reference" for k in range(len(groups[0]))]
    return {name: image_grid(np.stack(pixels), column_labels=[*told, *labels])}


def _tile(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture in the middle of a white one of `size`, made smaller where it does not fit."""
    height, width = size
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    small = np.asarray(Image.fromarray(picture).resize(inner, Image.Resampling.LANCZOS))
    out = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    out[top : top + inner[1], left : left + inner[0]] = small
    return out
