"""What a person puts on: clothes, glasses and hats."""

import math

import numpy as np

from facegen.data.canvas import Canvas, Colour, mix, scaled
from facegen.data.face_geometry import Head, pairs, smooth
from facegen.data.face_palette import Palette, hsv
from facegen.data.face_parameters import Identity, Shot

_FRAMES: tuple[Colour, ...] = ((22, 20, 24), (24, 22, 26), (84, 34, 22), (36, 44, 92), (122, 20, 34))


def neck_outline(head: Head) -> np.ndarray:
    """Outline of the neck in frame coordinates."""
    half = 0.265 if head.male else 0.185
    top = head.center[1] + 0.45 * head.half_height
    x = head.center[0] + 0.10 * head.depth * math.sin(head.yaw)
    right = np.array([(half, top), (half * 0.98, 0.86), (half * 1.25, 0.99), (half * 1.5, 1.1)])
    return np.concatenate([right, right[::-1] * (-1.0, 1.0)]) + np.array([x, 0.0])


def draw_neck(canvas: Canvas, head: Head, palette: Palette) -> None:
    """The neck under the chin's shadow."""
    points = neck_outline(head)
    canvas.fill(points, scaled(palette.skin, 0.80))
    half = points[:, 0].max() - head.center[0]
    chin = head.center[1] + head.half_height * head.scale
    arc = np.linspace(-1.0, 1.0, 9)
    shadow = pairs(head.center[0] + 0.75 * half * arc, chin + 0.07 - 0.13 * arc**2)
    cover = np.array([(head.center[0] + 0.75 * half, chin - 0.2), (head.center[0] - 0.75 * half, chin - 0.2)])
    canvas.fill(np.concatenate([shadow, cover]), palette.skin_dark, 0.55)


def draw_clothes(canvas: Canvas, shot: Shot, head: Head, palette: Palette) -> None:
    """Shoulders in a round collar, a V collar or a shirt."""
    colour = hsv(0.5 + 0.5 * shot.clothes_hue, 0.30 + 0.30 * abs(shot.clothes_cut), 0.56 + 0.32 * shot.clothes_light)
    x = head.center[0]
    neck, wide = (0.30, 1.06) if head.male else (0.23, 0.90)
    right = np.array(
        [(neck - 0.02, 0.855), (neck + 0.16, 0.905), (0.62 * wide, 0.945), (0.92 * wide, 1.02), (1.02 * wide, 1.15)]
    )
    right = smooth(right, steps=3)
    depth = 1.06 if shot.clothes_cut < -0.3 else 0.96
    collar = np.array([(neck - 0.03, 0.86), (0.6 * neck, 0.5 * (0.86 + depth)), (0.0, depth)])
    if shot.clothes_cut >= -0.3:
        collar = smooth(collar, steps=3)
    outline = np.concatenate([right, right[::-1] * (-1.0, 1.0), (collar * (-1.0, 1.0)), collar[::-1]]) + np.array(
        [x, 0.0]
    )
    canvas.fill(outline, colour)
    edge = np.concatenate([collar * (-1.0, 1.0), collar[::-1]]) + np.array([x, 0.0])
    canvas.stroke(edge, scaled(colour, 0.62), 0.030, 0.9)
    if shot.clothes_cut > 0.35:
        for side in (-1.0, 1.0):
            lapel = np.array([(neck - 0.02, 0.83), (neck + 0.10, 0.90), (0.16, 1.04), (0.02, 0.97)]) * (
                side,
                1.0,
            ) + np.array([x, 0.0])
            canvas.fill(lapel, mix(colour, (250, 250, 250), 0.55))
            canvas.stroke(lapel[1:], scaled(colour, 0.55), 0.014, 0.8)


def draw_glasses(canvas: Canvas, identity: Identity, head: Head) -> None:
    """Round, rectangular or drop-shaped glasses in a strong frame."""
    colour = _FRAMES[min(int((identity.glasses_colour + 1.0) * 2.5), 4)]
    shape = identity.glasses_shape
    angle = np.linspace(0.0, 2.0 * np.pi, 33)[:-1]
    power = 1.0 if shape < -0.3 else 0.55
    rx, ry = (0.148, 0.138) if shape < -0.3 else (0.166, 0.112)
    x = rx * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    y = ry * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    if shape > 0.4:
        x, y = x * (1.0 - 0.16 * (y / ry)), y * 1.12 + 0.012
    lens = pairs(x, y)
    width = 0.034 + 0.006 * identity.glasses_colour
    v = head.eye_v + 0.012
    gap = max(head.eye_u, rx + 0.018)
    for side in (-1.0, 1.0):
        points = head.project(lens * (side, 1.0) + np.array([side * gap, v]), lift=0.05)
        canvas.fill(points, (226, 240, 250), 0.13)
        glare = np.array([(-0.6 * rx, -0.1 * ry), (0.0, -0.70 * ry), (0.16 * rx, -0.70 * ry), (-0.6 * rx, 0.20 * ry)])
        canvas.fill(head.project(glare + np.array([side * gap, v]), lift=0.05), (255, 255, 255), 0.22)
        closed = np.concatenate([points, points[:2]])
        canvas.stroke(closed, colour, width)
        arm = np.array([(side * (gap + 0.96 * rx), v - 0.35 * ry), (side * head.half_width * 1.0, v - 0.02)])
        canvas.stroke(head.project(arm, np.array([0.75, 0.5]) * head.depth), colour, width)
    bridge = np.array([(-(gap - 0.97 * rx), v - 0.012), (0.0, v - 0.040), (gap - 0.97 * rx, v - 0.012)])
    canvas.stroke(head.project(smooth(bridge), lift=0.08), colour, width)


def draw_hat(canvas: Canvas, shot: Shot, head: Head, palette: Palette, hair_top: float) -> None:
    """A peaked cap, a knitted hat or a brimmed hat, down to the upper forehead."""
    colour = hsv(0.5 + 0.5 * shot.hat_hue, 0.62, 0.58 + 0.26 * shot.hat_light)
    a, b = head.half_width + 0.075, head.half_height
    angle = np.linspace(-1.5, 1.5, 19)
    height = b + hair_top + 0.05
    dome = pairs(a * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.75, -height * np.abs(np.cos(angle)) ** 0.9)
    low = -0.36 * b
    dome[:, 1] = low + (dome[:, 1] / height) * (height + low)
    arc = np.linspace(-1.0, 1.0, 11)
    rim = pairs(a * arc, low + 0.06 * (1.0 - arc**2))
    shadow = pairs(0.88 * head.half_width * arc, low + 0.085 + 0.05 * (1.0 - arc**2))
    canvas.fill(head.project(np.concatenate([shadow, rim[::-1] * (0.88, 1.0)])), palette.skin_dark, 0.45)
    if shot.hat_shape < -0.33:
        _cap(canvas, head, colour, dome, rim)
    elif shot.hat_shape < 0.33:
        _knitted(canvas, head, colour, dome, rim)
    else:
        _brimmed(canvas, head, colour, a, low, height)


def _cap(canvas: Canvas, head: Head, colour: Colour, dome: np.ndarray, rim: np.ndarray) -> None:
    back = 0.62 * head.depth
    canvas.fill(head.project(np.concatenate([dome, rim[::-1]]), back), colour)
    top = np.array([(0.0, dome[:, 1].min())])
    lines = []
    for index in (2, 8):
        bow = 0.5 * (top + rim[[index]]) + (0.22 * rim[index, 0], -0.06)
        lines.append(np.concatenate([top, bow, rim[[index]]]))
    canvas.strokes([head.project(smooth(line), back) for line in lines], scaled(colour, 0.68), 0.018, 0.9)
    canvas.fill(
        head.project(np.concatenate([dome[3:8], dome[7:2:-1] * (0.72, 0.86)]), back),
        mix(colour, (255, 255, 255), 0.5),
        0.30,
    )
    canvas.ellipse(head.project(top + np.array([0.0, 0.01]), back)[0], (0.035, 0.020), scaled(colour, 0.62))
    arc = np.linspace(-1.0, 1.0, 13)
    wide = 0.90 * head.half_width
    upper = pairs(wide * arc, rim[0, 1] - 0.055 + 0.065 * (1.0 - arc**2))
    lower = pairs(wide * 1.02 * arc, rim[0, 1] - 0.045 + 0.165 * np.maximum(0.0, 1.0 - arc**2) ** 0.6)
    canvas.fill(head.project(np.concatenate([upper, lower[::-1]]), lift=0.10), scaled(colour, 0.60))
    canvas.stroke(head.project(lower, lift=0.10), scaled(colour, 0.40), 0.020, 0.9)
    canvas.stroke(
        head.project(upper[2:-2] + np.array([0.0, 0.035]), lift=0.10), mix(colour, (255, 255, 255), 0.35), 0.018, 0.5
    )


def _knitted(canvas: Canvas, head: Head, colour: Colour, dome: np.ndarray, rim: np.ndarray) -> None:
    back = 0.62 * head.depth
    top = np.array([(0.0, dome[:, 1].min() - 0.03)])
    canvas.ellipse(head.project(top, back)[0], (0.095, 0.085), mix(colour, (255, 255, 255), 0.60))
    canvas.fill(head.project(np.concatenate([dome, rim[::-1]]), back), colour)
    arc = np.linspace(-1.0, 1.0, 11)
    half = 1.03 * rim[-1, 0]
    band_low = pairs(half * arc, rim[:, 1] + 0.02)
    band_high = pairs(half * 0.99 * arc, rim[:, 1] - 0.145)
    canvas.fill(head.project(np.concatenate([band_low, band_high[::-1]]), back), mix(colour, (255, 255, 255), 0.30))
    ribs = [np.stack([low, high]) for low, high in zip(band_low[1:-1], band_high[1:-1], strict=True)]
    canvas.strokes([head.project(rib, back) for rib in ribs], scaled(colour, 0.72), 0.020, 0.65)
    canvas.stroke(head.project(band_high, back), scaled(colour, 0.60), 0.020, 0.8)
    ribs = [
        smooth(
            np.stack(
                [
                    high,
                    0.5 * high + 0.5 * top[0] + np.array([0.25 * high[0], -0.05]),
                    top[0] + np.array([0.1 * high[0], 0.06]),
                ]
            )
        )
        for high in band_high[2:-2]
    ]
    canvas.strokes([head.project(rib, back) for rib in ribs], scaled(colour, 0.78), 0.018, 0.5)


def _brimmed(canvas: Canvas, head: Head, colour: Colour, half: float, low: float, height: float) -> None:
    back = 0.62 * head.depth
    angle = np.linspace(0.0, 2.0 * np.pi, 33)[:-1]
    brim = pairs(1.52 * half * np.cos(angle), low - 0.02 + 0.115 * np.sin(angle) - 0.07 * np.cos(angle) ** 2)
    canvas.fill(head.project(brim, back), scaled(colour, 0.72))
    crown = np.array(
        [(1.0, low - 0.01), (0.97, low - 0.16), (0.84, -height - 0.02), (0.45, -height - 0.075), (0.0, -height - 0.035)]
    )
    crown = smooth(crown * (0.93 * half, 1.0), steps=4)
    outline = np.concatenate([crown[::-1], crown * (-1.0, 1.0)])[:, :]
    right, left = crown, crown[::-1] * (-1.0, 1.0)
    arc = np.linspace(1.0, -1.0, 9)
    base = pairs(0.93 * half * arc, low - 0.01 + 0.055 * (1 - arc**2))
    outline = np.concatenate([right[::-1], base, left[::-1]])
    canvas.fill(head.project(outline, back), colour)
    band = np.concatenate([base, (base - (0.0, 0.115))[::-1] * (0.985, 1.0)])
    canvas.fill(head.project(band, back), scaled(colour, 0.42))
    front = pairs(
        1.52 * half * np.cos(angle[:17]), low - 0.02 + 0.115 * np.sin(angle[:17]) - 0.07 * np.cos(angle[:17]) ** 2
    )
    canvas.stroke(head.project(front, back), scaled(colour, 0.50), 0.022, 0.9)
    dent = np.array([(-0.30 * half, -height - 0.01), (0.0, -height + 0.05), (0.30 * half, -height - 0.01)])
    canvas.stroke(head.project(smooth(dent), back), scaled(colour, 0.66), 0.024, 0.7)
