"""The features of a drawn face: skin, nose, eyes, brows, mouth, and the marks of age.

All positions are head coordinates until `Head.project`.
"""

import numpy as np

from facegen.data.canvas import Canvas, Colour, mix, scaled
from facegen.data.face_geometry import Head, pairs, smooth
from facegen.data.face_palette import Palette
from facegen.data.face_parameters import Identity, Shot

_X = np.linspace(-1.0, 1.0, 17)
_CIRCLE = np.exp(1j * np.arange(24) * np.pi / 12).view(np.float64).reshape(24, 2)


def ears(identity: Identity, head: Head) -> list[np.ndarray]:
    """Outlines of both ears in frame coordinates."""
    height = 0.135 * (1 + 0.20 * identity.ear_size) * (1.10 if head.old else 1.0)
    width = 0.070 * (1 + 0.35 * identity.ear_out)
    outlines = []
    for side in (-1.0, 1.0):
        u = side * (head.half_width * 0.985 + 0.012 * identity.ear_out) - 0.16 * np.sin(head.yaw)
        v = head.eye_v + 0.085
        points = np.array(
            [(0.0, -1.0), (0.85, -0.95), (1.0, -0.35), (0.72, 0.30), (0.50, 0.95), (0.0, 1.0), (-0.7, 0.2)]
        )
        points = points * (side * width, height) + np.array([u, v])
        outlines.append(head.project(smooth(points, closed=True), 0.5 * head.depth))
    return outlines


def draw_ears(canvas: Canvas, palette: Palette, outlines: list[np.ndarray]) -> None:
    """Both ears with their inner shadow."""
    for points in outlines:
        canvas.fill(points, scaled(palette.skin, 0.92))
        middle = points.mean(axis=0)
        canvas.fill(middle + (points - middle) * 0.55, palette.skin_dark, 0.45)


def draw_skin_marks(canvas: Canvas, identity: Identity, head: Head, palette: Palette) -> None:
    """Blush, freckles and a mole: before the light falls on the skin."""
    blush: Colour = (214, 92, 80) if sum(palette.skin) > 480 else (150, 62, 50)
    strength = (0.05 if head.old else 0.085) + (0.03 if not head.male else 0.0) + (0.03 if head.smiling else 0.0)
    cheek_v = 0.5 * (head.nose_v + head.mouth_v) - 0.07
    cheeks = head.project(np.array([(-0.25, cheek_v), (0.25, cheek_v)]))
    for radius in (1.0, 0.72, 0.44):
        for center in cheeks:
            canvas.ellipse(center, (0.135 * radius, 0.10 * radius), blush, strength)
    if identity.freckles > 0.45:
        count = 22
        angle = np.arange(count) * 2.399963  # the golden angle spreads them evenly
        away = np.sqrt((np.arange(count) + 0.5) / count)
        spots = pairs(0.31 * away * np.cos(angle), cheek_v - 0.03 + 0.085 * away * np.sin(angle))
        for center in head.project(spots, lift=0.02):
            canvas.ellipse(center, (0.013, 0.012), (142, 78, 44), 0.34 + 0.3 * (identity.freckles - 0.45))
    if identity.mole_size > 0.1:
        side = np.sign(identity.mole_x) * (0.19 + 0.11 * abs(identity.mole_x))
        place = np.array([(side, cheek_v + 0.06 + 0.14 * identity.mole_y)])
        size = 0.013 + 0.008 * identity.mole_size
        canvas.ellipse(head.project(place)[0], (size, size), (62, 36, 28), 0.9)


def draw_nose(canvas: Canvas, identity: Identity, head: Head, palette: Palette, light_x: float) -> None:
    """Shadow under the tip, nostrils, wings, and the shaded flank away from the light."""
    half, v = head.nose_half_width, head.nose_v
    under = np.array(
        [(-1.0, -0.012), (-0.55, 0.020), (0.0, 0.030), (0.55, 0.020), (1.0, -0.012), (0.4, -0.004), (-0.4, -0.004)]
    )
    under = smooth(under * (half, 1.0) + np.array([0, v]), closed=True)
    canvas.fill(head.project(under, lift=0.05), palette.skin_dark, 0.50)
    nostrils = head.project(np.array([(-0.48 * half, v + 0.004), (0.48 * half, v + 0.004)]), lift=0.06)
    for center in nostrils:
        canvas.ellipse(center, (0.020 + 0.10 * (half - 0.07), 0.012), scaled(palette.skin_dark, 0.50), 0.85)
    for side in (-1.0, 1.0):
        wing = np.array([(0.80, -0.052), (1.06, -0.028), (1.04, 0.004), (0.80, 0.016)]) * (side * half, 1.0) + np.array(
            [0, v]
        )
        canvas.stroke(head.project(smooth(wing), lift=0.03), palette.skin_dark, 0.016, 0.60)
    side = -1.0 if light_x > 0 else 1.0
    depth = 0.020 + 0.006 * identity.nose_bridge
    flank = np.array(
        [
            (side * 0.042, head.brow_v + 0.05),
            (side * (0.028 + 0.006 * identity.nose_tip), 0.5 * (head.eye_v + v)),
            (side * 0.8 * half, v - 0.015),
            (side * 1.0 * half, v - 0.01),
            (side * (0.045 + depth), 0.5 * (head.eye_v + v)),
            (side * 0.062, head.brow_v + 0.06),
        ]
    )
    canvas.fill(head.project(smooth(flank, closed=True), lift=0.03), palette.skin_dark, 0.10 + 0.16 * abs(light_x))
    tip = head.project(np.array([(0.0, v - 0.040)]), lift=0.10)[0]
    canvas.ellipse(tip, (0.020 + 0.006 * identity.nose_tip, 0.017), palette.skin_light, 0.42)
    ridge = np.array([(0.0, head.brow_v + 0.07), (0.0, 0.5 * (head.eye_v + v)), (0.0, v - 0.05)])
    canvas.stroke(head.project(smooth(ridge), lift=0.07), palette.skin_light, 0.018, 0.30 + 0.12 * identity.nose_bridge)


def _lids(head: Head, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (17,) and the upper and lower lid's height (17,) of one eye, relative to its centre; `side` is -1 or 1."""
    outward = _X * side
    lean = -head.eye_tilt * outward  # the outer corner is higher than the inner one
    arch = np.maximum(0.0, 1.0 - np.abs(_X) ** 2.3) * (1.0 - 0.10 * outward)
    droop = 0.25 * np.maximum(0.0, outward) if head.old else 0.0
    upper = lean - head.eye_opening * arch * (1.0 - droop)
    lower = lean + 0.66 * head.eye_opening * np.maximum(0.0, 1.0 - _X**2) * (0.80 if head.smiling else 1.0)
    return _X * head.eye_half_width, upper, lower


def draw_eyes(canvas: Canvas, shot: Shot, head: Head, palette: Palette) -> None:
    """Both eyes: white, iris, pupil, catch light, lids, and lashes."""
    gaze = (0.022 * shot.gaze_x, 0.010 * shot.gaze_y)
    radius = 0.80 * head.eye_opening + 0.017
    lash: Colour = (24, 18, 18)
    for side in (-1.0, 1.0):
        center = np.array([side * head.eye_u, head.eye_v])
        x, upper, lower = _lids(head, side)
        top, bottom = pairs(x, upper), pairs(x, lower)
        socket = center + np.concatenate([top * (1.22, 1.75), bottom[::-1] * (1.18, 1.65)])
        canvas.fill(head.project(socket), palette.skin_dark, 0.13 if head.male else 0.10)
        if not head.male:
            canvas.fill(
                head.project(center + np.concatenate([top * (1.15, 1.9) - (0, 0.008), top[::-1]])), (104, 58, 66), 0.16
            )
        canvas.fill(head.project(center + np.concatenate([top, bottom[::-1]])), (242, 238, 234))

        def inside(radius_px: float, lens: np.ndarray = center, lids: tuple = (x, upper, lower)) -> np.ndarray:
            """A disc in the eye, cut off by the lids."""
            disc = _CIRCLE * radius_px + gaze
            high, low = np.interp(disc[:, 0], lids[0], lids[1]), np.interp(disc[:, 0], lids[0], lids[2])
            disc[:, 1] = np.clip(disc[:, 1], high, low)
            return lens + disc

        canvas.fill(head.project(inside(radius)), scaled(palette.iris, 0.55))
        canvas.fill(head.project(inside(0.82 * radius)), palette.iris)
        canvas.fill(head.project(inside(0.44 * radius)), (12, 10, 12))
        glint = head.project(
            center + np.array([gaze]) + np.array([-0.35 * radius + 0.014 * shot.light_x, -0.40 * radius])
        )[0]
        canvas.ellipse(glint, (0.012, 0.012), (255, 255, 255), 0.95)
        lid_shade = center + np.concatenate([top, (top + np.array([0.0, 0.016]))[::-1]])
        canvas.fill(head.project(lid_shade), (30, 22, 24), 0.30)
        canvas.stroke(
            head.project(center + top),
            lash if not head.male else mix(lash, palette.skin_dark, 0.30),
            0.019 if head.male else 0.027,
        )
        canvas.stroke(head.project(center + bottom), palette.skin_dark, 0.013, 0.75)
        crease = center + top[2:-2] * (1.02, 1.30) - (0, 0.018)
        canvas.stroke(head.project(crease), palette.skin_dark, 0.014, 0.65)
        if not head.male:
            _draw_lashes(canvas, head, center, top, side, lash)


def _draw_lashes(canvas: Canvas, head: Head, center: np.ndarray, top: np.ndarray, side: float, colour: Colour) -> None:
    """Lashes at the outer half of the upper lid, ending in a small wing."""
    order = top if side > 0 else top[::-1]
    outer = order[-1]
    tip, back = np.array([side * 0.036, -0.034]), np.array([side * 0.004, -0.022])
    wing = np.array([order[-5], outer, outer + tip, outer + back])
    canvas.fill(head.project(center + wing), colour, 0.95)
    lines = [
        np.array([order[i], order[i] + np.array([side * lean, -0.030])])
        for i, lean in ((-4, 0.024), (-7, 0.014), (-10, 0.004))
    ]
    canvas.strokes([head.project(center + line) for line in lines], colour, 0.011, 0.9)


def draw_brows(canvas: Canvas, identity: Identity, shot: Shot, head: Head, palette: Palette) -> None:
    """Both brows: thick and straight for men, thin and arched for women."""
    x = np.linspace(-1.0, 1.0, 9)  # inner end .. outer end
    thickness = (0.029 if head.male else 0.0165) * (1 + 0.32 * identity.brow_thickness) * (0.86 if head.old else 1.0)
    arch = (0.016 if head.male else 0.042) * (1 + 0.45 * identity.brow_arch)
    tilt = 0.011 * identity.brow_tilt - 0.004
    middle = -arch * (1.0 - ((x - 0.12) / 1.06) ** 2) - tilt * x - 0.01 * shot.brow_raise
    taper = np.interp(x, [-1.0, -0.6, 0.2, 1.0], [0.80, 1.0, 0.95, 0.28]) * thickness
    half = head.eye_half_width * (1.30 if head.male else 1.22)
    right = np.concatenate([pairs(x * half, middle - taper), pairs(x * half, middle + taper)[::-1]])
    for side in (-1.0, 1.0):
        points = right * (side, 1.0) + np.array([side * (head.eye_u + 0.010), head.brow_v])
        canvas.fill(head.project(points, lift=0.02), palette.brow, 0.94)


def draw_mouth(canvas: Canvas, identity: Identity, head: Head, palette: Palette) -> None:
    """The mouth: closed and level, or a smile with teeth."""
    full = (0.74 if head.male else 1.12) * (0.74 if head.old else 1.0) * (0.85 if head.smiling else 1.0)
    upper_lip = 0.036 * (1 + 0.34 * identity.lip_upper) * full
    lower_lip = 0.048 * (1 + 0.34 * identity.lip_lower) * full
    x, half = _X, head.mouth_half_width
    inner_upper = -head.corner_lift * np.abs(x) ** 1.7
    inner_lower = inner_upper + head.mouth_opening * np.maximum(0.0, 1.0 - x * x) ** 0.75
    bow = (1.0 - np.abs(x) ** 1.8) * (1.0 - 0.22 * np.exp(-((x / 0.16) ** 2)))
    outer_upper = inner_upper - upper_lip * bow
    outer_lower = inner_lower + lower_lip * np.maximum(0.0, 1.0 - x * x) ** 0.8
    u = x * half

    def band(high: np.ndarray, low: np.ndarray) -> np.ndarray:
        points = np.concatenate([pairs(u, high), pairs(u, low)[::-1]]) + np.array([0.0, head.mouth_v])
        return head.project(points, lift=0.03)

    shadow = band(outer_lower, outer_lower + 0.030 * np.maximum(0.0, 1.0 - (x / 0.75) ** 2))
    canvas.fill(shadow, palette.skin_dark, 0.30)
    canvas.fill(band(outer_upper, inner_upper), scaled(palette.lips, 0.86))
    if head.smiling:
        canvas.fill(band(inner_upper, inner_lower), (74, 16, 22))
        gums = inner_upper + 0.74 * (inner_lower - inner_upper)
        canvas.fill(band(inner_upper, gums)[1:-1], (250, 247, 240) if not head.old else (240, 230, 208))
    canvas.fill(band(inner_lower, outer_lower), palette.lips)
    shine = band(inner_lower + 0.32 * lower_lip, inner_lower + 0.62 * lower_lip)
    keep = np.r_[5:12, 22:29]
    canvas.fill(shine[keep], mix(palette.lips, (255, 235, 230), 0.5), 0.40 if head.male else 0.60)
    line = pairs(u, inner_upper) + np.array([0.0, head.mouth_v])
    canvas.stroke(head.project(line, lift=0.03), scaled(palette.lips, 0.40), 0.013 if head.smiling else 0.018, 0.9)
    if head.smiling:
        for side in (-1.0, 1.0):
            fold = np.array([(half + 0.012, -0.095), (half + 0.040, -0.045), (half + 0.036, 0.005)]) * (side, 1.0)
            fold = smooth(fold + np.array([0.0, head.mouth_v - 0.4 * head.corner_lift]))
            canvas.stroke(head.project(fold), palette.skin_dark, 0.017, 0.50)


def draw_age(canvas: Canvas, head: Head, palette: Palette) -> None:
    """Wrinkles, bags, folds and age spots."""
    dark = mix(palette.skin_dark, scaled(palette.skin, 0.5), 0.3)
    x = np.linspace(-1.0, 1.0, 7)
    lines = []
    for index, (height, width) in enumerate(((0.085, 0.22), (0.145, 0.25), (0.205, 0.22))):
        wave = 0.010 * np.cos(3.0 * x + index)
        lines.append(smooth(pairs(x * width, head.brow_v - height + wave)))
    canvas.strokes([head.project(line) for line in lines], dark, 0.017, 0.55)
    lines = []
    for side in (-1.0, 1.0):
        outer = np.array([side * (head.eye_u + head.eye_half_width + 0.018), head.eye_v])
        for angle in (-0.55, -0.05, 0.45):
            lines.append(outer + np.array([(0.0, angle * 0.02), (side * 0.058, angle * 0.075)]))
        frown = np.array([(side * 0.022, head.brow_v - 0.045), (side * 0.026, head.brow_v + 0.025)])
        lines.append(frown)
    canvas.strokes([head.project(line) for line in lines], dark, 0.014, 0.60)
    folds, bags = [], []
    for side in (-1.0, 1.0):
        start, stop = head.nose_half_width + 0.022, head.mouth_half_width + 0.048
        fold = np.array(
            [
                (start, head.nose_v - 0.03),
                (0.5 * (start + stop) + 0.02, head.nose_v + 0.035),
                (stop, head.mouth_v - 0.01),
            ]
        )
        folds.append(head.project(smooth(fold * (side, 1.0))))
        corner = head.mouth_v - head.corner_lift
        marionette = np.array(
            [(head.mouth_half_width + 0.016, corner + 0.025), (head.mouth_half_width + 0.03, corner + 0.10)]
        )
        folds.append(head.project(marionette * (side, 1.0)))
        arc = np.linspace(-0.9, 0.9, 7)
        bag = pairs(arc * head.eye_half_width, 0.052 + 0.030 * (1 - arc**2) + 0.5 * head.eye_opening)
        bags.append(head.project(bag + np.array([side * head.eye_u, head.eye_v - 0.02])))
    canvas.strokes(folds, dark, 0.020, 0.62)
    canvas.strokes(bags, dark, 0.017, 0.50)
