"""Figures of pictures of given people, on pictures that say themselves whom they show.

A face is a patch of one colour: red says who it is, green what a judge sees in it, blue that it is a face. The detector,
the recogniser and the judge of these tests read that back, so that every figure is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from facegen.artifacts import write_json
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.measured_personalize import (
    SeenFaces,
    Witnesses,
    harmonic_mean,
    measure_pictures,
    of_people,
    prompt_share,
    references_of,
)
from facegen.personalize.picture_sets import Wanted, planned
from facegen.personalize.pictures import ABOUT, PICTURES, Drawn, PictureSet, write_pictures
from facegen.score_personalize import Rows, alpha_curve, by_method, difference, mean_template, personalize_figures

SIDE, DIM, BLUE = 32, 8, 230
NAMES = ["Smiling", "Eyeglasses"]
FACE = np.array([[12.0, 13], [19, 13], [16, 16], [13, 19], [18, 19]])  # around the middle of a picture
PEOPLE = (1, 2, 3, 4)
PAIRS = ((1, 2), (3, 4))
SMILE, BOTH = "<id:0> smiling", "<id:0> and <id:1> with eyeglasses"


def code(person: int) -> np.ndarray:
    rows = np.abs(np.random.default_rng(person).standard_normal(DIM))
    return rows / np.linalg.norm(rows)


def picture(*faces: tuple[int, int], width: int = 2 * SIDE) -> np.ndarray:
    """Faces (person, attributes as bits) side by side on grey."""
    out = np.full((SIDE, width, 3), 60, np.uint8)
    for number, (person, bits) in enumerate(faces):
        middle = round((number + 0.5) * width / max(1, len(faces)))
        out[8:24, middle - 8 : middle + 8] = (person, 10 * bits, BLUE)
    return out


@dataclass(frozen=True)
class Found:
    landmarks: np.ndarray


def detect(pixels: np.ndarray) -> list[Found]:
    labels, num = ndimage.label(pixels[..., 2] > 200)
    middles = ndimage.center_of_mass(labels > 0, labels, range(1, num + 1)) if num else []
    return [Found(FACE + np.round([x - 15.5, y - 15.5])) for y, x in middles]


class Recogniser:
    name, dim = "codes", DIM

    def embed(self, images: np.ndarray, landmarks: np.ndarray | None, *, flip: bool = False) -> np.ndarray:
        assert landmarks is not None
        x, y = landmarks.mean(axis=1).round().astype(int).T
        return np.stack([code(p) for p in images[np.arange(len(images)), y, x, 0]]).astype(np.float32)


class Judge:
    name, resolution = "bits", SIDE
    judge = SimpleNamespace(config=SimpleNamespace(attribute_names=NAMES, thresholds=[0.5, 0.8]))

    def both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert images.shape[1:] == (SIDE, SIDE, 3)
        bits = (images[:, 16, 16, 1] // 10)[:, None] >> np.arange(2) & 1
        return np.zeros((len(images), 4)), np.where(bits, [0.6, 0.9], [0.4, 0.7])


class Progress:
    def __init__(self, *_: Any) -> None:
        self.done = 0

    def update(self, num: int) -> None:
        self.done += num

    def close(self) -> None:
        pass


def write_faces(folder: Path) -> Faces:
    """Three pictures of each person, the reference first, in turn; landmarks where the face is."""
    with FacesWriter(folder, "test", resolution=SIDE, attribute_names=[], sources={}, rows_per_shard=99) as writer:
        for number in range(3):
            for person in PEOPLE:
                png = encode_png(picture((person, 0), width=SIDE))
                writer.add(f"{person}/{number}", png, np.empty(0), person, FACE)
    return Faces.open(folder, "test")


def shown(row: Drawn) -> np.ndarray:
    """What each method makes of a request."""
    own = row.subjects
    match row.method:
        case "class_word":
            return picture(*((60 + row.seed % 7 + k, 3) for k in range(len(own))))
        case "single":
            return picture((own[0], 1))
        case "single_plain":
            return picture((own[0], 2))
        case "naive":
            return picture((own[0], 3), (own[0], 3))
        case "mf2d_unlocalized":
            return picture((own[0], 2))
        case _ if row.alpha < 0.5:
            return picture((50, 2), (51, 0))
        case _:
            return picture((own[1], 2), (own[0], 2 if own == (1, 2) else 0))
    raise AssertionError(row)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Faces, list[Drawn]]:
    folder = tmp_path_factory.mktemp("world")
    faces = write_faces(folder / "faces")
    wanted = Wanted((SMILE, "<id:0>"), (BOTH,), 4, 1, 0.6, (0.3,), 2, 0)
    rows = planned(wanted, PEOPLE, PAIRS, {person: (person - 1,) for person in PEOPLE})
    images = np.stack([shown(row) for row in rows])
    write_pictures(folder / PICTURES, rows, images, about={"alpha": 0.6, "class_word": "a person"})
    write_json(folder / ABOUT, {"pictures": len(rows)})
    return folder, faces, rows


def figures_of(world: tuple[Path, Faces, list[Drawn]], **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "judge": Judge(),
        "embedder": Recogniser(),
        "detect": detect,
        "clip": None,
        "scenes": None,
    } | changes
    return personalize_figures(world[0], world[1], seed=0, threads=1, progress=Progress, **given)


@pytest.fixture(scope="module")
def found(world: tuple[Path, Faces, list[Drawn]]) -> dict[str, Any]:
    return figures_of(world)


def value(figures: dict[str, Any], name: str) -> float:
    interval = figures[name]
    assert interval["low"] - 1e-9 <= interval["value"] <= interval["high"] + 1e-9
    return float(interval["value"])


def test_one_person(found: dict[str, Any]) -> None:
    single, plain = found["single"], found["single_plain"]
    assert value(single, "identity") == pytest.approx(1, abs=1e-5)
    assert value(single, "prompt") == value(single, "detection_rate") == 1
    assert value(single, "harmonic") == pytest.approx(1, abs=1e-5)
    assert value(plain, "identity") == pytest.approx(1, abs=1e-5)
    assert value(plain, "prompt") == value(plain, "harmonic") == 0
    assert (single["identity"]["n"], single["pictures"]) == (4, 8)


def test_the_class_word_shows_strangers(found: dict[str, Any], world: tuple[Path, Faces, list[Drawn]]) -> None:
    alone = [row for row in world[2] if row.method == "class_word" and len(row.subjects) == 1]
    cosines = [code(row.subjects[0]) @ code(60 + row.seed % 7) for row in alone]
    assert value(found["class_word"], "identity") == pytest.approx(np.mean(cosines), abs=1e-5)
    two = [row for row in world[2] if row.method == "class_word" and len(row.subjects) == 2]
    least = []
    for row in two:
        faces = [code(60 + row.seed % 7 + k) for k in range(2)]
        best = max(permutations(range(2)), key=lambda o: sum(faces[o[k]] @ code(p) for k, p in enumerate(row.subjects)))
        least.append(min(faces[best[k]] @ code(p) for k, p in enumerate(row.subjects)))
    assert value(found["class_word_two"], "min_identity") == pytest.approx(np.mean(least), abs=1e-5)


def test_two_people(found: dict[str, Any]) -> None:
    across = [float(code(a) @ code(b)) for a, b in PAIRS]
    assert value(found["mf2d"], "min_identity") == pytest.approx(1, abs=1e-5)  # whoever stands on which side
    assert value(found["mf2d"], "prompt") == pytest.approx((1 + 1 / 2) / 2)  # one of (3, 4) has no glasses
    assert value(found["naive"], "min_identity") == pytest.approx(np.mean(across), abs=1e-5)
    assert value(found["naive"], "identity") == pytest.approx(np.mean([(1 + c) / 2 for c in across]), abs=1e-5)
    lonely = found["mf2d_unlocalized"]
    assert value(lonely, "detection_rate") == 0.5
    assert value(lonely, "identity") == pytest.approx(0.5, abs=1e-5)  # nobody is there: 0
    assert value(lonely, "min_identity") == value(lonely, "harmonic") == 0
    assert value(lonely, "prompt") == 0.5
    assert "single" in found
    assert "single_two" not in found


def test_differences(found: dict[str, Any]) -> None:
    gain = found["difference"]["mf2d"]["naive"]
    assert value(gain, "min_identity") == pytest.approx(1 - value(found["naive"], "min_identity"), abs=1e-5)
    assert gain["min_identity"]["n"] == 2
    assert value(found["difference"]["single"]["single_plain"], "prompt") == 1
    assert value(found["difference"]["single"]["class_word"], "identity") == pytest.approx(
        1 - value(found["class_word"], "identity"), abs=1e-5
    )
    assert set(found["difference"]["mf2d"]) == {"class_word_two", "naive", "mf2d_unlocalized"}


def test_the_curve_over_alpha_begins_with_the_class_word(found: dict[str, Any]) -> None:
    assert [point["alpha"] for point in found["alpha"]] == [0.0, 0.3, 0.6]
    start, early, default = found["alpha"]
    for name in ("identity", "prompt", "min_identity"):
        assert start[name] == found["class_word_two"][name]
        assert default[name] == found["mf2d"][name]
    assert value(early, "prompt") == pytest.approx(0.5)


def test_the_yardstick(found: dict[str, Any]) -> None:
    assert value(found["real"], "same") == pytest.approx(1, abs=1e-5)
    strangers = [code(a) @ code(b) for a, b in zip(PEOPLE, (2, 3, 4, 1), strict=True)]
    assert value(found["real"], "strangers") == pytest.approx(np.mean(strangers), abs=1e-5)
    assert value(found["real"], "detection_rate") == 1
    assert found["real"]["pictures"] == 8  # two others of each person
    assert (found["about"]["people"], found["about"]["pairs"], found["about"]["judge"]) == (4, 2, "bits")


def test_scenes_as_the_yardstick(world: tuple[Path, Faces, list[Drawn]]) -> None:
    segment = SimpleNamespace
    scenes = SimpleNamespace(
        captions=["a man smiling and a woman with eyeglasses", "a person", "a man and a woman", "nobody"],
        segments=[
            (segment(identity=1, end=5), segment(identity=2, end=25)),
            (segment(identity=3, end=8),),
            (segment(identity=4, end=5), segment(identity=99, end=17)),  # who has no picture
            (),
        ],
        images=lambda rows, *, threads: np.stack(
            [[picture((1, 1), (2, 1)), picture((4, 0)), picture(), picture()][row] for row in rows]
        ),
    )
    got = figures_of(world, scenes=scenes)["real"]["scenes"]
    assert got["pictures"] == 2
    assert value(got, "identity") == pytest.approx((1 + code(3) @ code(4)) / 2, abs=1e-5)
    assert got["prompt"] is None  # one group of people alone was asked for something
    assert figures_of(world)["real"]["scenes"] is None


def test_prompt_by_prompt(found: dict[str, Any]) -> None:
    rows = {row["prompt"]: row["methods"] for row in found["prompts"]}
    assert rows["<id:0>"]["single"] == {"min_identity": pytest.approx(1, abs=1e-5), "prompt": None}  # it asks nothing
    assert rows[SMILE]["single"]["prompt"] == 1
    assert set(rows[BOTH]) == {"class_word_two", "naive", "mf2d_unlocalized", "mf2d"}


def test_nothing_to_measure(world: tuple[Path, Faces, list[Drawn]], tmp_path: Path) -> None:
    assert "recogniser" in figures_of(world, embedder=None)["absent"]
    assert "detection" in figures_of(world, detect=None)["absent"]
    write_json(tmp_path / ABOUT, {"absent": "no scenes"})
    assert figures_of((tmp_path, world[1], []))["absent"] == "no scenes"


def test_words_by_clip(world: tuple[Path, Faces, list[Drawn]]) -> None:
    class Clip:
        name = "clip"
        prompts: Sequence[str] = ()

        def scores(
            self, images: np.ndarray, prompts: Sequence[str], references: Sequence[np.ndarray]
        ) -> tuple[np.ndarray, np.ndarray]:
            Clip.prompts = prompts
            people = [own[:, 16, 16, 0].tolist() for own in references]
            return np.full(len(images), 0.5), np.array([float(len(own)) for own in people])

    found = figures_of(world, clip=Clip())
    assert value(found["single"], "clip") == 0.5
    assert value(found["single"], "harmonic_clip") == pytest.approx(2 * 0.5 / 1.5, abs=1e-5)
    assert (value(found["single"], "dclip"), value(found["mf2d"], "dclip")) == (1, 2)  # pictures of both people
    assert "a person and a person with eyeglasses" in Clip.prompts
    assert found["about"]["clip"] == "clip"


def test_a_difference_is_over_what_both_were_asked() -> None:
    def rows(method: str, values: dict[int, float]) -> Rows:
        drawn = [Drawn(method, 1.0, "<id:0>", (person,), ((0,),), 5) for person in values]
        return Rows(drawn, {"identity": np.array(list(values.values()))})

    got = difference(rows("a", {1: 0.5, 2: 0.9, 3: 0.1}), rows("b", {4: 9.0, 3: 0.0, 2: 0.2}), seed=0)
    assert got["pictures"] == 2
    assert got["identity"]["value"] == pytest.approx((0.7 + 0.1) / 2)
    assert got["identity"]["n"] == 2


def test_rows_at_another_alpha_are_no_method_of_their_own(world: tuple[Path, Faces, list[Drawn]]) -> None:
    drawn = world[2]
    values = {"identity": np.arange(len(drawn), dtype=float)}
    parts = by_method(Rows(drawn, values), default=0.6)
    assert {row.alpha for row in parts["mf2d"].drawn} == {0.6}
    assert {row.alpha for row in by_method(Rows(drawn, values), default=0.3)["mf2d"].drawn} == {0.3}
    without = [row for row in drawn if row.method != "mf2d"]
    assert alpha_curve(Rows(without, {"identity": np.zeros(len(without))}), parts, seed=0) == []


def test_the_share_of_what_is_asked() -> None:
    present = np.array([[True, False], [False, True]])
    assert prompt_share("<id:0> smiling and <id:1> with eyeglasses", np.array([0, 1]), present, NAMES) == 1
    assert prompt_share("<id:0> smiling and <id:1> with eyeglasses", np.array([1, 0]), present, NAMES) == 0
    assert prompt_share("<id:0> smiling and <id:1> with eyeglasses", np.array([0, -1]), present, NAMES) == 0.5
    assert np.isnan(prompt_share("<id:0> in a hat", np.array([0]), present, NAMES))  # the judge knows no hats
    assert np.isnan(prompt_share("<id:0>", np.array([0]), present, NAMES))


def test_the_harmonic_mean() -> None:
    got = harmonic_mean(np.array([0.5, 0.0, 0.0, 1.2, np.nan]), np.array([0.25, 0.0, 1.0, 1.0, 1.0]))
    assert got[:4] == pytest.approx([2 * 0.5 * 0.25 / 0.75, 0, 0, 1])
    assert np.isnan(got[4])


def test_people_count_once_however_many_pictures_they_have() -> None:
    got = of_people(np.array([1.0, np.nan, 0.0, 0.5, np.nan]), [(1,), (1,), (1,), (2,), (3,)])
    assert got == {(1,): 0.5, (2,): 0.5}


def test_negative_cosines_count_as_no_likeness() -> None:
    rows = [Drawn("single", 1.0, "<id:0>", (1,), ((0,),), 0)]
    seen = SeenFaces(np.array([0]), np.array([[-1.0, 0.0]]), np.zeros((1, 2), bool), 0)
    got = measure_pictures(rows, seen, {(0,): np.array([1.0, 0.0])}, NAMES)
    assert (got["identity"][0], got["detection_rate"][0]) == (0, 1)


def test_references_are_the_mean_direction(world: tuple[Path, Faces, list[Drawn]]) -> None:
    got = references_of(world[1], [(0,), (0, 1), (0, 4)], Recogniser(), threads=1)
    total = code(1) + code(2)
    assert got[(0, 1)] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)
    assert got[(0, 4)] == pytest.approx(code(1), abs=1e-6)  # two pictures of one person


def test_detections_that_are_no_faces_are_counted(world: tuple[Path, Faces, list[Drawn]]) -> None:
    far = Found(FACE + 5000)
    witnesses = Witnesses(lambda p: [far, *detect(p)], Judge(), Recogniser(), FACE)  # type: ignore[arg-type]
    seen = witnesses.see(iter([np.stack([picture((1, 1)), picture(), picture((2, 0), (3, 2))])]))
    assert seen.unusable == 3
    assert seen.picture.tolist() == [0, 2, 2]
    assert seen.present.tolist() == [[True, False], [False, False], [False, True]]
    none = replace(witnesses, detect=lambda _: []).see(iter([np.stack([picture()])]))
    assert (len(none.picture), none.present.shape) == (0, (0, 2))


def test_the_template_follows_the_resolution(world: tuple[Path, Faces, list[Drawn]]) -> None:
    assert mean_template(world[1], SIDE) == pytest.approx(FACE)
    assert mean_template(world[1], 2 * SIDE) == pytest.approx((FACE + 0.5) * 2 - 0.5)


def test_a_picture_set_without_a_method_has_no_row_of_it(tmp_path: Path) -> None:
    rows = [Drawn("single", 1.0, SMILE, (1,), ((0,),), 0)]
    write_pictures(tmp_path / PICTURES, rows, picture((1, 1))[None], about={"alpha": 0.6})
    opened = PictureSet.open(tmp_path / PICTURES)
    assert set(by_method(Rows(opened.rows, {}), default=0.6)) == {"single"}
