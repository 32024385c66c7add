"""Light on a drawn face: a relief of smooth bumps over an ellipsoid, shaded as a matt surface with a little gloss.

Shape legend: H W canvas size in px.
"""

import math

import numpy as np
from PIL import Image

from facegen.data.canvas import Frame
from facegen.data.face_geometry import Head
from facegen.data.face_parameters import Identity, Shot

_BACKDROP_GRID = 32  # px; the background is smooth, so it is computed small


def light_direction(shot: Shot) -> tuple[float, float, float]:
    """Unit vector towards the light in (x, y down, to the viewer)."""
    x, y, z = 0.62 * shot.light_x, -0.34 + 0.22 * shot.light_y, 0.85
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _bumps(identity: Identity, head: Head) -> list[tuple[float, float, float, float, float]]:
    """The relief: (u, v, width, height, amount) in head coordinates."""
    eye_u, eye_v, nose_v, mouth_v = head.eye_u, head.eye_v, head.nose_v, head.mouth_v
    bridge = 1.0 + 0.35 * identity.nose_bridge
    tip = 0.052 * (1 + 0.3 * identity.nose_tip)
    age = 1.0 if head.old else 0.0
    cheek = 0.040 + 0.016 * identity.cheek - 0.012 * age
    bumps = [
        (0.0, 0.55 * eye_v + 0.45 * nose_v, 0.036, 0.085, 0.034 * bridge),
        (0.0, nose_v - 0.025, tip, 0.045, 0.045),
        (0.0, mouth_v, 0.13, 0.07, 0.022),
        (0.0, mouth_v + 0.105, 0.09, 0.025, -0.012),
        (0.0, 0.90 * head.half_height, 0.11 + 0.03 * identity.chin, 0.07, 0.030),
        (0.0, head.brow_v - 0.17, 0.25, 0.12, 0.020),
    ]
    for side in (-1.0, 1.0):
        bumps += [
            (side * eye_u, head.brow_v + 0.01, 0.11, 0.035, 0.024 if head.male else 0.012),
            (side * eye_u * 0.95, eye_v + 0.005, 0.085, 0.050, -0.034),
            (
                side * 0.235,
                0.55 * nose_v + 0.45 * mouth_v - 0.05,
                0.10,
                0.085,
                cheek + (0.012 if head.smiling else 0.0),
            ),
            (side * head.nose_half_width * 0.8, nose_v - 0.012, 0.030, 0.028, 0.020),
        ]
        if head.old:
            bumps += [
                (side * 0.175, mouth_v - 0.05, 0.028, 0.085, -0.020),
                (side * 0.26, mouth_v + 0.08, 0.07, 0.07, 0.022),
                (side * eye_u, eye_v + 0.095, 0.075, 0.020, 0.014),
            ]
    return bumps


def shade_skin(
    pixels: np.ndarray, coverage: np.ndarray, frame: Frame, identity: Identity, shot: Shot, head: Head
) -> np.ndarray:
    """Lights the skin.

    Args:
        pixels: uint8 (H, W, 3).
        coverage: where the head's skin is, float32 (H, W) in [0, 1].
        frame: where the head's coordinates lie on the canvas.
        identity: whose relief.
        shot: under which light.
        head: in which pose.

    Returns:
        uint8 (H, W, 3).
    """
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    along_x, along_y = frame.axes(*coverage.shape)
    x = (along_x[window[1]] - float(head.center[0])) / head.scale
    y = (along_y[window[0]] - float(head.center[1])) / head.scale
    cosine = _cosine(x, y, identity, shot, head)
    cover = coverage[window]
    power = 0.62 + 0.14 * shot.light_power
    shade = ((0.07 - power) + power * cosine) * cover
    square = cosine * cosine
    gloss = square * square * square  # the sixth power; squared once more below
    gloss = (255.0 * (0.085 if head.old else 0.105)) * gloss * gloss * cover
    # What the light does not reach turns warmer, as skin does.
    warmth = np.array([0.90, 1.03, 1.08], dtype=np.float32)
    lit = pixels[window] * (1.0 + shade[..., None] * warmth) + (gloss + 0.5)[..., None]
    result = pixels.copy()
    result[window] = np.clip(lit, 0, 255).astype(np.uint8)
    return result


def _cosine(x: np.ndarray, y: np.ndarray, identity: Identity, shot: Shot, head: Head) -> np.ndarray:
    """Cosine between the light and the skin's normal, at least 0, float32 (rows, columns), at x, y about the head."""
    nx, ny = x[None, :] / (1.06 * head.half_width), y[:, None] / (1.08 * head.half_height)
    nz = np.sqrt(np.maximum(0.10, 1.0 - 0.86 * (nx * nx + ny * ny)))
    bumps = np.array(_bumps(identity, head))
    at = (head.project(bumps[:, :2]) - head.center) / head.scale
    dx = (x[None, :] - at[:, :1]) / bumps[:, 2:3]  # (bumps, columns)
    dy = (y[None, :] - at[:, 1:]) / bumps[:, 3:4]  # (bumps, rows)
    gx, gy = np.exp(-0.5 * dx * dx), np.exp(-0.5 * dy * dy)
    amount = bumps[:, 4:5]
    px = nx * 0.80 + _outer_sum(amount * gy, gx * dx / bumps[:, 2:3])
    py = ny * 0.62 + _outer_sum(amount * gy * dy / bumps[:, 3:4], gx)
    lx, ly, lz = light_direction(shot)
    return np.maximum(0.0, px * lx + py * ly + nz * lz) / np.sqrt(px * px + py * py + nz * nz)


def _outer_sum(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum over bumps of outer products: (bumps, rows) and (bumps, columns) to (rows, columns), float32.

    In blocks of rows that the matrix library does not share out over threads: that costs more than the product itself.
    """
    columns, rows = columns.astype(np.float32).T, rows.astype(np.float32)
    block = max(1, 200_000 // rows.size)
    return np.concatenate([columns[start : start + block] @ rows for start in range(0, len(columns), block)])


def light_scene(pixels: np.ndarray, shot: Shot) -> np.ndarray:
    """Lets the whole picture fall off away from the light and takes on its colour; uint8 (H, W, 3)."""
    y, x = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0 for size in pixels.shape[:2])
    lx, ly, _ = light_direction(shot)
    fall = 1.0 + 0.16 * lx * x[None, :] + 0.10 * ly * y[:, None]
    level = 1.0 + 0.07 * shot.light_power
    warm = 0.045 * shot.light_warmth
    colour = np.array([level * (1 + warm), level, level * (1 - 1.3 * warm)], dtype=np.float32)
    return np.clip(pixels * (fall[..., None] * colour) + 0.5, 0, 255).astype(np.uint8)


def backdrop(height: int, width: int, shot: Shot) -> np.ndarray:
    """A soft background out of focus: two colours along a direction and three spots; uint8 (H, W, 3)."""
    numbers = shot.backdrop
    axis = (np.arange(_BACKDROP_GRID, dtype=np.float32) + 0.5) * (2.0 / _BACKDROP_GRID) - 1.0
    grey = 132.0 + 62.0 * numbers[0]
    first = np.array(
        [grey + 30 * numbers[1], grey + 12 * numbers[2], grey - 26 * numbers[1] + 16 * numbers[2]], dtype=np.float32
    )
    second = first * (0.78 + 0.20 * numbers[3]) + np.array([18, 6, -16], dtype=np.float32) * numbers[4]
    angle = math.pi * numbers[5]
    along = 0.5 + 0.36 * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None])
    for index in range(3):
        x, y, spread = 1.1 * numbers[6 + 2 * index], 0.7 * numbers[7 + 2 * index] - 0.3, 0.22 + 0.10 * index
        spot = np.exp(-0.5 * ((axis - y) / spread) ** 2)[:, None] * np.exp(-0.5 * ((axis - x) / spread) ** 2)[None, :]
        along = along + (0.55 if index != 1 else -0.55) * spot
    colours = first + np.clip(along, 0.0, 1.0)[..., None] * (second - first)
    small = Image.fromarray(np.clip(colours + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
