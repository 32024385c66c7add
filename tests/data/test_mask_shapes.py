"""Training masks: never empty, never everything, a function of the generator, near the faces they are of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from facegen.data import mask_shapes
from facegen.data.align import canonical_landmarks
from facegen.data.mask_shapes import KINDS, grown, random_masks


def faces(num: int, side: int = 32) -> np.ndarray:
    return np.repeat(canonical_landmarks(side)[None], num, axis=0)


def draw(num: int, *, seed: int = 0, side: int = 32) -> np.ndarray:
    return random_masks(faces(num, side), size=side, rng=np.random.default_rng(seed))


def test_no_mask_is_empty_or_everything_and_all_sizes_occur() -> None:
    masks = draw(1000)
    assert masks.dtype == bool and masks.shape == (1000, 32, 32)
    shares = masks.mean(axis=(1, 2))
    assert shares.min() > 0 and shares.max() < 1
    for low, high, least in ((0, 0.05, 0.05), (0.05, 0.25, 0.25), (0.25, 0.5, 0.15), (0.5, 1, 0.1)):
        assert ((shares > low) & (shares <= high)).mean() > least
    assert len({mask.tobytes() for mask in masks}) > 950
    assert masks.any(axis=0).all() and not masks.all(axis=0).any()  # every pixel is sometimes repainted, none always


def test_masks_are_a_function_of_the_generator() -> None:
    assert (draw(50, seed=3) == draw(50, seed=3)).all()
    assert (draw(50, seed=3) != draw(50, seed=4)).any(axis=(1, 2)).mean() > 0.9
    assert (draw(20, seed=3) == draw(50, seed=3)[:20]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(mask_shapes, "_KIND_SHARES", tuple(float(k == kind) for k in KINDS))
    masks = draw(150)
    pieces = [ndimage.label(mask)[1] for mask in masks]
    if kind == "box":
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert mask.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    elif kind == "strokes":
        assert min(pieces) == 1 < max(pieces) < 7 and 0.03 < masks.mean() < 0.3  # a stroke may leave and come back
    elif kind == "half":
        shares = masks.mean(axis=(1, 2))
        assert (shares > 0.3).all() and (shares < 0.8).all() and set(pieces) == {1}
    elif kind == "face":
        assert masks[:, 16:24, 13:19].all()  # the middle of the face
    else:
        assert max(pieces) > 2 and masks.mean() > 0.1


def test_parts_follow_the_face_and_stray_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_shapes, "_KIND_SHARES", (1.0, 0, 0, 0, 0))
    monkeypatch.setattr(mask_shapes, "PARTS", ("nose",))
    middles = []
    for shift in (0, 6):
        points = faces(200) * 0.6 + (2 + shift, 6)
        masks = random_masks(points, size=32, rng=np.random.default_rng(0))
        middles.append(np.array([np.argwhere(mask).mean(axis=0)[::-1] for mask in masks]))
        assert np.abs(middles[-1].mean(axis=0) - points[0, 2]).max() < 2 and middles[-1].std(axis=0).min() > 0.1
        areas = masks.sum(axis=(1, 2))
        assert areas.max() > 2 * areas.min()  # grown by different amounts
    assert np.allclose(middles[1].mean(axis=0) - middles[0].mean(axis=0), (6, 0), atol=0.2)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 6, 13])
def test_growing_is_a_dilation_by_a_square(radius: int) -> None:
    mask = np.random.default_rng(0).random((20, 26)) < 0.01
    box = np.ones((2 * radius + 1, 2 * radius + 1), bool)
    assert (grown(mask, radius) == ndimage.binary_dilation(mask, box)).all()
    assert mask.sum() == np.count_nonzero(mask) > 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 5, 2\)"):
        random_masks(np.zeros((5, 2)), size=32, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="landmarks"):
        random_masks(np.full((4, 5, 2), np.nan), size=32, rng=np.random.default_rng(0))
