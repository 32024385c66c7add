"""What an edit did to the pixels, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.metrics.editing import (
    border_ring,
    changed_share,
    outside_identical,
    outside_psnr_db,
    seam_ratio,
)

SIDE = 64


def ramp(slope: int = 2) -> np.ndarray:
    """A grey ramp that rises by `slope` a px to the right, uint8 (1, 64, 64, 3)."""
    row = (40 + slope * np.arange(SIDE)).astype(np.uint8)
    return np.broadcast_to(row[None, None, :, None], (1, SIDE, SIDE, 3)).copy()


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, top:bottom, left:right] = True
    return mask


def test_psnr_outside_counts_only_what_the_mask_leaves() -> None:
    photo, mask = ramp(), box(16, 16, 48, 48)
    edited = photo.copy()
    edited[mask] = 255  # within the mask nothing counts
    smallest = 10 * np.log10(255**2 * 3 * SIDE**2)
    assert outside_psnr_db(photo, edited, mask) == pytest.approx([smallest]) and smallest == pytest.approx(
        89.03, abs=0.01
    )
    edited[~mask] += np.uint8(5)
    assert outside_psnr_db(photo, edited, mask) == pytest.approx([20 * np.log10(255 / 5)])
    one = photo.copy()
    one[0, 0, 0, 1] += 1  # one step of one channel of one pixel: below the cap, and not identical
    outside = SIDE**2 - 32 * 32
    assert outside_psnr_db(photo, one, mask) == pytest.approx([10 * np.log10(255**2 * 3 * outside)])
    assert outside_psnr_db(photo, one, mask)[0] < smallest
    assert np.isnan(outside_psnr_db(photo, edited, np.ones_like(mask))).all()


def test_identical_means_every_channel_of_every_pixel_outside() -> None:
    photo, mask = ramp(), box(0, 0, 8, 8)
    edited = np.repeat(photo, 3, axis=0)
    edited[0, 3, 3] = 0  # inside
    edited[1, 8, 8, 2] += 1  # outside
    masks = np.repeat(mask, 3, axis=0)
    masks[2] = True
    found = outside_identical(np.repeat(photo, 3, axis=0), edited, masks)
    assert found[:2].tolist() == [1, 0] and np.isnan(found[2])
    assert changed_share(np.repeat(photo, 3, axis=0), edited) == pytest.approx([1 / SIDE**2, 1 / SIDE**2, 0])


def test_the_ring_reaches_two_px_of_64_to_either_side_and_ends_at_the_picture() -> None:
    ring = border_ring(box(20, 20, 40, 40)[0])
    assert ring[30].nonzero()[0].tolist() == [18, 19, 20, 21, 38, 39, 40, 41]
    ring = border_ring(box(0, 0, SIDE, 32)[0])  # the left half: only its right border is one
    assert ring.sum() == 4 * SIDE and ring[0].nonzero()[0].tolist() == [30, 31, 32, 33]
    large = np.zeros((128, 128), bool)
    large[:, :64] = True
    assert border_ring(large)[5].nonzero()[0].tolist() == list(range(60, 68))
    assert not border_ring(np.ones((SIDE, SIDE), bool)).any()


def test_a_seam_is_the_step_that_it_adds() -> None:
    slope, step, mask = 2, 24, box(0, 0, SIDE, 32)
    photo = ramp(slope)
    assert seam_ratio(photo, photo, mask) == pytest.approx([1.0])
    edited = photo.copy()
    edited[mask] -= np.uint8(step)  # the step lies between columns 31 and 32: one of the ring's four
    assert seam_ratio(photo, edited, mask) == pytest.approx([(3 * slope + slope + step) / (4 * slope)])
    turned = seam_ratio(*(a.swapaxes(1, 2) for a in (photo, edited, mask)))
    assert turned == pytest.approx([(4 * slope + step) / (4 * slope)])
    far = photo.copy()
    far[:, :, :10] = 0  # what changes away from the border is no seam
    assert seam_ratio(photo, far, mask) == pytest.approx([1.0])
    smooth = photo.copy()
    smooth[:, :, 28:36] = 100
    assert seam_ratio(photo, smooth, mask) == pytest.approx([0.0])


def test_a_flat_photograph_and_a_mask_without_border_have_no_ratio() -> None:
    flat = np.full((2, SIDE, SIDE, 3), 90, np.uint8)
    masks = np.concatenate([box(8, 8, 20, 20), np.ones((1, SIDE, SIDE), bool)])
    assert np.isnan(seam_ratio(flat, flat, masks)).all()


def test_other_shapes_and_types_are_refused() -> None:
    photo, mask = ramp(), box(0, 0, 4, 4)
    with pytest.raises(ValueError, match="must both be"):
        outside_psnr_db(photo, photo[:, :32], mask)
    with pytest.raises(ValueError, match="uint8"):
        seam_ratio(photo, photo.astype(np.float32), mask)
    with pytest.raises(ValueError, match="expected bool"):
        outside_identical(photo, photo, mask.astype(np.uint8))
    with pytest.raises(ValueError, match="expected bool"):
        seam_ratio(photo, photo, mask[:, :32])
