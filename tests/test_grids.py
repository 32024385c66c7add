"""Grids: every image lands whole where its labels say, and equal content gives equal bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.grids import fold_rows, image_grid, png_bytes, save_png


def _tiles(rows: int, columns: int, size: int = 16) -> np.ndarray:
    """One flat, distinct, non-white colour a tile, so that a tile can be found by its colour."""
    images = np.zeros((rows, columns, size, size, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            images[r, c] = (10 + 20 * r, 30 + 20 * c, 77)
    return images


def _box(pixels: np.ndarray, colour: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero((pixels == colour).all(-1))
    assert len(ys), f"no pixel of {colour}"
    assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
    return ys.min(), ys.max() + 1, xs.min(), xs.max() + 1


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("labels", [False, True])
def test_every_tile_is_whole_and_in_its_place(scale: int, labels: bool) -> None:
    images = _tiles(3, 4)
    extra = {"row_labels": list("abc"), "column_labels": list("wxyz"), "title": "A title"} if labels else {}
    pixels = np.asarray(image_grid(images, scale=scale, **extra))
    boxes = np.array([[_box(pixels, images[r, c, 0, 0]) for c in range(4)] for r in range(3)])
    assert (boxes[..., 1] - boxes[..., 0] == 16 * scale).all()
    assert (boxes[..., 3] - boxes[..., 2] == 16 * scale).all()
    assert (boxes[1:, :, 0] > boxes[:-1, :, 1]).all() and (boxes[:, 1:, 2] > boxes[:, :-1, 3]).all()
    assert (boxes[:, :1, 2] == boxes[:1, :1, 2]).all() and (boxes[:1, :, 0] == boxes[:1, :1, 0]).all()


def test_labels_leave_ink_beside_their_row_and_above_their_column() -> None:
    images = _tiles(2, 2, size=64)
    pixels = np.asarray(image_grid(images, row_labels=["", "present"], column_labels=["", "seed 7"])).astype(int)
    first = _box(pixels, images[0, 0, 0, 0])
    below = _box(pixels, images[1, 0, 0, 0])
    beside = _box(pixels, images[0, 1, 0, 0])
    dark = pixels.sum(-1) < 300
    assert dark[below[0] :, : first[2]].any() and not dark[first[0] : first[1], : first[2]].any()
    assert dark[: first[0], beside[2] : beside[3]].any() and not dark[: first[0], first[2] : beside[2] - 4].any()


def test_groups_of_rows_stand_apart() -> None:
    images = _tiles(4, 1)
    pixels = np.asarray(image_grid(images, group_rows=2))
    boxes = [_box(pixels, images[r, 0, 0, 0]) for r in range(4)]
    gaps = [boxes[r + 1][0] - boxes[r][1] for r in range(3)]
    assert gaps[1] > gaps[0] == gaps[2]


def test_long_labels_and_titles_are_not_cut() -> None:
    images = _tiles(1, 2, size=32)
    wide = image_grid(
        images, column_labels=["Wearing_Necktie and No_Beard", "x"], row_labels=["a long label"], title="t" * 90
    )
    edge = np.asarray(wide).astype(int)
    assert (edge[:, -4:] == 255).all() and (edge[:, :4] == 255).all() and (edge[:4] == 255).all()


def test_nearest_repeats_pixels_exactly() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 250, (1, 1, 8, 8, 3), dtype=np.uint8)
    pixels = np.asarray(image_grid(image, scale=4, resample="nearest"))
    want = image[0, 0].repeat(4, 0).repeat(4, 1)
    top, left = np.argwhere((pixels != 255).any(-1)).min(0)
    assert np.array_equal(pixels[top : top + 32, left : left + 32], want)


def test_fold_rows_keeps_order_and_fills_with_background() -> None:
    images = _tiles(1, 5)[0]
    folded = fold_rows(images, columns=3)
    assert folded.shape == (2, 3, 16, 16, 3)
    assert np.array_equal(folded.reshape(-1, 16, 16, 3)[:5], images) and (folded[1, 2] == 255).all()
    assert fold_rows(images[:2], columns=8).shape[:2] == (1, 2)


def test_png_bytes_depend_on_pixels_and_metadata_alone(tmp_path: Path) -> None:
    grid = image_grid(_tiles(2, 2), title="same")
    other = grid.copy()
    other.info["dpi"] = (72, 72)
    meta = {"seeds": "0..3", "attributes": "Smiling=1"}
    first = png_bytes(grid, metadata=meta)
    assert first == png_bytes(other, metadata=dict(reversed(meta.items())))
    save_png(tmp_path / "sub" / "grid.png", grid, metadata=meta)
    assert (tmp_path / "sub" / "grid.png").read_bytes() == first
    with Image.open(io.BytesIO(first)) as back:
        assert back.text == meta and np.array_equal(np.asarray(back), np.asarray(grid))


@pytest.mark.parametrize(
    ("images", "extra", "message"),
    [
        (np.zeros((2, 2, 4, 4, 3), np.float32), {}, "uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), {}, "uint8"),
        (np.zeros((0, 2, 4, 4, 3), np.uint8), {}, "no pixel"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), {"row_labels": ["one"]}, "1 row labels for 2 rows"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), {"column_labels": list("abc")}, "3 column labels for 2"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), {"scale": 0}, "at least 1"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), {"resample": "cubic"}, "allowed: nearest, lanczos"),
    ],
)
def test_bad_grids_are_refused_by_name(images: np.ndarray, extra: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(images, **extra)
