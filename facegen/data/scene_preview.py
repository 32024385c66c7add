"""A grid of scenes with their captions below, for people to look at.

Shapes: N scenes, H W size in px.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facegen.data.scenes import Scenes
from facegen.grids import BACKGROUND, INK

COLUMNS, WIDTH_PX = 4, 288  # of the grid; px of one scene in it
_FONT_PX, _GAP_PX = 13, 10
_LINE_PX = round(1.3 * _FONT_PX)


def scene_preview(scenes: Scenes, rows: Sequence[int], *, descriptions: bool = False) -> Image.Image:
    """Return the grid of some scenes of a split.

    Args:
        scenes: the split.
        rows: which of them; at least one.
        descriptions: the longer captions below instead of the short ones.
    """
    texts = scenes.descriptions if descriptions else scenes.captions
    return captioned_grid(scenes.images(rows, threads=1), [texts[row] for row in rows])


def captioned_grid(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Return N pictures, uint8 (N, H, W, 3), in rows of COLUMNS, enlarged to WIDTH_PX, each with its caption below.

    Raises:
        ValueError: without a picture, or if the numbers of pictures and captions differ.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures and {len(captions)} captions; expected the same number, at least 1")
    font = ImageFont.load_default(_FONT_PX)
    columns = min(COLUMNS, len(images))
    height = round(WIDTH_PX * images.shape[1] / images.shape[2])
    letters = int(WIDTH_PX / font.getlength("e"))
    wrapped = [textwrap.wrap(caption, letters) for caption in captions]
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    depths = [height + _LINE_PX * max(len(wrapped[i]) for i in row) + 2 * _GAP_PX for row in rows]
    canvas = Image.new("RGB", (columns * (WIDTH_PX + _GAP_PX) + _GAP_PX, sum(depths) + _GAP_PX), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    y = _GAP_PX
    for row, depth in zip(rows, depths, strict=True):
        for column, index in enumerate(row):
            x = _GAP_PX + column * (WIDTH_PX + _GAP_PX)
            canvas.paste(Image.fromarray(images[index]).resize((WIDTH_PX, height), Image.Resampling.LANCZOS), (x, y))
            draw.multiline_text(
                (x, y + height + _GAP_PX // 2),
                "\n".join(wrapped[index]),
                font=font,
                fill=INK,
                spacing=_LINE_PX - _FONT_PX,
            )
        y += depth
    return canvas
