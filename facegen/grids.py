"""Labelled grids of images, and PNG files whose bytes depend on their content alone.

Shapes: R rows, C columns, H W pixels, N images.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from facegen.artifacts import atomic_write_bytes

BACKGROUND = (255, 255, 255)
INK = (28, 30, 33)
_FILTERS = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}


def image_grid(
    images: np.ndarray,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    scale: int = 1,
    group_rows: int = 1,
    resample: Literal["nearest", "lanczos"] = "lanczos",
) -> Image.Image:
    """Return one RGB picture of R x C images: title above, column labels on top, row labels at the left.

    Args:
        images: uint8 (R, C, H, W, 3).
        row_labels: R texts or none; a newline breaks the line.
        column_labels: C texts or none; wrapped at spaces and underscores to the width of a column.
        title: one line above everything, or empty.
        scale: integer enlargement of every image.
        group_rows: rows that belong together (2: absent and present); a wider gap follows each group.
        resample: filter of the enlargement.

    Raises:
        ValueError: if the array, the number of labels, the scale or the grouping does not fit.
    """
    _check_grid(images, row_labels, column_labels, scale=scale, group_rows=group_rows)
    if resample not in _FILTERS:
        raise ValueError(f"resample is {resample!r}; allowed: {', '.join(_FILTERS)}")
    rows, columns, height, width, _ = images.shape
    height, width = height * scale, width * scale
    size = int(np.clip(min(height, width) // 8, 11, 20))
    font, title_font = ImageFont.load_default(size), ImageFont.load_default(round(size * 1.3))
    gap, group_gap, margin = max(2, width // 48), max(8, width // 10), max(8, size)

    wrapped = [_wrap(label, font, width) for label in column_labels]
    left = margin + (max(_text_size(label, font)[0] for label in row_labels) + margin if row_labels else 0)
    top = margin + (_text_size(title, title_font)[1] + margin if title else 0)
    header = max((_text_size(label, font)[1] for label in wrapped), default=0)
    first_row = top + (header + size // 2 if wrapped else 0)
    extra = group_gap - gap if group_rows > 1 else 0
    row_y = [first_row + r * (height + gap) + r // group_rows * extra for r in range(rows)]
    column_x = [left + c * (width + gap) for c in range(columns)]

    title_width = margin * 2 + _text_size(title, title_font)[0]
    label_overhang = max((_text_size(label, font)[0] - width for label in wrapped), default=0)
    canvas_width = max(column_x[-1] + width + margin + max(0, label_overhang) // 2, title_width)
    canvas = Image.new("RGB", (canvas_width, row_y[-1] + height + margin), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), title, font=title_font, fill=INK)
    for x, label in zip(column_x, wrapped, strict=False):
        draw.multiline_text(
            (x + width / 2, first_row - size // 2), label, font=font, fill=INK, anchor="md", align="center"
        )
    for y, label in zip(row_y, row_labels, strict=False):
        draw.multiline_text((left - margin, y + height / 2), label, font=font, fill=INK, anchor="rm", align="right")
    for r, y in enumerate(row_y):
        for c, x in enumerate(column_x):
            tile = Image.fromarray(images[r, c])
            canvas.paste(tile.resize((width, height), _FILTERS[resample]) if scale > 1 else tile, (x, y))
    return canvas


def fold_rows(images: np.ndarray, *, columns: int) -> np.ndarray:
    """Return N images as rows of `columns`, the last row filled up with background.

    Args:
        images: uint8 (N, H, W, 3), N >= 1.
        columns: images a row; fewer images than that make one shorter row.

    Returns:
        uint8 (R, C, H, W, 3).

    Raises:
        ValueError: if there is no image or `columns` is below 1.
    """
    if images.ndim != 4 or len(images) == 0 or columns < 1:
        raise ValueError(f"need (N, H, W, 3) with N >= 1 and columns >= 1, got {images.shape} and columns={columns}")
    columns = min(columns, len(images))
    missing = -len(images) % columns
    filler = np.full((missing, *images.shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([images, filler]).reshape(-1, columns, *images.shape[1:])


def png_bytes(image: Image.Image, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `image` as PNG; equal pixels and metadata give equal bytes.

    Args:
        image: any picture that PNG can hold.
        metadata: text chunks (tEXt, or iTXt beyond Latin-1), written in sorted order.
    """
    info = PngImagePlugin.PngInfo()
    for key in sorted(metadata or {}):
        info.add_text(key, str((metadata or {})[key]))
    buffer = io.BytesIO()
    clean = Image.frombytes(image.mode, image.size, image.tobytes())  # drops inherited chunks (dpi, ICC, dates)
    clean.save(buffer, "PNG", pnginfo=info, compress_level=9)
    return buffer.getvalue()


def save_png(path: str | Path, image: Image.Image, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write `image` as PNG, atomically, with bytes that depend on pixels and metadata alone."""
    atomic_write_bytes(path, png_bytes(image, metadata=metadata))


def _check_grid(
    images: np.ndarray, row_labels: Sequence[str], column_labels: Sequence[str], *, scale: int, group_rows: int
) -> None:
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (R, C, H, W, 3), got {images.dtype} {images.shape}")
    if 0 in images.shape:
        raise ValueError(f"the grid holds no pixel: shape {images.shape}")
    if row_labels and len(row_labels) != images.shape[0]:
        raise ValueError(f"{len(row_labels)} row labels for {images.shape[0]} rows")
    if column_labels and len(column_labels) != images.shape[1]:
        raise ValueError(f"{len(column_labels)} column labels for {images.shape[1]} columns")
    if scale < 1 or group_rows < 1:
        raise ValueError(f"scale and group_rows must be at least 1, got {scale} and {group_rows}")


def _text_size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    return int(np.ceil(right - min(left, 0))), int(np.ceil(bottom - min(top, 0)))


def _wrap(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return `label` broken greedily at spaces and after underscores so that lines fit `width` px where they can."""
    lines: list[str] = []
    for paragraph in label.split("\n"):
        line = ""
        for word in paragraph.replace("_", "_ ").split(" "):
            joint = line + ("" if line.endswith("_") or not line else " ") + word
            if line and _text_size(joint, font)[0] > width:
                lines.append(line)
                line = word
            else:
                line = joint
        lines.append(line)
    return "\n".join(lines)
