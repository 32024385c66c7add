"""Drawn scenes: people as the data set of faces draws them, each with the pixels that are theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegen.data.canvas import Frame
from facegen.data.face_drawing import draw_face, paint_person
from facegen.data.face_parameters import FACE_ATTRIBUTES, sample_identity, sample_shot
from facegen.data.scene_drawing import Actor, cast_scene, draw_scene
from facegen.data.scene_set import pack_scene
from facegen.data.scenes import Scenes, Segment, face_masks
from facegen.rng import numpy_generator
from tests.made_scenes import RECIPE, small_population, write_small_scenes

# Mean red, green and blue, and the left eye's place in px, of three faces as they have always been drawn.
GOLDEN = {
    0: (80.077, 80.304, 99.635, 20.798, 34.42),
    1: (87.905, 81.56, 84.329, 24.887, 36.849),
    2: (126.461, 121.926, 113.475, 23.522, 36.204),
}


def golden_face(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = numpy_generator(5, "golden", number)
    identity, shot = sample_identity(generator), sample_shot(generator)
    attributes = dict(zip(FACE_ATTRIBUTES, generator.integers(0, 2, len(FACE_ATTRIBUTES)).tolist(), strict=True))
    return draw_face(identity, shot, attributes, resolution=64, supersample=1)


def cast(number: int, *, split: str = "train", two_share: float = 0.6) -> tuple[Actor, ...]:
    return cast_scene(small_population(), split, number, height=64, width=96, two_share=two_share)


@pytest.mark.parametrize("number", GOLDEN)
def test_faces_are_drawn_as_ever(number: int) -> None:
    picture, points = golden_face(number)
    assert [*picture.mean(axis=(0, 1)), *points[0]] == pytest.approx(GOLDEN[number], abs=0.02)


@pytest.mark.parametrize("supersample", [1, 3])
def test_one_actor_who_fills_a_square_scene_is_the_face_picture(supersample: int) -> None:
    for number in range(3):
        actor = replace(cast(number)[0], frame=Frame.square(48))
        scene = draw_scene([actor], height=48, width=48, supersample=supersample)
        face, points = draw_face(actor.identity, actor.shot, actor.attributes, resolution=48, supersample=supersample)
        assert np.array_equal(scene.pixels, face)
        assert scene.landmarks[0] == pytest.approx(points, abs=1e-9)


def test_moving_a_frame_by_whole_pixels_moves_the_person_and_the_landmarks() -> None:
    actor = replace(cast(0)[0], frame=Frame(20.0, 1.5, 1.5))
    moved = replace(actor, frame=Frame(20.0, 1.5 + 8 / 20, 1.5 + 4 / 20))
    first, second = (draw_scene([a], height=64, width=96, supersample=1) for a in (actor, moved))
    assert second.landmarks - first.landmarks == pytest.approx(np.full((1, 5, 2), 1.0) * (8, 4))
    assert np.array_equal(second.segmap[4:60, 8:96], first.segmap[0:56, 0:88])


def test_a_person_looks_alike_wherever_the_frame_lies() -> None:
    for number in range(4):
        actor = cast(number)[0]
        painted = []
        for height, width, left, top in ((128, 128, 0, 0), (160, 220, 70, 20)):
            frame = Frame(64.0, 1.0 + left / 64, 1.0 + top / 64)
            pixels = np.full((height, width, 3), 90, dtype=np.uint8)
            _, result = paint_person(pixels, frame, actor.identity, actor.shot, actor.attributes)
            painted.append(result[top : top + 128, left : left + 128].astype(int))
        assert np.abs(painted[0] - painted[1]).max() <= 2


def test_alpha_is_what_two_backgrounds_tell() -> None:
    for number in range(6):
        actor = cast(number)[0]
        frame = Frame(2 * actor.frame.unit, actor.frame.left, actor.frame.top)
        over = {}
        for grey in (0, 255):
            canvas = np.full((128, 192, 4), grey, dtype=np.uint8)
            canvas[..., 3] = 0
            _, painted = paint_person(canvas, frame, actor.identity, actor.shot, actor.attributes)
            over[grey] = painted.astype(int)
        assert np.array_equal(over[0][..., 3], over[255][..., 3])
        share = 255 - (over[255][..., :3] - over[0][..., :3]).mean(axis=-1)
        difference = np.abs(share - over[0][..., 3])
        assert np.quantile(difference, 0.99) <= 3
        assert difference.mean() < 0.3


def test_alpha_changes_no_colour() -> None:
    actor = cast(1)[0]
    frame = Frame(2 * actor.frame.unit, actor.frame.left, actor.frame.top)
    canvas = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    clear = np.concatenate([canvas, np.zeros((128, 192, 1), np.uint8)], axis=-1)
    plain, with_alpha = (
        paint_person(pixels, frame, actor.identity, actor.shot, actor.attributes)[1] for pixels in (canvas, clear)
    )
    assert np.array_equal(plain, with_alpha[..., :3])


def test_pixels_belong_to_who_is_painted_there() -> None:
    """Painting one of two people in another's place changes none of what belongs to the background alone."""
    pair = next(actors for actors in map(cast, range(20)) if len(actors) == 2)
    both = draw_scene(pair, height=64, width=96, supersample=2)
    left = draw_scene(pair[:1], height=64, width=96, supersample=2)
    assert set(np.unique(both.segmap)) == {0, 1, 2}
    assert both.segmap[:, :24].max() == 1
    assert both.segmap[40:, 80:].max() == 2
    changed = np.abs(both.pixels.astype(int) - left.pixels).max(axis=-1) > 12
    assert (both.segmap[changed] == 2).mean() > 0.85  # the rest are edges
    assert np.array_equal(both.segmap == 1, (left.segmap == 1) & (both.segmap != 2))


def test_landmarks_lie_on_their_person_and_faces_do_not_overlap() -> None:
    eyes = []
    for number in range(40):
        actors = cast(number)
        scene = draw_scene(actors, height=64, width=96, supersample=1)
        for index, points in enumerate(scene.landmarks):
            x, y = np.floor(points).astype(int).T
            assert (scene.segmap[y, x] == index + 1).all(), number
            eyes.append(float(np.hypot(*(points[1] - points[0]))))
        segments = [Segment(i + 1, "person", 1, (0, 0, 1, 1), p, -1, ()) for i, p in enumerate(scene.landmarks)]
        masks = face_masks(segments, (64, 96), kind="face")
        assert (masks.sum(axis=0) <= 1.0).all(), number
        boxes = scene.boxes()
        for index, (x0, y0, x1, y1) in enumerate(boxes):
            own = scene.segmap == index + 1
            assert own[int(y0) : int(y1), int(x0) : int(x1)].sum() == own.sum()
            assert own[int(y0)].any()
            assert own[:, int(x1) - 1].any()
        if len(boxes) == 2:
            assert scene.landmarks[0, :, 0].max() < scene.landmarks[1, :, 0].min()
    assert 12.5 < np.mean(eyes) < 15.0


def test_casts_are_people_of_their_split_under_one_light() -> None:
    population = small_population()
    people = {split: set(population.person[population.split == n].tolist()) for n, split in ((0, "train"), (2, "test"))}
    numbers = []
    for split, own in people.items():
        for number in range(60):
            actors = cast(number, split=split)
            assert {a.person for a in actors} <= own
            assert len({a.person for a in actors}) == len(actors)
            assert len({(a.shot.light_x, a.shot.light_y, a.shot.light_power, a.shot.light_warmth) for a in actors}) == 1
            numbers.append(len(actors))
            for a in actors:
                rows = population.attributes[population.person == a.person]
                for name in ("Male", "Black_Hair", "Blond_Hair", "Bald"):
                    assert a.attributes[name] == rows[0, FACE_ATTRIBUTES.index(name)]
                assert not a.attributes["Wearing_Hat"] & (a.attributes["Bald"] | a.attributes["Bangs"])
    assert 0.45 < np.mean(np.array(numbers) == 2) < 0.75
    assert {len(cast(n, two_share=0.0)) for n in range(20)} == {1}
    assert {len(cast(n, two_share=1.0)) for n in range(20)} == {2}


def test_people_stand_for_a_portrait() -> None:
    """In the middle or on either side, of one size, half turned at most: what a small model can learn in minutes."""
    scenes = [cast(number) for number in range(200)]
    turns = np.array([[getattr(a.shot, n) for n in ("yaw", "pitch", "roll", "shift_x")] for c in scenes for a in c])
    assert 0.3 < np.abs(turns).max() <= 0.5
    middles = {
        count: np.array([[a.frame.unit * a.frame.left for a in c] for c in scenes if len(c) == count])
        for count in (1, 2)
    }
    assert np.abs(middles[1] - 48).max() <= 2
    assert np.abs(middles[2] - (24.5, 96 - 24.5)).max() <= 1
    units = np.array([a.frame.unit for c in scenes for a in c])
    assert 25 <= units.min() < units.max() <= 26.5


def test_a_scene_is_a_function_of_the_seed_and_its_number() -> None:
    first, again, next_one = (pack_scene(small_population(), "train", n, RECIPE) for n in (4, 4, 5))
    other = pack_scene(small_population(seed=1), "train", 4, RECIPE)
    test = pack_scene(small_population(), "test", 4, RECIPE)
    assert first.png == again.png
    assert first.caption == again.caption
    assert len({s.png for s in (first, next_one, other, test)}) == 4


def test_the_set_does_not_depend_on_processes_and_grows_at_its_end(tmp_path: Path) -> None:
    one = write_small_scenes(tmp_path / "one", train=3, test=2)
    two = write_small_scenes(tmp_path / "two", train=3, test=2, workers=2)
    for split in ("train", "test"):
        name = f"{split}-00000.parquet"
        assert (one / name).read_bytes() == (two / name).read_bytes()
    more = Scenes.open(write_small_scenes(tmp_path / "more", train=5, test=2), "train")
    few = Scenes.open(one, "train")
    assert more.captions[:3] == few.captions
    assert np.array_equal(more.images(range(3), threads=1), few.images(range(3), threads=2))


def test_segments_of_a_drawn_set_are_those_of_its_pictures(tmp_path: Path) -> None:
    population = small_population()
    write_small_scenes(tmp_path, train=5, test=2)
    for split, index in (("train", 0), ("test", 2)):
        scenes = Scenes.open(tmp_path, split)
        identities = {segment.identity for own in scenes.segments for segment in own}
        assert identities <= set((population.person[population.split == index] + 1).tolist())  # as the faces' list
        assert scenes.size == (64, 96)
        assert scenes.attribute_names == FACE_ATTRIBUTES
        for number, own in enumerate(scenes.segments):
            actors = cast(number, split=split)
            drawn = draw_scene(actors, height=64, width=96, supersample=2)
            assert np.array_equal(scenes.images([number], threads=1)[0], drawn.pixels)
            assert np.array_equal(scenes.segmaps([number], threads=1)[0], drawn.segmap)
            assert [s.identity for s in own] == [a.person + 1 for a in actors]
            for segment, points, box, actor in zip(own, drawn.landmarks, drawn.boxes(), actors, strict=True):
                assert segment.landmarks == pytest.approx(points - 0.5, abs=1e-4)
                assert segment.bbox == box
                assert dict(zip(FACE_ATTRIBUTES, segment.attributes, strict=True)) == actor.attributes
                assert scenes.captions[number][: segment.end].endswith(("man", "woman", "person"))


def test_a_split_of_one_person_has_no_scenes() -> None:
    population = small_population()
    only = population.person[population.split == 0][0]
    lonely = replace(population, split=np.where(population.person == only, 0, 1).astype(np.int8))
    with pytest.raises(ValueError, match="train has 1 people; scenes need two"):
        cast_scene(lonely, "train", 0, height=64, width=96, two_share=0.5)
