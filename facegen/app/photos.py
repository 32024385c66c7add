"""What the edit tab computes: a photograph's face, the part that is repainted, and what a viewer is shown of them.

Shapes: S side of the model's faces in px, K side of the canvas in px (a multiple of S), A attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from facegen.data.regions import region_mask, regions_of
from facegen.photo_face import AlignedFace
from facegen.photograph import Photograph

CANVAS_PX = 384  # least side of the canvas that is painted on
VIEW_PX = (384, 1200)  # least and greatest longer side of what the slider shows
TINT = np.array([220, 38, 38], np.float32)  # red: what will be repainted
TINT_SHARE = 0.45


@dataclass(frozen=True, eq=False)  # equal only to itself: gradio asks whether a state has changed
class Opened:
    """A photograph that is being edited, and the face in it as the model takes it."""

    name: str  # of its file, without the ending
    photo: Photograph
    face: AlignedFace
    landmarks: np.ndarray | None  # (5, 2) px in the photograph; None: the face fills its largest centred square


def canvas_of(face: np.ndarray) -> np.ndarray:
    """Return the face, uint8 (S, S, 3), enlarged to paint on: (K, K, 3)."""
    side = len(face) * max(1, math.ceil(CANVAS_PX / len(face)))
    return np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC))


def painted_mask(layers: Sequence[np.ndarray], side: int) -> np.ndarray | None:
    """Return the pixels of the face that the strokes cover by half or more, bool (S, S); None without a stroke.

    Args:
        layers: of the canvas, uint8 (K, K, 4): a stroke is where alpha is not 0.
        side: S.
    """
    painted = np.zeros((side, side), bool)
    for layer in layers:
        alpha = Image.fromarray(((layer[..., 3] > 0) * 255).astype(np.uint8))
        painted |= np.asarray(alpha.resize((side, side), Image.Resampling.BOX)) >= 128
    return painted if painted.any() else None


def repainted_part(
    face: AlignedFace, *, painted: np.ndarray | None, regions: Sequence[str], changed: Sequence[str], whole: bool
) -> np.ndarray | None:
    """Return what is repainted, bool (S, S): strokes and regions, or without either the parts of what is changed.

    Args:
        face: the face.
        painted: the strokes, bool (S, S), or None.
        regions: names of facegen.data.regions.
        changed: names of attributes.
        whole: without strokes and regions, all of the face is repainted.

    Returns:
        None where that is nothing.
    """
    side = len(face.image)
    if painted is None and not regions:
        if whole and changed:
            return np.ones((side, side), bool)
        regions = sorted({region for name in changed for region in regions_of(name)})
    mask = np.zeros((side, side), bool) if painted is None else painted
    if regions:
        mask = mask | region_mask(regions, face.landmarks, size=side)
    return mask if mask.any() else None


def photo_mask(opened: Opened, mask: np.ndarray) -> np.ndarray:
    """Return the pixels of the photograph, bool (H, W), whose centres lie in a mask of the face, bool (S, S)."""
    (height, width), matrix, side = opened.photo.size, opened.face.matrix, len(mask)
    x, found = np.arange(width) + 0.5, np.zeros((height, width), bool)
    for number, y in enumerate(np.arange(height) + 0.5):  # a row at a time: a photograph may be large
        column = np.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(int)
        row = np.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(int)
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        found[number] = inside & mask[row.clip(0, side - 1), column.clip(0, side - 1)]
    return found


def mask_view(face: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the enlarged face, uint8 (K, K, 3), with what will be repainted in red."""
    canvas = canvas_of(face)
    if mask is None:
        return canvas
    inside = np.kron(mask, np.ones((len(canvas) // len(face),) * 2, bool))
    view = canvas.astype(np.float32)
    view[inside] += TINT_SHARE * (TINT - view[inside])
    return np.rint(view).astype(np.uint8)


def picture_view(pixels: np.ndarray) -> Image.Image:
    """Return a photograph, uint8 (H, W, 3), in a size that is good to look at."""
    image, longer = Image.fromarray(pixels), max(pixels.shape[:2])
    factor = min(max(1.0, VIEW_PX[0] / longer), VIEW_PX[1] / longer)
    if factor == 1:
        return image
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def safe_stem(name: str) -> str:
    """Return a file's name without its ending, kept to letters, digits, - and _."""
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(name).stem)[:60]
    return stem.strip("-") or "photograph"
