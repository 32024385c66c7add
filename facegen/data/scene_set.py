"""Draws the embedded set of scenes into a folder, over several processes.

Shape legend: K people of a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facegen.data.captions import description, short_caption
from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.data.images import encode_png
from facegen.data.procedural import Population
from facegen.data.scene_drawing import cast_scene, draw_scene
from facegen.rng import numpy_generator

if TYPE_CHECKING:
    from facegen.data.scenes import Segment

SOURCE = "drawn"
SUPERSAMPLE = 2  # canvas pixels per picture pixel and side; outlines are antialiased besides
_CHUNK = 32  # scenes handed to a process at a time
_population: Population  # of a worker process: set once, as it starts


@dataclass(frozen=True)
class SceneRecipe:
    """How scenes are drawn: sizes in px, and the share with two people."""

    height: int
    width: int
    two_share: float


@dataclass(frozen=True)
class PackedScene:
    """A scene, drawn, captioned and encoded; people from left to right.

    Landmarks are float32 (K, 5, 2), in px from the centre of the top left pixel, as faces' are.
    """

    png: bytes
    segmap_png: bytes
    boxes: tuple[tuple[float, float, float, float], ...]
    caption: str
    ends: tuple[int, ...]
    description: str
    people: tuple[int, ...]
    attributes: tuple[tuple[int, ...], ...]
    landmarks: np.ndarray


def write_drawn_scenes(
    folder: Path,
    population: Population,
    *,
    recipe: SceneRecipe,
    counts: dict[str, int],
    workers: int,
    on_drawn: Callable[[int], object],
) -> None:
    """Writes the splits; the bytes do not depend on `workers`, nor a scene on how many there are.

    Args:
        folder: where the shards go.
        population: whose people are drawn, each in scenes of their own split only.
        recipe: sizes and shares.
        counts: scenes by split.
        workers: processes; 1 draws in this one.
        on_drawn: told the number of scenes drawn since the last call.
    """
    from facegen.data.scenes import ScenesWriter  # here: worker processes do without pyarrow

    with _pool(population, workers) as pool:
        for split, count in counts.items():
            draw = partial(_draw_chunk, split=split, count=count, recipe=recipe)
            starts = range(0, count, _CHUNK)
            chunks = map(draw, starts) if pool is None else pool.map(draw, starts)
            with ScenesWriter(
                folder, split, height=recipe.height, width=recipe.width, attribute_names=FACE_ATTRIBUTES, source=SOURCE
            ) as writer:
                number = 0
                for chunk in chunks:
                    for scene in chunk:
                        writer.add(
                            f"{split}-{number:06d}", scene.png, scene.segmap_png, scene.caption, scene.description,
                            _segments(scene),
                        )  # fmt: skip
                        number += 1
                    on_drawn(len(chunk))


def pack_scene(population: Population, split: str, number: int, recipe: SceneRecipe) -> PackedScene:
    """Casts, draws, captions and encodes scene `number` of a split."""
    actors = cast_scene(population, split, number, height=recipe.height, width=recipe.width, two_share=recipe.two_share)
    drawn = draw_scene(actors, height=recipe.height, width=recipe.width, supersample=SUPERSAMPLE)
    subjects = [actor.subject for actor in actors]
    rng = numpy_generator(population.seed, f"scene-caption-{split}", number)
    caption, ends = short_caption(subjects, rng)
    text, _ = description(subjects, rng)
    return PackedScene(
        png=encode_png(drawn.pixels),
        segmap_png=encode_png(drawn.segmap),
        boxes=drawn.boxes(),
        caption=caption,
        ends=ends,
        description=text,
        people=tuple(actor.person for actor in actors),
        attributes=tuple(tuple(actor.attributes[name] for name in FACE_ATTRIBUTES) for actor in actors),
        landmarks=(drawn.landmarks - 0.5).astype(np.float32),
    )


def _segments(scene: PackedScene) -> list[Segment]:
    """The people as segments; identities count from 1, as the list of the data set of faces does."""
    from facegen.data.scenes import Segment

    return [
        Segment(
            id=index + 1, label="person", end=scene.ends[index], bbox=scene.boxes[index],
            landmarks=scene.landmarks[index], identity=scene.people[index] + 1, attributes=scene.attributes[index],
        )
        for index in range(len(scene.people))
    ]  # fmt: skip


def _draw_chunk(start: int, *, split: str, count: int, recipe: SceneRecipe) -> list[PackedScene]:
    return [pack_scene(_population, split, number, recipe) for number in range(start, min(start + _CHUNK, count))]


def _start_worker(population: Population) -> None:
    global _population
    _population = population


def _pool(population: Population, workers: int) -> ProcessPoolExecutor | nullcontext[None]:
    if workers == 1:
        _start_worker(population)
        return nullcontext()
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(population,)
    )
