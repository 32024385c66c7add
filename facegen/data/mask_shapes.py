"""Random masks to train an inpainting model on: what users of an editor mark, and more besides.

Shapes: B pictures, S side in px. A mask is bool, True where the picture is repainted.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from facegen.data.regions import REGIONS, region_mask

HALVES = ("upper_face", "lower_face", "left_half", "right_half")
PARTS = tuple(name for name in REGIONS if name not in HALVES)
KINDS = ("parts", "box", "strokes", "half", "face")
_KIND_SHARES = (0.55, 0.15, 0.15, 0.075, 0.075)
_JITTER = 0.012  # of each landmark, standard deviation in sides of the picture: a detector's error
_MAX_GROWTH = 0.06  # of a part, to each side, in sides of the picture
_BOX_SIDES = (0.08, 0.75)
_STROKE_WIDTHS = (0.04, 0.16)


def random_masks(landmarks: np.ndarray, *, size: int, rng: np.random.Generator) -> np.ndarray:  # (B, S, S)
    """Return one mask a face: one to three parts of it, a box, brush strokes, a half, or the face with its hair or not.

    Args:
        landmarks: (B, 5, 2) px in the pictures.
        size: their side S, px.
        rng: draws everything.

    Returns:
        bool (B, S, S), none of them empty, none of them the whole picture.

    Raises:
        ValueError: if the landmarks have another shape, or are no faces.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(f"landmarks have shape {landmarks.shape}; expected (B, 5, 2)")
    masks = np.empty((len(landmarks), size, size), bool)
    for row, points in enumerate(landmarks):
        masks[row] = _random_mask(points, size, rng)
    return masks


def grown(mask: np.ndarray, radius_px: int) -> np.ndarray:  # (H, W)
    """Return the mask with every pixel grown to a square of 2 radius_px + 1."""
    result = mask.copy()
    for axis in (0, 1):
        reach = 0
        while reach < radius_px:  # twice as far each time: what is already grown grows again
            step = min(reach + 1, radius_px - reach)
            low, high = _shifted(result, axis, step)
            result |= low
            result |= high
            reach += step
    return result


def _shifted(mask: np.ndarray, axis: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask moved by `step` px along an axis, both ways; False comes in at the border."""
    low, high = np.zeros_like(mask), np.zeros_like(mask)
    if axis == 0:
        low[:-step], high[step:] = mask[step:], mask[:-step]
    else:
        low[:, :-step], high[:, step:] = mask[:, step:], mask[:, :-step]
    return low, high


def _random_mask(landmarks: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    while True:
        kind = KINDS[int(np.searchsorted(np.cumsum(_KIND_SHARES), rng.random(), side="right"))]
        if kind == "box":
            mask = _box(size, rng)
        elif kind == "strokes":
            mask = _strokes(size, rng)
        else:
            mask = _face_parts(kind, landmarks, size, rng)
        if 0 < np.count_nonzero(mask) < mask.size:
            return mask


def _face_parts(kind: str, landmarks: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "half":
        names = [HALVES[rng.integers(len(HALVES))]]
    elif kind == "face":
        names = ["face", "hair", "forehead"] if rng.random() < 0.3 else ["face"]
    else:
        names = [PARTS[i] for i in rng.permutation(len(PARTS))[: rng.integers(1, 4)]]
    points = landmarks + rng.normal(0.0, _JITTER * size, (5, 2))
    growth = int(rng.integers(0, max(1, round(_MAX_GROWTH * size)) + 1)) if rng.random() < 0.7 else 0
    return grown(region_mask(names, points, size=size), growth)


def _box(size: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    width, height = np.maximum(1, np.round(rng.uniform(*_BOX_SIDES, 2) * size)).astype(int)
    x, y = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
    mask[y : y + height, x : x + width] = True
    return mask


def _strokes(size: int, rng: np.random.Generator) -> np.ndarray:
    """One to three brush strokes, each a walk of a few straight pieces of one width with round joints."""
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 4)):
        width = max(2.0, rng.uniform(*_STROKE_WIDTHS) * size)
        turns = np.cumsum(rng.normal(0.0, 1.0, rng.integers(2, 7))) + rng.uniform(0, 2 * np.pi)
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.05, 0.2, (len(turns), 1)) * size
        points = rng.uniform(0, size, 2) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        draw.line([tuple(point) for point in points.tolist()], fill=255, width=round(width))
        for x, y in points.tolist():
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return np.asarray(canvas) > 0
