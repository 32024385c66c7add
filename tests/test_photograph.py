"""Photographs: what is kept on the way in and out, and faces that are taken out and put back without a trace."""

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from facegen.data.align import CANONICAL, canonical_landmarks, cut_face
from facegen.data.face_parameters import FACE_ATTRIBUTES
from facegen.data.images import ImageError, decode_photo
from facegen.data.procedural import Population, draw_picture
from facegen.photo_face import FEATHER_PX, put_back, take_face, take_mask
from facegen.photograph import open_photograph, photograph_of, save_photograph

S = 32
TEMPLATE = canonical_landmarks(S)


def drawn(side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    attributes = np.array([[name in ("Male", "Young", "No_Beard", "Black_Hair") for name in FACE_ATTRIBUTES]], np.int8)
    people = Population(3, np.zeros(1, np.int32), np.zeros(1, np.int8), attributes)
    return draw_picture(people, 0, resolution=side, supersample=1)


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def opened(image: Image.Image, kind: str = "PNG", **settings):
    return open_photograph(encoded(image, kind, **settings), max_megapixels=1)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with fine grain: detail that a small face cannot hold."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 216, (5, 5, 3)).astype(np.uint8)).resize((width, height), 3)
    return np.clip(np.asarray(coarse) + rng.normal(0, 12, (height, width, 1)), 0, 255).astype(np.uint8)


def test_alpha_is_kept_with_the_colours_under_it(tmp_path):
    layer = np.dstack([textured(20, 30), np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1))])
    photo = opened(Image.fromarray(layer, "RGBA"))
    assert np.array_equal(photo.pixels, layer[..., :3]) and np.array_equal(photo.alpha, layer[..., 3])
    assert (photo.seen[:, 0] == 255).all()  # where nothing is to be seen, a model sees white
    assert np.array_equal(
        photo.seen, np.asarray(decode_photo(encoded(Image.fromarray(layer, "RGBA"), "PNG"), max_megapixels=1))
    )
    for name in ("a.png", "a.webp"):
        save_photograph(tmp_path / name, photo)
        again = open_photograph(tmp_path / name, max_megapixels=1)
        assert np.array_equal(again.alpha, photo.alpha), name
    assert np.array_equal(open_photograph(tmp_path / "a.png", max_megapixels=1).pixels, photo.pixels)
    with pytest.raises(ValueError, match="JPEG has no transparency"):
        save_photograph(tmp_path / "a.jpg", photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_colours_and_alpha(orientation, tmp_path):
    layer = Image.fromarray(np.dstack([textured(12, 20), textured(12, 20)[..., 0]]), "RGBA")
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = opened(layer, exif=exif)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # PIL.Image.Transpose
    right = layer if turn is None else layer.transpose(Image.Transpose(turn))
    assert np.array_equal(np.dstack([photo.pixels, photo.alpha]), np.asarray(right))
    save_photograph(tmp_path / "a.png", photo)
    assert not Image.open(tmp_path / "a.png").getexif()  # else it would be turned twice, with the old face's thumbnail


@pytest.mark.parametrize(
    ("mode", "kind", "written"),
    [
        ("1", "PNG", "L"),
        ("L", "PNG", "L"),
        ("LA", "PNG", "LA"),
        ("P", "PNG", "RGB"),
        ("CMYK", "JPEG", "RGB"),
        ("L", "JPEG", "L"),
    ],
)
def test_modes(mode, kind, written, tmp_path):
    photo = opened(Image.fromarray(textured(16, 16)).convert(mode), kind)
    assert photo.size == (16, 16) and photo.grey == (mode in ("1", "L", "LA"))
    save_photograph(tmp_path / "a.png", photo)
    assert Image.open(tmp_path / "a.png").mode == written
    coloured = photo.with_pixels(textured(16, 16))
    save_photograph(tmp_path / "b.png", coloured)
    assert Image.open(tmp_path / "b.png").mode == written.replace("LA", "RGBA").replace("L", "RGB")


def test_a_colour_profile_is_kept_where_it_fits(tmp_path):
    profile = b"\0" * 16 + b"RGB " + b"\0" * 108
    photo = opened(Image.fromarray(textured(16, 16)), icc_profile=profile)
    for name in ("a.png", "a.jpg", "a.webp"):
        save_photograph(tmp_path / name, photo)
        assert Image.open(tmp_path / name).info["icc_profile"] == profile, name
    grey = opened(Image.fromarray(textured(16, 16)).convert("L"), icc_profile=profile)
    save_photograph(tmp_path / "grey.png", grey)
    assert "icc_profile" not in Image.open(tmp_path / "grey.png").info


def test_metadata_size_and_jpeg_quality(tmp_path):
    photo = opened(Image.fromarray(textured(90, 64)))
    save_photograph(tmp_path / "a.png", photo, metadata={"seed": 3, "a": 1})
    assert Image.open(tmp_path / "a.png").text == {"facegen": '{"a":1,"seed":3}'}
    save_photograph(tmp_path / "a.JPG", photo, metadata={"seed": 3})
    back = Image.open(tmp_path / "a.JPG")
    assert (back.format, back.size, back.layer[1][1:3]) == ("JPEG", (64, 90), (1, 1))  # no chroma subsampling
    assert np.abs(np.asarray(back).astype(int) - photo.pixels).mean() < 3
    with pytest.raises(ValueError, match=r"ends in \.png"):
        save_photograph(tmp_path / "a.gif", photo)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPG", "a.png"]  # nothing half written


def test_what_is_refused(tmp_path):
    sixteen = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    for data, message in (
        (encoded(sixteen, "PNG"), "16 bits a channel"),
        (encoded(Image.new("RGB", (2000, 1000)), "PNG"), "2.0 megapixels; at most 1 are allowed"),
        (b"no picture at all", "not a JPEG, PNG or WebP"),
        (encoded(Image.new("RGB", (40, 40)), "JPEG")[:300], "does not decode"),
    ):
        (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(ImageError, match=message) as caught:
            open_photograph(tmp_path / "x.png", max_megapixels=1)
        assert str(caught.value).startswith(str(tmp_path / "x.png")) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_photograph(tmp_path / "y.png", max_megapixels=1)


def test_a_face_is_taken_as_training_faces_are():
    pixels, landmarks = drawn()
    photo = photograph_of(pixels)
    face = take_face(photo, landmarks, template=TEMPLATE, resolution=S)
    image, moved, scale = cut_face(
        Image.fromarray(pixels), resolution=S, crop="landmarks", crop_size_px=0, landmarks=landmarks
    )
    assert np.abs(face.image.astype(int) - np.asarray(image)).max() <= 1
    assert np.allclose(face.landmarks, moved, atol=1e-4) and face.scale == pytest.approx(scale)
    wide = photograph_of(np.concatenate([pixels[:, :60], pixels, pixels[:, -60:]], axis=1))
    centred = take_face(wide, None, template=TEMPLATE, resolution=S)
    expected = Image.fromarray(pixels).resize((S, S), Image.Resampling.LANCZOS)
    assert np.array_equal(centred.image, np.asarray(expected)) and np.array_equal(centred.landmarks, TEMPLATE)


def test_another_template_moves_the_face_there():
    pixels, landmarks = drawn()
    move = np.array([3.0, -2.0])
    face = take_face(photograph_of(pixels), landmarks, template=TEMPLATE + move, resolution=S)
    plain = take_face(photograph_of(pixels), landmarks, template=TEMPLATE, resolution=S)
    assert np.allclose(face.landmarks, plain.landmarks + move, atol=1e-4)
    same = face.image[:-2, 3:].astype(int)[2:-2, 2:-2] - plain.image[2:, :-3].astype(int)[2:-2, 2:-2]
    assert np.abs(same).mean() < 1


def test_landmarks_that_are_no_face_of_the_photograph():
    photo = photograph_of(textured(40, 40))
    for points, message in (
        (np.zeros((5, 2)), "coincide"),
        (CANONICAL * 50 + 900, "no face of the photograph's 40x40 px"),
    ):
        with pytest.raises(ImageError, match=message):
            take_face(photo, points, template=TEMPLATE, resolution=S)


def turned(side: int, degrees: float = 20.0, size: float = 0.5) -> np.ndarray:
    """Landmarks of a turned face in a photograph of `side` px."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (CANONICAL - 0.5) @ rotation.T * side * size + side * 0.5


@pytest.mark.parametrize("side", [24, 100, 301])
@pytest.mark.parametrize("factor", [1, 4])
def test_pixels_outside_the_mask_are_untouched(side, factor):
    photo = photograph_of(textured(side, side))
    face = take_face(photo, turned(side), template=TEMPLATE, resolution=S)
    mask = np.zeros((S, S), bool)
    mask[12:24, 8:30] = True
    edited = np.full((S * factor, S * factor, 3), 255, np.uint8)
    result = put_back(photo, face, edited, mask)
    # where each pixel's centre lies in the face, computed anew, one by one
    inverse = np.linalg.inv(face.matrix[:, :2])
    inside = np.zeros((side, side), bool)
    for row in range(12, 24):
        for column in range(8, 30):
            corners = (np.array([[column, row], [column + 1, row + 1]]) - face.matrix[:, 2]) @ inverse.T
            for y in range(int(corners[:, 1].min()) - 2, int(corners[:, 1].max()) + 3):
                for x in range(int(corners[:, 0].min()) - 2, int(corners[:, 0].max()) + 3):
                    u, v = face.matrix[:, :2] @ (x + 0.5, y + 0.5) + face.matrix[:, 2]
                    if 0 <= x < side and 0 <= y < side and (int(np.floor(v)), int(np.floor(u))) == (row, column):
                        inside[y, x] = True
    changed = (result != photo.pixels).any(axis=-1)
    assert not (changed & ~inside).any()
    assert changed[inside].mean() > 0.9  # and it did paste


def test_no_change_leaves_every_pixel():
    photo = photograph_of(textured(200, 300))
    face = take_face(photo, turned(200), template=TEMPLATE, resolution=S)
    assert np.array_equal(put_back(photo, face, face.image, np.ones((S, S), bool)), photo.pixels)
    assert np.array_equal(put_back(photo, face, 255 - face.image, np.zeros((S, S), bool)), photo.pixels)


def test_a_photograph_of_the_models_size_becomes_the_edited_face():
    photo = photograph_of(textured(S, S))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    assert np.array_equal(face.image, photo.pixels)
    edited = textured(S, S, seed=1)
    result = put_back(photo, face, edited, np.ones((S, S), bool))
    assert np.abs(result.astype(int) - edited).max() <= 1


def test_a_small_change_keeps_the_photographs_detail_and_a_large_one_leaves_none():
    side = 8 * S
    photo = photograph_of(textured(side, side))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    whole, middle = np.ones((S, S), bool), np.s_[64:-64, 64:-64]
    little = put_back(photo, face, (face.image + np.uint8(4)), whole).astype(int) - photo.pixels
    assert np.abs(little[middle] - 4).max() <= 2 and np.abs(little[middle] - 4).mean() < 0.1  # the change alone
    flat = np.full((S, S, 3), 250, np.uint8)
    flat[:, :, 1] = 5
    result = put_back(photo, face, flat, whole)[middle].astype(float)
    assert photo.pixels[middle].astype(float).std(axis=(0, 1)).min() > 8 and np.abs(result - flat[0, 0]).max() < 40
    assert np.abs(result - flat[0, 0]).mean() < 2


def test_an_upscaled_face_brings_its_own_detail():
    side = 8 * S
    photo = photograph_of(np.full((side, side, 3), 20, np.uint8))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    stripes = np.full((4 * S, 4 * S, 3), 230, np.uint8)
    stripes[:, ::4] = 160  # finer than the model's pixels
    fine = put_back(photo, face, stripes, np.ones((S, S), bool))[64:-64, 64:-64, 0]
    coarse = put_back(
        photo, face, stripes.reshape(S, 4, S, 4, 3).mean(axis=(1, 3)).astype(np.uint8), np.ones((S, S), bool)
    )
    assert fine.std() > 15 and coarse[64:-64, 64:-64, 0].std() < 1


def test_a_brush_of_the_photograph_is_not_left():
    photo = photograph_of(textured(160, 200))
    face = take_face(photo, turned(160), template=TEMPLATE, resolution=S)
    brush = np.zeros((160, 200), bool)
    brush[70:101, 61:110] = True
    mask = take_mask(brush, face)
    result = put_back(photo, face, np.full((S, S, 3), 255, np.uint8), mask, within=brush)
    changed = (result != photo.pixels).any(axis=-1)
    assert not (changed & ~brush).any() and changed[75:96, 66:105].all()


def test_a_mask_covers_what_was_marked_and_little_more():
    photo = photograph_of(textured(320, 320))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    brush = np.zeros((320, 320), bool)
    brush[100:201, 55] = True  # one px of ten
    expected = np.zeros((S, S), bool)
    expected[10:21, 5] = True
    assert np.array_equal(take_mask(brush, face), expected)


def test_the_seam_is_soft_at_the_photographs_own_density():
    side = 10 * S
    photo = photograph_of(np.full((side, side, 3), 100, np.uint8))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    mask = np.zeros((S, S), bool)
    mask[:, 16:] = True
    row = put_back(photo, face, np.full((S, S, 3), 200, np.uint8), mask)[side // 2, :, 0].astype(int)
    assert row[159] == 100 and row[160] < 110 and row[-1] == 200 and np.diff(row).max() < 20
    assert (row[160 + int(10 * (FEATHER_PX + 1)) :] == 200).all()  # and no wider than it says


def test_a_face_at_the_edge_of_the_crop_fades_where_the_photograph_goes_on():
    photo = photograph_of(np.full((100, 160, 3), 100, np.uint8))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    result = put_back(photo, face, np.full((S, S, 3), 200, np.uint8), np.ones((S, S), bool))[..., 0].astype(int)
    assert (result[:, :30] == 100).all() and result[50, 31] < 130 and (result[50, 45:115] == 200).all()
    assert np.diff(result[50, 29:80]).max() < 25  # of 100
    assert (result[0, 45:115] == 200).all()  # the photograph ends there


def test_a_grey_photograph_stays_grey():
    grey = np.repeat(textured(64, 64)[..., :1], 3, axis=-1)
    photo = photograph_of(grey)
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    red = np.zeros((S, S, 3), np.uint8)
    red[..., 0] = 255
    result = photo.with_pixels(put_back(photo, face, red, np.ones((S, S), bool)))
    assert result.grey and abs(result.pixels[..., 0].mean() - 76) < 2  # the luma of pure red


def test_transparent_parts_keep_their_alpha_and_take_the_change():
    layer = np.dstack([textured(64, 64), np.full((64, 64), 128, np.uint8)])
    photo = opened(Image.fromarray(layer, "RGBA"))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    brighter = photo.with_pixels(put_back(photo, face, face.image + np.uint8(6), np.ones((S, S), bool)))
    assert np.array_equal(brighter.alpha, photo.alpha)
    assert abs((brighter.pixels[20:-20, 20:-20].astype(int) - photo.pixels[20:-20, 20:-20]).mean() - 6) < 0.5


def test_put_back_refuses_what_does_not_fit():
    photo = photograph_of(textured(64, 64))
    face = take_face(photo, None, template=TEMPLATE, resolution=S)
    mask = np.ones((S, S), bool)
    for edited in (np.zeros((S + 1, S + 1, 3), np.uint8), np.zeros((S, S, 3), np.float32)):
        with pytest.raises(ValueError, match="a multiple of 32 px"):
            put_back(photo, face, edited, mask)
    with pytest.raises(ValueError, match="do not fit"):
        put_back(photo, face, face.image, mask, within=np.ones((5, 5), bool))
    with pytest.raises(ValueError, match="expected uint8"):
        photo.with_pixels(np.zeros((5, 5, 3), np.uint8))


def test_text_of_other_programs_is_not_carried_over(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "where I live")
    photo = opened(Image.fromarray(textured(16, 16)), pnginfo=info)
    save_photograph(tmp_path / "a.png", photo, metadata={"n": 1})
    assert json.loads(Image.open(tmp_path / "a.png").text.pop("facegen")) == {"n": 1}
    assert "comment" not in Image.open(tmp_path / "a.png").info
