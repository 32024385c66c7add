"""Scenes: one or two drawn people side by side, in front of one background and under one light.

The people are those of the data set of faces, with their numbers and in their splits. Every scene is a function of
(seed, split, its number) alone, so it does not depend on how many there are or how the work is split over processes.

Shape legend: K people of a scene, from left to right; H W picture size in px.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from facegen.data.canvas import Frame
from facegen.data.captions import Subject, subject_of
from facegen.data.face_drawing import paint_person
from facegen.data.face_light import backdrop, light_scene
from facegen.data.face_parameters import FACE_ATTRIBUTES, Identity, Shot, sample_shot
from facegen.data.procedural import SPLITS, Population, person_of
from facegen.rng import numpy_generator

HEIGHT, WIDTH = 64, 96  # px, that the measures below are meant for; other sizes scale them
# People stand for a portrait: a small model has to learn the scenes in minutes, and words should change faces, not places.
_UNIT = (25.0, 26.5)  # px of half a face picture's side
_BOTTOM = (-0.5, 1.5)  # px from the picture's lower edge down to where a face picture ends
_PLACE_OF_TWO = (23.5, 25.5)  # px from the side to the middle of a person
_PLACE_OF_ONE = (46.0, 50.0)
_POSE = 0.5  # of a face picture's turns and shifts
_REDRAWN = 0.5  # chance that an attribute of the shot is drawn anew: text has to be worth more than the person's habit
_PRESENT = {"Smiling": 0.5, "Eyeglasses": 0.4, "Bangs": 0.35, "Wearing_Hat": 0.45}  # how often it is then present


@dataclass(frozen=True)
class Actor:
    """Who stands where in a scene: `frame` is in picture px, `person` the number in the population."""

    person: int
    identity: Identity
    shot: Shot
    attributes: Mapping[str, int]
    frame: Frame

    @property
    def subject(self) -> Subject:
        """As captions see them."""
        return subject_of(self.identity, self.shot, self.attributes)


@dataclass(frozen=True)
class DrawnScene:
    """A drawn picture.

    Attributes:
        pixels: uint8 (H, W, 3).
        segmap: uint8 (H, W); 0 is the background, k + 1 person k.
        landmarks: float64 (K, 5, 2) in px; a pixel's centre is at half-integers.
    """

    pixels: np.ndarray
    segmap: np.ndarray
    landmarks: np.ndarray

    def boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """Boxes (x0, y0, x1, y1) in px of what is to be seen of each person, the last edges excluded."""
        found = []
        for number in range(1, len(self.landmarks) + 1):
            rows, columns = np.nonzero(self.segmap == number)
            found.append((float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)))
        return tuple(found)


def cast_scene(
    population: Population, split: str, number: int, *, height: int, width: int, two_share: float
) -> tuple[Actor, ...]:
    """Draws who is in a scene, how they look in it and where they stand.

    Args:
        population: the people.
        split: whose people: train, val or test.
        number: of the scene in its split, from 0.
        height: picture height in px.
        width: picture width in px.
        two_share: share of the scenes with two people.

    Returns:
        one or two actors, from left to right, under one light.

    Raises:
        ValueError: the split has fewer than two people.
    """
    rng = numpy_generator(population.seed, f"scene-{split}", number)
    rows = np.flatnonzero(population.split == SPLITS.index(split))
    people = np.unique(population.person[rows])
    if len(people) < 2:
        raise ValueError(f"{split} has {len(people)} people; scenes need two: raise render.num_identities")
    count = 2 if rng.random() < two_share else 1
    chosen = rng.choice(people, size=count, replace=False).tolist()
    first, *others = (_portrait(sample_shot(rng)) for _ in chosen)
    light = {name: getattr(first, name) for name in ("light_x", "light_y", "light_power", "light_warmth")}
    shots = [first, *(replace(shot, **light) for shot in others)]
    return tuple(
        _actor(population, person, shot, rng, frame)
        for person, shot, frame in zip(chosen, shots, _frames(rng, count, height, width), strict=True)
    )


def _portrait(shot: Shot) -> Shot:
    """The shot with smaller turns and shifts."""
    return replace(
        shot, **{name: _POSE * getattr(shot, name) for name in ("yaw", "pitch", "roll", "shift_x", "shift_y")}
    )


def _actor(population: Population, person: int, shot: Shot, rng: np.random.Generator, frame: Frame) -> Actor:
    """A person as in one of their pictures, some attributes of the shot drawn anew."""
    row = int(rng.choice(np.flatnonzero(population.person == person)))
    attributes = dict(zip(FACE_ATTRIBUTES, population.attributes[row].tolist(), strict=True))
    for name, share in _PRESENT.items():
        anew, present = rng.random(2)
        if anew < _REDRAWN:
            attributes[name] = int(present < share)
    attributes["Wearing_Hat"] &= 1 - attributes["Bald"]
    attributes["Bangs"] &= (1 - attributes["Bald"]) & (1 - attributes["Wearing_Hat"])
    return Actor(person, person_of(population, row), shot, attributes, frame)


def _frames(rng: np.random.Generator, count: int, height: int, width: int) -> list[Frame]:
    """Where `count` people stand, from left to right; frames in picture px."""
    scale = min(height / HEIGHT, width / WIDTH)
    frames = []
    for index in range(count):
        unit = scale * rng.uniform(*_UNIT)
        bottom = height + scale * rng.uniform(*_BOTTOM)
        x = rng.uniform(*(_PLACE_OF_TWO if count == 2 else _PLACE_OF_ONE)) * width / WIDTH
        x = width - x if index == 1 else x
        frames.append(Frame(unit, x / unit, bottom / unit - 1.0))
    return frames


def draw_scene(actors: Sequence[Actor], *, height: int, width: int, supersample: int) -> DrawnScene:
    """Draws a scene, the actors one over the other.

    Args:
        actors: from left to right; the first one's shot gives light and background.
        height: picture height in px.
        width: picture width in px.
        supersample: canvas pixels per picture pixel and side.

    Returns:
        the picture; each pixel belongs to whoever covers most of it, or to the background.
    """
    light = actors[0].shot
    canvas = np.full((height * supersample, width * supersample, 4), 255, dtype=np.uint8)
    canvas[..., :3] = backdrop(height * supersample, width * supersample, light)
    shares = [np.ones((height, width), dtype=np.float32)]  # of the background, then of each person
    landmarks = []
    for actor in actors:
        canvas = canvas.copy()
        canvas[..., 3] = 0
        frame = replace(actor.frame, unit=actor.frame.unit * supersample)
        head, canvas = paint_person(canvas, frame, actor.identity, actor.shot, actor.attributes)
        alpha = np.asarray(_reduced(canvas[..., 3], supersample), dtype=np.float32) / 255.0
        shares = [*(share * (1.0 - alpha) for share in shares), alpha]
        landmarks.append(actor.frame.pixels(head.landmarks()))
    pixels = light_scene(_reduced(canvas[..., :3], supersample), light)
    return DrawnScene(pixels, np.argmax(np.stack(shares), axis=0).astype(np.uint8), np.stack(landmarks))


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` px a side, uint8."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.reduce(factor) if factor > 1 else picture)
