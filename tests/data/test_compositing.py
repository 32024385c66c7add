"""Feathered edges inside masks of any thickness, untouched pixels outside, and the squares of crop-and-zoom."""

import numpy as np
import pytest

from facegen.data.compositing import (
    composite,
    cut_squares,
    feather_weights,
    paste_squares,
    seam_correction,
    zoom_squares,
)


def bar(height, *, size=64, top=20, left=10, right=54):
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + height, left:right] = True
    return mask


def test_the_ramp_lies_inside_and_rises_to_one():
    weights = feather_weights(bar(30), width_px=5)
    assert weights.dtype == np.float32 and (weights[~bar(30)] == 0).all() and (weights[bar(30)] > 0).all()
    np.testing.assert_allclose(weights[20:26, 32], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(weights[35, 10:16], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 6, 8, 12])
def test_a_thin_part_keeps_full_weight_in_its_middle(height):
    weights = feather_weights(bar(height), width_px=5)
    middle = weights[20 : 20 + height, 32]
    assert middle[(height - 1) // 2] == 1 and middle[height // 2] == 1
    np.testing.assert_allclose(middle, middle[::-1])
    if height == 8:  # 4 px to the middle: the ramp takes 2
        np.testing.assert_allclose(middle, [0.5, 1, 1, 1, 1, 1, 1, 0.5])


def test_thickness_is_that_of_the_part_not_of_what_hangs_on_it():
    joined = bar(4) | bar(24, top=10, left=30)
    weights = feather_weights(joined, width_px=6)
    np.testing.assert_allclose(weights[20:24, 20], feather_weights(bar(4), width_px=6)[20:24, 20])
    assert weights[10, 41] == pytest.approx(1 / 6)


def test_the_border_of_the_picture_is_no_edge_and_no_width_is_no_ramp():
    half = np.zeros((32, 32), np.bool_)
    half[:, :16] = True
    weights = feather_weights(half, width_px=4)
    assert (weights[:, 0] == 1).all() and (weights[0] == weights[16]).all() and weights[0, 15] == 0.25
    assert (feather_weights(np.ones((8, 8), np.bool_), width_px=3) == 1).all()
    np.testing.assert_array_equal(feather_weights(bar(9), width_px=0), bar(9).astype(np.float32))


def test_the_correction_of_a_straight_edge_in_closed_form():
    """Along x only: u falls by the factor r a pixel, r + 1 / r - 2 = 1 / reach^2, from what is missing at the edge."""
    mask = np.zeros((40, 40), np.bool_)
    mask[:, 10:] = True
    missing = np.zeros((40, 40, 3))
    missing[:, 9] = 8.0, -20.0, 1.0
    missing[:, :9], missing[:, 10:] = 99.0, 77.0  # farther away, and inside: not looked at
    u = seam_correction(missing, mask, reach_px=1.5)
    half = 1 + 1 / (2 * 1.5**2)
    r = half - np.sqrt(half**2 - 1)
    for n in range(1, 12):
        np.testing.assert_allclose(u[:, 9 + n], missing[:, 9] * r**n, atol=1e-6)
    assert (u[:, :10] == 0).all()


def test_the_correction_against_relaxation_and_its_limit():
    mask = bar(7, size=24, top=6, left=5, right=17) | bar(12, size=24, top=8, left=0, right=6)
    missing = np.random.default_rng(1).normal(size=(24, 24, 3)) * 20
    u = np.zeros_like(missing)
    for _ in range(400):  # Jacobi sweeps
        padded = np.pad(np.where(mask[..., None], u, missing), ((1, 1), (1, 1), (0, 0)))
        inside = np.pad(np.ones((24, 24)), 1)
        total = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        count = inside[:-2, 1:-1] + inside[2:, 1:-1] + inside[1:-1, :-2] + inside[1:-1, 2:]
        u = np.where(mask[..., None], total / (count + 1 / 2.5**2)[..., None], 0.0)
    np.testing.assert_allclose(seam_correction(missing, mask, reach_px=2.5), u, atol=1e-8)
    even = np.full((24, 24, 3), 7.0)  # an offset of the whole picture goes entirely, if nothing fades
    np.testing.assert_allclose(seam_correction(even, mask, reach_px=1e5)[mask], 7.0, rtol=1e-4)


def test_outside_the_masks_not_a_bit_changes():
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 256, (2, 4, 64, 64, 3), dtype=np.uint8)
    masks = np.stack([bar(8), bar(30), rng.random((64, 64)) < 0.3, np.ones((64, 64), np.bool_)])
    kept = before.copy()
    mixed = composite(before, after, masks, width_px=3)
    assert mixed.dtype == np.uint8 and (mixed[~masks] == before[~masks]).all() and (before == kept).all()
    assert (mixed[3] == after[3]).all()  # nothing outside: nothing to correct
    assert (mixed[1, 33:37, 25:40] == after[1, 33:37, 25:40]).all()  # far from the edge: as decoded
    missing = before[1].astype(float) - after[1]
    u = seam_correction(missing, masks[1], reach_px=1.5)
    by_hand = before[1, 20, 32] + (u[20, 32] - missing[20, 32]) / 3  # at the edge, a third of the weight
    np.testing.assert_allclose(mixed[1, 20, 32], by_hand.clip(0, 255), atol=0.51)


def test_an_edit_that_is_darker_throughout_meets_the_photograph_at_the_edge():
    before = np.full((1, 64, 64, 3), 120, np.uint8)
    mixed = composite(before, before - 30, bar(30)[None], width_px=0)[0, :, 32, 0].astype(int)
    assert abs(mixed[20] - 120) < 17 and mixed[19] == 120 and mixed[35] == 90
    assert (np.diff(mixed[20:30]) <= 0).all()


def test_squares_hold_small_masks_with_a_margin_within_the_picture():
    corner = np.zeros((64, 64), np.bool_)
    corner[58:64, 0:4] = True
    masks = np.stack([bar(8, left=20, right=44), corner, bar(30)])
    squares = zoom_squares(masks, least=0.25, below=0.2)
    assert squares[0].tolist() == [14, 6, 36]  # 1.5 x 24 about (32, 24)
    assert squares[1].tolist() == [0, 48, 16]  # the least, moved into the picture
    assert squares[2].tolist() == [0, 0, 64]  # 1320 px are 0.32 of it
    for mask, (left, top, side) in zip(masks, squares, strict=True):
        inside = mask[top : top + side, left : left + side]
        assert inside.shape == (side, side) and inside.sum() == mask.sum()


def test_a_square_is_enlarged_and_comes_back():
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8)[None]
    squares, mask = np.array([[10, 20, 32]]), bar(8)[None]
    part = cut_squares(image, squares)
    np.testing.assert_allclose(part[0, 2:-2, 2:-2, 0], 2 * (10 + (x[2:-2, 2:-2] + 0.5) / 2 - 0.5), atol=0.51)
    np.testing.assert_array_equal(cut_squares(mask, squares)[0], mask[0, 20:52, 10:42].repeat(2, 0).repeat(2, 1))
    back = paste_squares(np.zeros_like(image), part, squares)
    np.testing.assert_allclose(back[0, 21:51, 11:41].astype(int), image[0, 21:51, 11:41], atol=1)
    assert back[0, :20].sum() == 0 and back[0, :, 42:].sum() == 0
    whole = np.array([[0, 0, 64]])
    assert (cut_squares(image, whole) == image).all() and (paste_squares(image * 0, image, whole) == image).all()
