"""Crops: the similarity fit in closed form, pixels against an exact resampler, landmarks that move with the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facegen.data.align import CANONICAL, canonical_landmarks, cut_face, umeyama
from facegen.data.images import ImageError


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([scale * turn, np.array(shift)[:, None]])


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def lanczos_weights(size: int, target: int) -> np.ndarray:  # (target, size)
    """The antialiasing Lanczos-3 kernel in float64, written from its definition."""
    scale = size / target
    centres = (np.arange(target) + 0.5) * scale
    x = (np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


def rings(size: int) -> np.ndarray:
    """Concentric rings, ever finer outwards: what aliasing shows on."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    wave = np.cos((x**2 + y**2) * np.pi / (2 * size)) * 127 + 128
    return np.repeat(wave.astype(np.uint8)[..., None], 3, axis=2)


def blob(size: tuple[int, int], points: np.ndarray, radius: float) -> Image.Image:
    """A picture that is bright around the points (given in px, from the centre of the first pixel)."""
    y, x = np.mgrid[: size[1], : size[0]]
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return Image.fromarray(np.repeat((np.clip(light, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2))


def brightest(image: Image.Image, near: np.ndarray, reach: int) -> np.ndarray:
    """The centre of light around a point, px."""
    pixels = np.asarray(image).astype(float)[..., 0]
    x0, y0 = (np.round(near) - reach).astype(int)
    part = pixels[y0 : y0 + 2 * reach + 1, x0 : x0 + 2 * reach + 1] ** 2
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    return np.array([x0 + (part * x).sum() / part.sum(), y0 + (part * y).sum() / part.sum()])


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 2.5), (-2.9, 0.03), (np.pi, 1.0)])
def test_umeyama_recovers_a_similarity_exactly(angle: float, scale: float) -> None:
    truth = similarity(angle, scale, (7.0, -3.0))
    points = CANONICAL * 100
    assert np.allclose(umeyama(points, move(truth, points)), truth, atol=1e-9)


def test_umeyama_solves_the_example_of_the_paper() -> None:
    """Umeyama 1991, section 3, a mirrored triangle: c = 0.721, R = [[.832, .555], [-.555, .832]], t = (-.8, .4)."""
    fit = umeyama(np.array([[0, 0], [1, 0], [0, 2]]), np.array([[0, 0], [-1, 0], [0, 2]]))
    assert np.allclose(fit[:, :2] / 0.7211, [[0.832, 0.555], [-0.555, 0.832]], atol=1e-3)
    assert np.allclose(fit[:, 2], [-0.8, 0.4], atol=1e-3)


def test_umeyama_is_the_least_squares_optimum() -> None:
    draw = np.random.default_rng(0)
    points = CANONICAL * 100
    target = points * 0.5 + draw.normal(0, 4, points.shape)
    best = umeyama(points, target)
    error = ((move(best, points) - target) ** 2).sum()
    angle, scale = np.arctan2(best[1, 0], best[0, 0]), np.hypot(best[1, 0], best[0, 0])
    for _ in range(200):
        a, s, x, y = draw.normal(0, [0.01, 0.01, 0.1, 0.1])
        other = similarity(angle + a, scale + s, tuple(best[:, 2] + (x, y)))
        assert ((move(other, points) - target) ** 2).sum() > error


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan), np.ones((5, 3))])
def test_umeyama_refuses_what_has_no_fit(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points"):
        umeyama(points, CANONICAL)


def test_canonical_positions_scale_and_mirror() -> None:
    assert np.allclose((canonical_landmarks(128) + 0.5) / 128, CANONICAL, atol=1e-6)
    mirrored = canonical_landmarks(64)[[1, 0, 2, 4, 3]]
    mirrored[:, 0] = 63 - mirrored[:, 0]
    assert np.allclose(mirrored, canonical_landmarks(64), atol=1e-5)


@pytest.mark.parametrize(("crop", "side"), [("full", 178), ("center", 140)])
def test_the_square_is_centred_and_resized_to_the_pixel(crop: str, side: int) -> None:
    pixels = np.random.default_rng(0).integers(70, 186, (218, 178, 3), dtype=np.uint8)  # no pass overshoots 0 .. 255
    face, _, scale = cut_face(Image.fromarray(pixels), resolution=64, crop=crop, crop_size_px=140, landmarks=None)  # type: ignore[arg-type]
    left, top = (178 - side) // 2, (218 - side) // 2
    square = pixels[top : top + side, left : left + side].astype(np.float64)
    weights = lanczos_weights(side, 64)
    exact = np.einsum("ij,jkc,lk->ilc", weights, square, weights)
    gap = np.abs(np.asarray(face) - np.clip(exact, 0, 255))  # two passes, each rounded to 8 bits
    assert gap.max() <= 2.5 and gap.mean() < 0.6
    assert scale == pytest.approx(64 / side)


def test_fine_rings_become_grey_and_do_not_alias() -> None:
    image = Image.fromarray(rings(256))
    weights = lanczos_weights(256, 64)
    exact = np.einsum("ij,jkc,lk->ilc", weights, rings(256).astype(float), weights)
    full, _, _ = cut_face(image, resolution=64, crop="full", crop_size_px=1, landmarks=None)
    plain = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).astype(float)
    assert np.abs(np.asarray(full) - exact).mean() < 1.0 < 30 < np.abs(plain - exact).mean()
    # The same picture through the similarity warp, with landmarks that mean "the whole picture".
    warped, _, _ = cut_face(image, resolution=64, crop="landmarks", crop_size_px=1, landmarks=CANONICAL * 256 - 0.5)
    assert np.abs(np.asarray(warped) - exact).mean() < 2.0


def test_a_picture_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for crop in ("full", "center", "landmarks"):
        face, points, scale = cut_face(
            Image.fromarray(pixels), resolution=64, crop=crop, crop_size_px=64, landmarks=canonical_landmarks(64)
        )
        assert np.abs(np.asarray(face).astype(int) - pixels).max() <= (1 if crop == "landmarks" else 0)
        assert np.allclose(points, canonical_landmarks(64), atol=1e-3) and scale == pytest.approx(1)


@pytest.mark.parametrize(
    ("crop", "resolution"), [("full", 128), ("center", 128), ("landmarks", 64), ("landmarks", 200)]
)
def test_landmarks_move_with_the_picture(crop: str, resolution: int) -> None:
    points = move(similarity(0.25, 170, (60, 30)), CANONICAL)
    image = blob((300, 320), points, 4.0)
    face, moved, scale = cut_face(image, resolution=resolution, crop=crop, crop_size_px=280, landmarks=points)  # type: ignore[arg-type]
    for point in moved:
        assert np.abs(brightest(face, point, max(3, round(8 * scale))) - point).max() < 0.25
    if crop == "landmarks":
        assert np.allclose(moved, canonical_landmarks(resolution), atol=1e-3)


def test_edges_are_repeated_where_the_crop_leaves_the_photograph() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, :50], pixels[:, 50:] = (250, 10, 20), (30, 200, 40)
    points = CANONICAL * 200 - 50.5  # the crop is twice the photograph, centred on it
    face, _, _ = cut_face(Image.fromarray(pixels), resolution=64, crop="landmarks", crop_size_px=1, landmarks=points)
    result = np.asarray(face).astype(int)
    assert np.abs(result[:, :26] - (250, 10, 20)).max() <= 2 and np.abs(result[:, 38:] - (30, 200, 40)).max() <= 2


def test_unknown_landmarks_become_canonical() -> None:
    _, points, _ = cut_face(Image.new("RGB", (90, 90)), resolution=32, crop="full", crop_size_px=1, landmarks=None)
    assert points.dtype == np.float32 and np.array_equal(points, canonical_landmarks(32))


def test_impossible_crops_are_refused_with_numbers() -> None:
    image = Image.new("RGB", (100, 120))
    with pytest.raises(ImageError, match="100x120 px; smaller than the crop of 178"):
        cut_face(image, resolution=64, crop="center", crop_size_px=178, landmarks=None)
    for wrong, reason in ((np.ones((5, 2)), "coincide"), (CANONICAL * 1e5, "no face of the photograph")):
        with pytest.raises(ImageError, match=reason):
            cut_face(image, resolution=64, crop="landmarks", crop_size_px=1, landmarks=wrong)
