"""Parts of a face: anchored to the landmarks, where the drawing changes them; brushes and boxes that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.data.align import CANONICAL, canonical_landmarks
from facegen.data.face_drawing import draw_face
from facegen.data.face_parameters import FACE_ATTRIBUTES, sample_identity, sample_shot
from facegen.data.regions import (
    ATTRIBUTE_REGIONS,
    NOSE_V,
    REGIONS,
    FaceFrame,
    box_mask,
    fill_polygons,
    mask_share,
    parse_region,
    read_mask,
    region_mask,
    regions_of,
)

SIDE = 128
# Mean landmarks of the drawn faces, fractions of the side.
DRAWN = np.array([[0.367, 0.560], [0.634, 0.560], [0.501, 0.706], [0.385, 0.814], [0.616, 0.814]])
FACES = {"celeba": CANONICAL, "drawn": DRAWN}
# Shares of the picture, per cent: CelebA's mean face, the drawn faces' mean face.
SHARES = {
    "eyes": (2.4, 3.2), "glasses": (10.3, 13.7), "brows": (2.2, 3.0), "nose": (1.9, 2.6), "mouth": (3.2, 4.3),
    "upper_lip": (2.5, 3.2), "beard": (17.0, 20.2), "cheeks": (4.6, 6.0), "hair": (50.2, 61.3),
    "forehead": (13.8, 18.8), "hat": (43.8, 48.1), "ears": (4.7, 6.2), "neck": (9.2, 3.2), "face": (29.2, 38.5),
    "upper_face": (61.6, 67.4),
    "lower_face": (38.4, 32.6), "left_half": (50.0, 50.0), "right_half": (50.0, 50.0),
}  # fmt: skip
CELEBA_ATTRIBUTES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones
Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
"""


def face(name: str = "drawn", side: int = SIDE) -> np.ndarray:
    return FACES[name] * side - 0.5


def turned(points: np.ndarray, *, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    matrix = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return points @ matrix.T + np.array(shift)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def at(mask: np.ndarray, point: np.ndarray) -> bool:
    x, y = np.round(point).astype(int)
    return bool(mask[y, x])


def test_every_attribute_of_celeba_has_parts_and_any_other_the_face() -> None:
    assert sorted(ATTRIBUTE_REGIONS) == sorted(CELEBA_ATTRIBUTES.split()) and len(ATTRIBUTE_REGIONS) == 40
    assert all(name in REGIONS for names in ATTRIBUTE_REGIONS.values() for name in names)
    assert regions_of("Mustache") == ("upper_lip",) and regions_of("Bright_Background") == ("face",)


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("which", [0, 1])
def test_shares_of_the_picture(name: str, which: int) -> None:
    points = face(("celeba", "drawn")[which], 256)
    share = 100 * mask_share(region_mask([name], points, size=256))
    assert share == pytest.approx(SHARES[name][which], rel=0.05, abs=0.1)


def test_the_five_points_go_where_the_landmarks_are() -> None:
    draw = np.random.default_rng(0)
    corners = np.array([(-1, 0), (1, 0), (0, NOSE_V), (-1, 1), (1, 1)])
    for _ in range(20):
        points = turned(face(), angle=draw.uniform(-3, 3), scale=draw.uniform(0.3, 4), shift=(7, -5))
        points += draw.normal(0, 4, (5, 2))  # no similarity takes the canonical face there
        assert np.allclose(FaceFrame(points).to_picture(corners), points, atol=1e-9)


def test_on_the_canonical_face_the_frame_is_the_canonical_one() -> None:
    """Outside of the five points u and v go on at half the distance of the eyes, and that from eyes to mouth."""
    place = FaceFrame(canonical_landmarks(1000)).to_picture(
        np.array([(3.0, -2.0), (-3.0, 0.0), (0.0, 2.0), (2.5, 1.5)])
    )
    x, y = CANONICAL[1, 0] - 0.5, CANONICAL[3, 1] - CANONICAL[0, 1]
    mouth = CANONICAL[4, 0] - 0.5
    wanted = [
        (0.5 + 3 * x, 0.512 - 2 * y), (0.5 - 3 * x, 0.512), (0.5, 0.743 + y), (0.5 + mouth + 1.5 * x, 0.743 + y / 2)
    ]  # fmt: skip
    assert np.allclose(place, np.array(wanted) * 1000 - 0.5, atol=0.01)


@pytest.mark.parametrize("name", REGIONS)
def test_a_mirrored_face_has_mirrored_parts(name: str) -> None:
    points = face() + np.random.default_rng(1).normal(0, 2, (5, 2))
    mirrored = points[[1, 0, 2, 4, 3]] * (-1, 1) + (SIDE - 1, 0)
    other = {"left_half": "right_half", "right_half": "left_half"}.get(name, name)
    here, there = region_mask([name], points, size=SIDE), region_mask([other], mirrored, size=SIDE)
    assert (here != there[:, ::-1]).mean() < 1e-3  # a centre exactly on an edge may fall to either side


@pytest.mark.parametrize("name", REGIONS)
def test_parts_turn_move_and_grow_with_the_face(name: str) -> None:
    points = face() + np.random.default_rng(2).normal(0, 2, (5, 2))
    angle, scale, shift = 0.4, 1.7, (71.0, -40.0)
    moved = region_mask([name], turned(points, angle=angle, scale=scale, shift=shift), size=(230, 240))
    y, x = np.mgrid[:230, :240]
    back = turned(np.stack([x, y], -1).reshape(-1, 2) - shift, angle=-angle, scale=1 / scale, shift=(0, 0))
    rows, columns = np.round(back[:, 1]).astype(int), np.round(back[:, 0]).astype(int)
    seen = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    still = region_mask([name], points, size=SIDE)
    assert seen.sum() > 30_000
    assert overlap(moved.reshape(-1)[seen], still[rows[seen], columns[seen]]) > 0.9


@pytest.mark.parametrize("which", FACES)
def test_where_the_parts_lie(which: str) -> None:
    points = face(which)
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    masks = {name: region_mask([name], points, size=SIDE) for name in REGIONS}
    rows = {name: np.flatnonzero(mask.any(axis=1)) for name, mask in masks.items()}
    for name in ("eyes", "glasses"):
        assert at(masks[name], left_eye) and at(masks[name], right_eye) and not at(masks[name], nose)
    assert not at(masks["eyes"], (left_eye + right_eye) / 2) and at(masks["glasses"], (left_eye + right_eye) / 2)
    assert at(masks["mouth"], left_mouth + np.array([1, 0])) and at(masks["mouth"], (left_mouth + right_mouth) / 2)
    assert at(masks["nose"], nose) and not at(masks["nose"], (left_mouth + right_mouth) / 2)
    assert rows["upper_lip"][0] > nose[1] and rows["upper_lip"][-1] > left_mouth[1]
    assert (masks["upper_lip"] & masks["nose"]).sum() < 0.2 * masks["upper_lip"].sum()
    assert rows["brows"][-1] < left_eye[1] < rows["cheeks"][0] and rows["forehead"][-1] < left_eye[1]
    assert (masks["beard"] & masks["mouth"]).sum() == masks["mouth"].sum()  # the beard's part is the jaw and the mouth
    assert not (masks["hair"] & masks["eyes"]).any() and not (masks["hair"] & masks["mouth"]).any()
    assert masks["hair"][0].any() and masks["hat"][0].any() and masks["neck"][-1].any()
    assert rows["hat"][0] == 0 and rows["hat"][-1] < left_eye[1]
    for name in ("eyes", "nose", "mouth", "upper_lip", "cheeks"):
        assert (masks["face"] & masks[name]).sum() == masks[name].sum()
    for one, two in (("upper_face", "lower_face"), ("left_half", "right_half")):
        assert (masks[one] ^ masks[two]).all()  # between them everything, each pixel once
    assert masks["left_half"][:, 0].all() and masks["lower_face"][-1].all() and not masks["lower_face"][0].any()


def test_a_wide_low_mouth_takes_its_parts_along() -> None:
    points = face()
    moved = points.copy()
    moved[3] += (-8, 9)
    moved[4] += (8, 9)
    narrow, wide = (np.argwhere(region_mask(["mouth"], p, size=SIDE)) for p in (points, moved))
    assert np.ptp(wide[:, 1]) >= np.ptp(narrow[:, 1]) + 15 and wide[:, 0].mean() > narrow[:, 0].mean() + 8
    eyes = [np.argwhere(region_mask(["eyes"], p, size=SIDE)) for p in (points, moved)]
    assert np.abs(eyes[0].mean(axis=0) - eyes[1].mean(axis=0)).max() < 0.5


def drawn_pair(attribute: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where the drawing changes when an attribute comes, and the landmarks of the face without it."""
    states = dict.fromkeys(FACE_ATTRIBUTES, 0) | {"No_Beard": 1, "Male": 1}
    states |= {"Young": int(generator.integers(2)), "Smiling": int(generator.integers(2))}
    identity, shot = sample_identity(generator), sample_shot(generator)
    made = [draw_face(identity, shot, states | {attribute: s}, resolution=64, supersample=1) for s in (0, 1)]
    return np.abs(made[1][0].astype(int) - made[0][0]).max(axis=-1) > 24, made[0][1] - 0.5


@pytest.mark.parametrize(
    ("attribute", "covered"),
    [
        ("Eyeglasses", 0.96),
        ("Mustache", 0.94),
        ("No_Beard", 0.96),
        ("Bangs", 0.97),
        ("Wearing_Hat", 0.97),
        ("Bald", 0.95),
    ],
)
def test_parts_cover_what_the_attribute_changes_on_drawn_faces(attribute: str, covered: float) -> None:
    generator, shares, kept = np.random.default_rng(0), [], []
    for _ in range(12):
        changed, points = drawn_pair(attribute, generator)
        mask = region_mask(regions_of(attribute), points, size=64)
        shares.append((changed & mask).sum() / changed.sum())
        kept.append((changed & mask).sum() / mask.sum())
    assert np.mean(shares) > covered and min(shares) > 0.7
    assert np.mean(kept) > 0.2  # and not by marking everything


def test_the_mouth_of_a_neutral_face_has_room_for_a_smile() -> None:
    generator, shares = np.random.default_rng(3), []
    for _ in range(12):
        changed, points = drawn_pair("Smiling", generator)
        below = changed & (np.arange(64)[:, None] > points[2, 1])  # the eyes narrow too
        shares.append((below & region_mask(["mouth", "cheeks"], points, size=64)).sum() / below.sum())
    assert np.mean(shares) > 0.93


def test_unions_and_texts() -> None:
    points = face()
    both = region_mask(["eyes", "mouth"], points, size=SIDE)
    parts = [region_mask([name], points, size=SIDE) for name in ("eyes", "mouth")]
    assert (both == (parts[0] | parts[1])).all()
    overlapping = [region_mask([name], points, size=SIDE) for name in ("face", "beard", "hair")]
    assert (region_mask(["face", "beard", "hair"], points, size=SIDE) == np.logical_or.reduce(overlapping)).all()
    assert parse_region(" eyes + mouth+eyes") == ("eyes", "mouth")
    with pytest.raises(ValueError, match=r"unknown region 'eye'; did you mean eyes\? \(known: eyes, .*left_half"):
        parse_region("mouth+eye")
    for text in ("", "eyes+"):
        with pytest.raises(ValueError, match="known: eyes"):
            parse_region(text)
    with pytest.raises(ValueError, match="no region"):
        region_mask([], points, size=SIDE)


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2)), CANONICAL * 0.5])
def test_landmarks_that_are_no_face_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        region_mask(["eyes"], points, size=SIDE)


def test_polygons_are_filled_where_a_point_winds_round() -> None:
    """Against the winding angle of each pixel's centre, for polygons that cross and overlap."""
    draw = np.random.default_rng(4)
    for _ in range(10):
        points = draw.uniform(-10, 42, (9, 2))
        following = np.array([1, 2, 3, 0, 5, 6, 7, 8, 4])
        y, x = np.mgrid[:24, :32]
        a = points[None] - np.stack([x, y], -1).reshape(-1, 1, 2)
        b = a[:, following]
        turn = np.arctan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1)).sum(1)
        wanted = np.abs(np.round(turn / (2 * np.pi))) > 0
        assert (fill_polygons(points, following, size=(24, 32)) == wanted.reshape(24, 32)).all()


def test_a_box_holds_its_pixels() -> None:
    mask = box_mask((2, 1, 5, 3), size=(6, 8))
    assert mask.shape == (6, 8) and np.argwhere(mask).tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]
    assert box_mask((0, 0, 8, 5), size=(6, 8)).sum() == 40


@pytest.mark.parametrize(
    "box",
    [(-1, 0, 4, 4), (0, 0, 9, 4), (0, 0, 4, 7), (4, 0, 4, 4), (5, 0, 4, 4), (0, 0, 8, 6), (0, 0, 2.5, 2), (0, 0, 4)],
)
def test_boxes_out_of_range_are_refused(box: tuple) -> None:
    with pytest.raises(ValueError, match="box"):
        box_mask(box, size=(6, 8))


def brush(height: int = 6, width: int = 8) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[1:4, 2:7] = True
    return mask


def painted(mode: str) -> Image.Image:
    """The brush in one of the modes that drawing programs save."""
    grey = Image.fromarray(brush().astype(np.uint8) * 255)
    if mode in ("L", "1", "RGB"):
        return grey.convert(mode, dither=Image.Dither.NONE)
    red = Image.new("RGBA", grey.size, (200, 0, 0, 0))
    red.putalpha(grey)
    if mode == "RGBA":
        return red
    if mode == "LA":
        return red.convert("LA")
    if mode == "opaque RGBA":
        return grey.convert("RGBA")
    palette = Image.fromarray(brush().astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    if mode == "P, transparent":
        palette.putpalette([255, 255, 255, 40, 40, 40])
        palette.info["transparency"] = 0
    return palette


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "opaque RGBA", "P", "P, transparent"])
def test_brushes_of_every_mode(tmp_path: Path, mode: str) -> None:
    painted(mode).save(tmp_path / "brush.png")
    assert (read_mask(tmp_path / "brush.png", size=(6, 8)) == brush()).all()


def test_brushes_are_decided_at_half(tmp_path: Path) -> None:
    Image.fromarray(np.array([[127, 128, 0, 255]], np.uint8)).save(tmp_path / "brush.png")
    assert read_mask(tmp_path / "brush.png", size=(1, 4)).tolist() == [[False, True, False, True]]


def write_bad(path: Path, fault: str) -> None:
    good = painted("L")
    if fault == "size":
        good.resize((9, 6)).save(path)
    elif fault == "empty":
        Image.new("L", (8, 6)).save(path)
    elif fault == "transparent":
        Image.new("RGBA", (8, 6), (255, 255, 255, 0)).save(path)
    elif fault == "full":
        Image.new("L", (8, 6), 255).save(path)
    elif fault == "jpeg":
        good.save(path, "JPEG")
    elif fault == "text":
        path.write_text("white everywhere")
    elif fault == "cut":
        good.save(path)
        path.write_bytes(path.read_bytes()[:45])
    elif fault == "16 bits":
        Image.fromarray(brush().astype(np.uint16) * 65535).save(path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("size", "9x6 px, but the picture has 8x6"),
        ("empty", "marks nothing"),
        ("transparent", "marks nothing"),
        ("full", "marks everything"),
        ("jpeg", "not a PNG"),
        ("text", "not a PNG"),
        ("cut", "not a whole PNG"),
        ("16 bits", "16 bits"),
    ],
)
def test_bad_brushes_are_refused_by_name(tmp_path: Path, fault: str, message: str) -> None:
    path = tmp_path / "strokes.png"
    write_bad(path, fault)
    with pytest.raises(ValueError, match=rf"mask .*strokes\.png: .*{message}"):
        read_mask(path, size=(6, 8))


def test_a_missing_brush_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"strokes\.png"):
        read_mask(tmp_path / "strokes.png", size=(6, 8))
