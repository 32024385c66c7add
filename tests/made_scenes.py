"""Small scenes for tests: a drawn set of few people, and a folder in FastComposer's layout with known contents."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from facegen.config import load_params
from facegen.data.celeba_layout import encode_jpeg
from facegen.data.procedural import Population, sample_population
from facegen.data.scene_set import SceneRecipe, write_drawn_scenes

RECIPE = SceneRecipe(height=64, width=96, two_share=0.6)
CAPTION = "a man next to a woman"
PHOTO = (80, 200)  # height and width, px
SKY, MAN, WOMAN = (30, 60, 90), (200, 40, 40), (40, 200, 40)
# The people of the folder's photographs as (id, end, colour, (x0, y0, x1, y1)): the map is these boxes.
PEOPLE = ((7, 5, MAN, (60, 10, 90, 70)), (3, 21, WOMAN, (110, 20, 150, 60)))


@lru_cache
def small_population(seed: int = 0, people: int = 40) -> Population:
    """A few people of 3 pictures, with the prevalences of params.yaml."""
    render = load_params(Path(__file__).resolve().parents[1] / "params.yaml").render
    return sample_population(
        seed=seed, num_identities=people, images_per_identity=3, val_fraction=0.1, test_fraction=0.2,
        prevalence=render.prevalence, persistence=render.persistence, correlations=render.correlations,
    )  # fmt: skip


def write_small_scenes(folder: Path, *, train: int = 6, test: int = 3, workers: int = 1) -> Path:
    """A drawn scenes folder."""
    write_drawn_scenes(
        folder, small_population(), recipe=RECIPE, counts={"train": train, "test": test}, workers=workers,
        on_drawn=lambda _: None,
    )  # fmt: skip
    return folder


def face_in(box: tuple[float, ...]) -> np.ndarray:
    """Five landmarks (5, 2) px well inside a box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.55], [0.35, 0.7], [0.65, 0.7]])
    return np.array([x0, y0]) + shares * np.array([x1 - x0, y1 - y0]) - 0.5


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 (80, 200, 3) of two coloured boxes before a sky, and its map of segment ids."""
    pixels = np.full((*PHOTO, 3), SKY, dtype=np.uint8)
    segmap = np.zeros(PHOTO, dtype=np.int32)
    for number, _, colour, (x0, y0, x1, y1) in PEOPLE:
        pixels[y0:y1, x0:x1] = colour
        segmap[y0:y1, x0:x1] = number
    return pixels, segmap


def described(*, landmarks: bool = True, **changes: Any) -> dict[str, Any]:
    """The JSON of the photograph; keyword arguments replace keys."""
    segments = []
    for number, end, _, box in PEOPLE:
        segment = {"id": number, "bbox": list(box), "end": end, "coco_label": "person"}
        segments.append(segment | ({"landmarks": face_in(box).tolist()} if landmarks else {}))
    return {"caption": CAPTION, "segments": segments} | changes


def write_fastcomposer_folder(root: Path, *, train: int = 3, test: int = 1, landmarks: bool = True) -> Path:
    """A folder of copies of the photograph, with lists of the splits."""
    names = [f"{70000 + n:05d}00{n}" for n in range(train + test)]
    for name in names:
        place = root / name[:5]
        place.mkdir(parents=True)
        pixels, segmap = photograph()
        (place / f"{name}.jpg").write_bytes(encode_jpeg(pixels, quality=95))
        (place / f"{name}.json").write_text(json.dumps(described(landmarks=landmarks)))
        np.save(place / f"{name}.npy", segmap)
    for file, listed in (("", names), ("_train", names[:train]), ("_test", names[train:])):
        (root / f"image_ids{file}.txt").write_text("\n".join(listed) + "\n")
    return root
