"""The grid of scenes: pictures in order, each caption below its own picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facegen.data.scene_preview import COLUMNS, WIDTH_PX, captioned_grid, scene_preview
from facegen.data.scenes import Scenes
from facegen.grids import INK
from tests.made_scenes import write_small_scenes

HEIGHT, WIDTH = 64, 96
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250], [250, 0, 250]], dtype=np.uint8)


def flat(count: int) -> np.ndarray:
    return np.broadcast_to(COLOURS[:count, None, None], (count, HEIGHT, WIDTH, 3)).copy()


def test_each_picture_has_its_place_and_its_caption_below() -> None:
    captions = ["", "a word " * 30, "", "", "short", ""]
    grid = np.asarray(captioned_grid(flat(6), captions))
    boxes = []
    for colour in COLOURS:
        rows, columns = np.nonzero((grid == colour).all(axis=-1))
        boxes.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        assert (boxes[-1][3] - boxes[-1][2], boxes[-1][1] - boxes[-1][0]) == (WIDTH_PX, WIDTH_PX * HEIGHT // WIDTH)
    assert len({box[0] for box in boxes[:COLUMNS]}) == 1
    assert sorted(box[2] for box in boxes[:COLUMNS]) == [box[2] for box in boxes[:COLUMNS]]
    assert boxes[4][2] == boxes[0][2]
    ink = np.abs(grid.astype(int) - INK).max(axis=-1) < 60
    end_of_row = boxes[4][0]
    for index, box in enumerate(boxes):
        stop = end_of_row if index < COLUMNS else len(grid)
        below = ink[box[1] : stop, box[2] : box[3]]
        assert below.any() == bool(captions[index]), index
    long = ink[boxes[1][1] : end_of_row, boxes[1][2] : boxes[1][3]]
    assert np.ptp(np.nonzero(long)[0]) > 40  # several lines, none cut off
    assert not ink[:, boxes[1][3] : boxes[2][2]].any()  # and none into the next picture's


def test_captions_and_descriptions_of_a_set(tmp_path: Path) -> None:
    scenes = Scenes.open(write_small_scenes(tmp_path, train=3, test=1), "train")
    short, long = (np.asarray(scene_preview(scenes, [2, 0], descriptions=d)) for d in (False, True))
    assert len(long) > len(short)
    assert short.shape[1] == long.shape[1] < 3 * WIDTH_PX


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        captioned_grid(flat(2), ["a"])
    with pytest.raises(ValueError, match="0 pictures"):
        captioned_grid(flat(0), [])
