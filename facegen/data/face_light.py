"""Light on a drawn face: a relief of smooth bumps over an ellipsoid, shaded as a matt surface with a little gloss.

Shape legend: S canvas side in px.
"""

import math

import numpy as np

from facegen.data.face_geometry import Head
from facegen.data.face_parameters import Identity, Shot


def light_direction(shot: Shot) -> tuple[float, float, float]:
    """Unit vector towards the light in (x, y down, to the viewer)."""
    x, y, z = 0.75 * shot.light_x, -0.34 + 0.26 * shot.light_y, 0.80
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
            (side * 0.235, 0.55 * nose_v + 0.45 * mouth_v - 0.05, 0.10, 0.085, cheek + (0.012 if head.smiling else 0.0)),
            (side * head.nose_half_width * 0.8, nose_v - 0.012, 0.030, 0.028, 0.020),
        ]
        if head.old:
            bumps += [
                (side * 0.175, mouth_v - 0.05, 0.028, 0.085, -0.020),
                (side * 0.26, mouth_v + 0.08, 0.07, 0.07, 0.022),
                (side * eye_u, eye_v + 0.095, 0.075, 0.020, 0.014),
            ]
    return bumps


def shade_skin(pixels: np.ndarray, coverage: np.ndarray, identity: Identity, shot: Shot, head: Head) -> np.ndarray:
    """Lights the skin.

    Args:
        pixels: uint8 (S, S, 3).
        coverage: where the head's skin is, float32 (S, S) in [0, 1].
        identity, shot, head: whose relief, under which light, in which pose.

    Returns:
        uint8 (S, S, 3).
    """
    size = len(pixels)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    x = (axis - head.center[0]) / head.scale
    y = (axis - head.center[1]) / head.scale
    a, b = head.half_width * 1.06, head.half_height * 1.08
    nx, ny = x[None, :] / a, y[:, None] / b
    nz = np.sqrt(np.maximum(0.10, 1.0 - 0.86 * (nx * nx + ny * ny)))

    bumps = np.array(_bumps(identity, head), dtype=np.float32)
    at = (head.project(bumps[:, :2]) - head.center) / head.scale
    dx = (x[None, :] - at[:, :1]) / bumps[:, 2:3]  # (bumps, S)
    dy = (y[None, :] - at[:, 1:]) / bumps[:, 3:4]
    gx, gy = np.exp(-0.5 * dx * dx), np.exp(-0.5 * dy * dy)
    amount = bumps[:, 4:5]
    slope_x = (amount * gy).astype(np.float32).T @ (gx * dx / bumps[:, 2:3]).astype(np.float32)
    slope_y = (amount * gy * dy / bumps[:, 3:4]).astype(np.float32).T @ gx.astype(np.float32)

    px, py, pz = nx * 0.80 + slope_x, ny * 0.62 + slope_y, nz
    inverse = 1.0 / np.sqrt(px * px + py * py + pz * pz)
    lx, ly, lz = light_direction(shot)
    cosine = np.maximum(0.0, (px * lx + py * ly + pz * lz) * inverse)
    power = 0.62 + 0.14 * shot.light_power
    shade = (1.07 - power) + power * cosine
    gloss = cosine**14 * (0.085 if head.old else 0.105)
    shade = (1.0 + (shade - 1.0) * coverage)[..., None]
    gloss = (255.0 * gloss * coverage)[..., None]
    # What the light does not reach turns warmer, as skin does.
    warmth = np.array([0.92, 1.04, 1.10], dtype=np.float32)
    lit = pixels * np.power(np.minimum(shade, 1.0), warmth) * np.maximum(shade, 1.0) + gloss
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)


def light_scene(pixels: np.ndarray, shot: Shot) -> np.ndarray:
    """Lets the whole picture fall off away from the light and takes on its colour; uint8 (S, S, 3)."""
    size = len(pixels)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    lx, ly, _ = light_direction(shot)
    fall = 1.0 + 0.16 * lx * axis[None, :] + 0.10 * ly * axis[:, None]
    level = 1.0 + 0.07 * shot.light_power
    warm = 0.045 * shot.light_warmth
    colour = np.array([level * (1 + warm), level, level * (1 - 1.3 * warm)], dtype=np.float32)
    return np.clip(pixels * (fall[..., None] * colour) + 0.5, 0, 255).astype(np.uint8)


def backdrop(size: int, shot: Shot) -> np.ndarray:
    """A soft background out of focus: two colours along a direction and three spots; uint8 (size, size, 3)."""
    numbers = shot.backdrop
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    first = np.array([128 + 74 * numbers[0], 132 + 70 * numbers[1], 136 + 74 * numbers[2]], dtype=np.float32)
    second = first * (0.72 + 0.22 * numbers[3]) + np.array([14, 8, 18], dtype=np.float32) * numbers[4]
    angle = math.pi * numbers[5]
    along = 0.5 + 0.36 * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None])
    for index in range(3):
        x, y = 1.1 * numbers[6 + 2 * index], 0.7 * numbers[7 + 2 * index] - 0.3
        spread = 0.22 + 0.10 * index
        spot = np.exp(-((axis - x) ** 2) / (2 * spread**2))[None, :] * np.exp(-((axis - y) ** 2) / (2 * spread**2))[:, None]
        along = along + (0.55 if index != 1 else -0.55) * spot
    along = np.clip(along, 0.0, 1.0)[..., None]
    return np.clip(first * (1 - along) + second * along + 0.5, 0, 255).astype(np.uint8)
