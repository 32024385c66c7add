"""The crop of a recogniser: where points go, pixels against an exact resampler, and against insightface's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facegen.data.align import (
    CANONICAL,
    RECOGNIZER_TEMPLATE,
    recognizer_crops,
    recognizer_matrices,
    recognizer_template,
)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The value at (x, y) px, black outside, written from the definition."""
    total = np.zeros(image.shape[2])
    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            if 0 <= column < image.shape[1] and 0 <= row < image.shape[0]:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return total


def crop(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """One uint8 picture's crop, 0 .. 255."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1
    out = recognizer_crops(pixels, torch.from_numpy(matrix[None]), size=size)
    return ((out[0] + 1) * 127.5).permute(1, 2, 0).numpy()


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + k) * np.cos(y / 7 - k) for k in range(3)]
    return ((np.stack(waves, axis=-1) + 1) * 127).astype(np.uint8)


def face(rng: np.random.Generator, side: int) -> np.ndarray:
    return CANONICAL * side - 0.5 + rng.normal(0, 0.02 * side, (5, 2))


def test_every_pixel_is_where_the_matrix_says():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    (matrix,) = recognizer_matrices(face(rng, 40)[None] + np.array([24, 4]), size=112)
    found = crop(image, matrix, 112)
    inverse = np.linalg.inv(matrix[:, :2])
    outside = 0
    for v, u in [(0, 0), (5, 100), (50, 60), (70, 31), (111, 111), (90, 12)]:
        x, y = inverse @ (np.array([u, v]) - matrix[:, 2])
        outside += not (0 <= x <= 51 and 0 <= y <= 39)
        assert np.abs(found[v, u] - bilinear(image, x, y)).max() < 0.05
    assert 0 < outside < 6


def test_it_is_insightfaces_crop():
    from insightface.utils import face_align

    rng = np.random.default_rng(1)
    for side in (64, 112):
        image, points = smooth(side, side), face(rng, side)
        (matrix,) = recognizer_matrices(points[None], size=112)
        assert np.abs(matrix - face_align.estimate_norm(points, 112)).max() < 1e-4
        theirs = face_align.norm_crop(image, points, image_size=112).astype(float)
        difference = np.abs(crop(image, matrix, 112) - theirs)
        assert difference.mean() < 0.6 and np.quantile(difference, 0.99) < 4  # it rounds positions to 1/32 px


def test_a_dense_picture_is_averaged_not_skipped_through():
    """Stripes of one pixel, in a picture of four times the crop's density, are grey and not black or white."""
    image = np.zeros((448, 448, 3), dtype=np.uint8)
    image[:, ::2] = 255
    matrix = np.array([[0.25, 0, 0.25 * 0.5 - 0.5], [0, 0.25, 0.25 * 0.5 - 0.5]])
    assert np.abs(crop(image, matrix, 112) - 127.5).max() < 1e-3
    means = smooth(448, 448).astype(float).reshape(112, 4, 112, 4, 3).mean(axis=(1, 3))
    assert np.abs(crop(smooth(448, 448), matrix, 112) - means).max() < 1e-3


def test_a_picture_does_not_depend_on_its_batch():
    images = torch.from_numpy(np.stack([smooth(96, 96), smooth(96, 96)[::-1]]).transpose(0, 3, 1, 2).astype(np.float32))
    images = images / 127.5 - 1
    scales = np.array([[[0.3, 0, 40], [0, 0.3, 40]], [[1.2, 0.1, 0], [-0.1, 1.2, 0]]])
    both = recognizer_crops(images, torch.from_numpy(scales), size=112)
    for row in range(2):
        alone = recognizer_crops(images[row : row + 1], torch.from_numpy(scales[row : row + 1]), size=112)
        assert torch.equal(both[row : row + 1], alone)


def test_templates_are_the_published_layouts():
    from insightface.utils import face_align

    assert np.array_equal(recognizer_template(112), RECOGNIZER_TEMPLATE)
    for size in (112, 128, 224, 256):
        points = CANONICAL * 200
        (matrix,) = recognizer_matrices(points[None], size=size)
        assert np.abs(matrix - face_align.estimate_norm(points, size)).max() < 1e-3
    for size in (0, 100, 160):
        with pytest.raises(ValueError, match="multiple of 112 or 128"):
            recognizer_template(size)


def test_landmarks_of_no_face_are_named():
    good, bad = CANONICAL * 64, np.full((5, 2), 7.0)
    with pytest.raises(ValueError, match=r"picture 1.*coincide"):
        recognizer_matrices(np.stack([good, bad]), size=112)
    with pytest.raises(ValueError, match="expected \\(N, 5, 2\\)"):
        recognizer_matrices(good, size=112)
