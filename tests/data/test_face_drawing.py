"""One drawn face: the same bytes each time, landmarks on the features, every attribute to be seen where it belongs."""

from dataclasses import fields

import numpy as np
import pytest

from facegen.data.face_drawing import draw_face
from facegen.data.face_parameters import FACE_ATTRIBUTES, Identity, Shot, sample_identity, sample_shot
from facegen.rng import numpy_generator

SIZE = 64
PLAIN = dict.fromkeys(FACE_ATTRIBUTES, 0) | {"Young": 1, "No_Beard": 1}
# Where each attribute must change the picture most: fractions (left, top, right, bottom) of the picture.
REGION = {
    "Male": (0.15, 0.1, 0.85, 1.0),
    "Young": (0.1, 0.1, 0.9, 0.95),
    "Smiling": (0.2, 0.35, 0.8, 0.88),
    "Eyeglasses": (0.2, 0.4, 0.8, 0.7),
    "No_Beard": (0.2, 0.55, 0.8, 0.97),
    "Mustache": (0.25, 0.5, 0.75, 0.85),
    "Bangs": (0.2, 0.1, 0.8, 0.55),
    "Bald": (0.1, 0.0, 0.9, 0.6),
    "Black_Hair": (0.0, 0.0, 1.0, 1.0),
    "Blond_Hair": (0.0, 0.0, 1.0, 1.0),
    "Gray_Hair": (0.0, 0.0, 1.0, 1.0),
    "Wearing_Hat": (0.0, 0.0, 1.0, 0.5),
}


def person(index: int) -> tuple[Identity, Shot]:
    generator = numpy_generator(5, "test-face", index)
    return sample_identity(generator), sample_shot(generator)


def draw(index: int, attributes: dict[str, int], *, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    identity, shot = person(index)
    return draw_face(identity, shot, attributes, resolution=size, supersample=2)


def test_same_numbers_same_bytes() -> None:
    first, second = draw(0, PLAIN), draw(0, PLAIN)
    assert first[0].tobytes() == second[0].tobytes()
    assert np.array_equal(first[1], second[1])
    assert first[0].shape == (SIZE, SIZE, 3)
    assert first[0].dtype == np.uint8


@pytest.mark.parametrize("name", FACE_ATTRIBUTES)
def test_an_attribute_changes_its_region_and_is_seen_in_everybody(name: str) -> None:
    base = PLAIN | ({"Male": 1} if name in ("No_Beard", "Mustache", "Bald") else {})
    left, top, right, bottom = (round(SIZE * edge) for edge in REGION[name])
    for index in range(24):
        identity, shot = person(index)
        off, on = (
            draw_face(identity, shot, base | {name: value}, resolution=SIZE, supersample=2)[0].astype(float)
            for value in (0, 1)
        )
        change = np.abs(on - off).max(axis=-1)
        strong = change > 25
        assert strong.sum() >= 15, (name, index, strong.sum())
        assert strong[top:bottom, left:right].sum() > 0.5 * strong.sum(), (name, index)


def test_landmarks_lie_on_what_is_drawn() -> None:
    for index in range(24):
        picture, points = draw(index, PLAIN | {"Smiling": 1}, size=256)
        skin = np.median(picture[140:180, 90:166].reshape(-1, 3), axis=0)
        for x, y in points[:2]:  # an eye: white as well as dark within its radius, unlike skin
            patch = picture[int(y) - 7 : int(y) + 8, int(x) - 12 : int(x) + 13].astype(int)
            assert patch.sum(axis=-1).min() < 0.45 * skin.sum(), index
            assert patch.sum(axis=-1).max() > min(480, 0.9 * skin.sum()), index
        assert points[0, 0] < points[2, 0] < points[1, 0]
        assert points[3, 0] < points[4, 0]
        assert max(points[0, 1], points[1, 1]) < points[2, 1] < min(points[3, 1], points[4, 1])


def test_mouth_and_nose_landmarks_follow_their_features() -> None:
    for index in range(12):
        identity, shot = person(index)
        wide = Identity(**{f.name: getattr(identity, f.name) for f in fields(Identity)} | {"mouth_width": 1.0})
        narrow = Identity(**{f.name: getattr(identity, f.name) for f in fields(Identity)} | {"mouth_width": -1.0})
        results = [draw_face(who, shot, PLAIN, resolution=128, supersample=2) for who in (narrow, wide)]
        difference = np.abs(results[0][0].astype(int) - results[1][0].astype(int)).max(axis=-1) > 12
        rows, columns = np.nonzero(difference)
        for point in results[1][1][3:]:  # where the wide mouth ends, the pictures differ
            assert np.hypot(columns + 0.5 - point[0], rows + 0.5 - point[1]).min() < 5, index
        assert np.ptp(results[1][1][3:, 0]) > np.ptp(results[0][1][3:, 0])


def test_every_identity_number_changes_the_picture() -> None:
    attributes = PLAIN | {"Male": 1, "No_Beard": 0, "Eyeglasses": 1, "Young": 1}
    female = PLAIN
    blind = []
    for field in fields(Identity):
        changed = 0
        for index in range(6):
            identity, shot = person(index)
            values = {f.name: getattr(identity, f.name) for f in fields(Identity)}
            for states in (attributes, female):
                low, high = (
                    draw_face(Identity(**values | {field.name: value}), shot, states, resolution=SIZE, supersample=2)[0]
                    for value in (-0.9, 0.9)
                )
                changed += int(np.abs(low.astype(int) - high.astype(int)).max() > 8)
        if changed < 3:
            blind.append(field.name)
    assert not blind


def test_faces_of_two_sizes_show_the_same() -> None:
    from PIL import Image

    for index in range(4):
        small, large = draw(index, PLAIN)[0], draw(index, PLAIN, size=128)[0]
        halved = np.asarray(Image.fromarray(large).reduce(2)).astype(float)
        assert np.abs(halved - small).mean() < 3.0


def test_attributes_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="Smiling"):
        draw(0, PLAIN | {"Smiling": -1})
    with pytest.raises(ValueError, match="Big_Nose"):
        draw(0, PLAIN | {"Big_Nose": 1})
