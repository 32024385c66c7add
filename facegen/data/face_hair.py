"""Hair of the head and of the face.

The hair of the head is three layers: what hangs behind the neck, what covers the skull above the hairline, and what
falls in front (locks beside the face, bangs). Positions are head coordinates until they are projected.
"""

import numpy as np

from facegen.data.canvas import Canvas, mix
from facegen.data.face_geometry import Head, pairs, smooth
from facegen.data.face_palette import Palette
from facegen.data.face_parameters import Identity, Shot

_BACK_DEPTH = 0.5  # share of the head's depth that does not move when the head turns


class HairCut:
    """The measures of a person's hair: style, length, volume."""

    def __init__(self, identity: Identity, shot: Shot, head: Head) -> None:
        style = identity.hair_style
        self.curl = max(0.0, identity.hair_curl)
        self.long = not head.male or identity.hair_length > 0.80
        self.tied = not head.male and style > 0.55  # pulled back into a bun
        volume = 0.5 + 0.5 * identity.hair_volume
        self.top = 0.075 + 0.070 * volume + 0.05 * self.curl
        self.side = (
            (0.035 if not self.long or self.tied else 0.085)
            + 0.05 * volume * (0.5 if head.male else 1.0)
            + 0.05 * self.curl
        )
        if head.old:
            self.top, self.side = 0.85 * self.top, 0.9 * self.side
        reach = 0.5 + 0.5 * identity.hair_length
        if not self.long or self.tied:
            self.end = 0.26 * head.half_height
        elif head.male:
            self.end = 1.0 * head.half_height
        else:
            self.end = (0.86 + 0.75 * reach) * head.half_height
        self.parted = style < -0.1 or (self.long and not self.tied)
        self.part = 0.42 * identity.hair_part * head.half_width
        if 0 <= identity.hair_part < 0.3:
            self.part = 0.0
        self.line = 0.055 * identity.hair_line + (0.05 if head.old and head.male else 0.0)
        self.phase = 2.0 * np.pi * identity.hair_shade
        self.fall = shot.hair_fall

    def outer(self, head: Head, angles: np.ndarray) -> np.ndarray:
        """Outer edge of the hair over the skull (P, 2); angle 0 is the crown, +-pi/2 the height of the eyes."""
        bump = 1.0 + 0.045 * self.curl * np.sin(13.0 * angles + self.phase)
        sine, cosine = np.sin(angles), np.cos(angles)
        u = (head.half_width + self.side) * np.sign(sine) * np.abs(sine) ** 0.80 * bump
        v = -(head.half_height + self.top) * np.sign(cosine) * np.abs(cosine) ** 0.92 * bump
        return pairs(u, v + 0.02)

    def flank(self, head: Head, depth: np.ndarray) -> np.ndarray:
        """Outer edge u (P,) of hanging hair at heights `depth` in [0, 1] from the eyes to its end."""
        flare = 0.05 + 0.10 * depth * (1.0 - 0.7 * depth)
        wave = (0.010 + 0.035 * self.curl) * np.sin(11.0 * depth + self.phase)
        return head.half_width + self.side + flare * 0.8 + wave - 0.06 * depth**4


def draw_back(canvas: Canvas, cut: HairCut, head: Head, palette: Palette) -> None:
    """What is behind the head and the neck."""
    if cut.tied:
        bun = np.array([(0.0, -head.half_height - cut.top - 0.035)])
        center = head.project(bun, 0.35 * head.depth)[0]
        canvas.ellipse(center, (0.20, 0.155), palette.hair_dark)
        canvas.ellipse(center - (0.0, 0.012), (0.18, 0.135), palette.hair)
        canvas.ellipse(center - (0.03, 0.05), (0.09, 0.045), palette.hair_light, 0.35)
    top = cut.outer(head, np.linspace(-1.55, 1.55, 23))
    if not cut.long or cut.tied:
        low = np.array([(0.94 * head.half_width, cut.end), (-0.94 * head.half_width, cut.end)])
        canvas.fill(head.project(np.concatenate([top, low]), _BACK_DEPTH * head.depth), palette.hair_dark)
        return
    depth = np.linspace(0.0, 1.0, 9)
    right = pairs(cut.flank(head, depth), depth * cut.end)
    outline = np.concatenate([top, right, right[::-1] * (-1.0, 1.0)])
    canvas.fill(head.project(outline, _BACK_DEPTH * head.depth), palette.hair_dark)


def _hairline(cut: HairCut, head: Head) -> np.ndarray:
    """Lower edge of the hair on the forehead, from the left sideburn to the right one (P, 2)."""
    a, b = head.half_width, head.half_height
    low = 0.16 if not cut.tied else -0.02
    if cut.parted:
        p, height = cut.part, -0.70 + cut.line
        points = [(p, height)]
        for share, v in ((0.22, height + 0.035), (0.52, -0.545 + cut.line), (0.82, -0.36), (1.0, -0.12)):
            points.append((p + share * (0.91 * a - p), v))
        right = np.array([*points, (0.95 * a, low)]) * (1.0, b)
        points = [(p, height)]
        for share, v in ((0.22, height + 0.035), (0.52, -0.545 + cut.line), (0.82, -0.36), (1.0, -0.12)):
            points.append((p + share * (-0.91 * a - p), v))
        left = np.array([*points, (-0.95 * a, low)]) * (1.0, b)
        return np.concatenate([smooth(left, steps=3)[::-1], smooth(right, steps=3)[1:]])
    recede = 0.09 if head.old and head.male else (0.03 if head.male else 0.0)
    right = np.array(
        [
            (0.0, -0.665),
            (0.34, -0.655 - 0.4 * recede),
            (0.62, -0.59 - recede),
            (0.80, -0.40),
            (0.88, -0.18),
            (0.94, low),
        ]
    )
    right = (right - (0.0, cut.line)) * (a, b)
    right[-1, 1] = low * b
    return smooth(np.concatenate([right[:0:-1] * (-1.0, 1.0), right]), steps=3)


def draw_top(canvas: Canvas, cut: HairCut, head: Head, palette: Palette) -> None:
    """What covers the skull, with strands and a soft shine."""
    angles = np.linspace(-1.5, 1.5, 27)
    outer = head.project(cut.outer(head, angles), _BACK_DEPTH * head.depth)
    line = head.project(_hairline(cut, head), lift=0.015)
    shadow = head.project(_hairline(cut, head) + np.array([0.0, 0.028]), lift=0.01)
    canvas.fill(np.concatenate([shadow, line[::-1]]), palette.skin_dark, 0.40)
    canvas.fill(np.concatenate([outer, line[::-1]]), palette.hair)
    share = np.linspace(0.03, 0.97, 25)
    sweep = 0.0 if cut.parted else (0.07 if cut.part >= 0 else -0.07) + 0.02 * cut.fall
    at_line = _sample(line, share)
    at_outer = _sample(outer, np.clip(0.5 + (share - 0.5) * 0.96 + sweep, 0.0, 1.0))
    bow = np.array([0.0, -0.02 - 0.03 * cut.curl])
    if cut.curl > 0.35:
        ring = np.linspace(0.0, 4.2, 7)
        curl = pairs(np.cos(ring), np.sin(ring)) * 0.040
        for level, colour in ((0.28, palette.hair_dark), (0.50, palette.hair_light), (0.76, palette.hair_dark)):
            rings = [low + level * (high - low) + curl for low, high in zip(at_line[::2], at_outer[::2], strict=True)]
            canvas.strokes(rings, colour, 0.018, 0.55)
    else:
        for first, colour, opacity in ((0, palette.hair_dark, 0.42), (1, palette.hair_light, 0.36)):
            ends = zip(at_line[first::2], at_outer[first::2], strict=True)
            lines = [np.stack([low, 0.5 * (low + high) + bow, high]) for low, high in ends]
            canvas.strokes([smooth(points, steps=4) for points in lines], colour, 0.018, opacity)
        arc = smooth(at_line[4:-4:2] + 0.55 * (at_outer[4:-4:2] - at_line[4:-4:2]), steps=3)
        canvas.stroke(arc, palette.hair_light, 0.075, 0.13)
        canvas.stroke(arc[5:-5], palette.hair_light, 0.040, 0.16)
    if cut.parted and abs(cut.part) < 0.5 * head.half_width:
        top = np.array([(cut.part, -0.70 * head.half_height), (0.85 * cut.part, -head.half_height - 0.5 * cut.top)])
        canvas.stroke(head.project(top), mix(palette.skin, palette.hair_dark, 0.45), 0.020, 0.85)


def _sample(line: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Points (len(share), 2) at shares of a polyline's points."""
    at = share * (len(line) - 1)
    index = np.arange(len(line))
    return pairs(np.interp(at, index, line[:, 0]), np.interp(at, index, line[:, 1]))


def draw_locks(canvas: Canvas, cut: HairCut, head: Head, palette: Palette) -> None:
    """Hair that hangs in front, beside the face; short hair has sideburns instead."""
    a, b = head.half_width, head.half_height
    if not cut.long or cut.tied:
        for side in (-1.0, 1.0):
            burn = np.array(
                [
                    (1.04, -0.36),
                    (1.06, -0.05),
                    (1.00, 0.14),
                    (0.91, 0.16 if head.male else 0.06),
                    (0.88, -0.10),
                    (0.86, -0.36),
                ]
            )
            canvas.fill(
                head.project(smooth(burn * (side * a, b), closed=True, steps=3), 0.7 * head.depth), palette.hair
            )
        return
    depth = np.linspace(0.0, 1.0, 9)
    heights = depth * cut.end
    outer = np.concatenate([np.array([(1.02 * a + 0.7 * cut.side, -0.42 * b)]), pairs(cut.flank(head, depth), heights)])
    inner_u = np.interp(depth, [0.0, 0.25, 0.6, 1.0], [0.90, 0.92, 0.86, 0.74]) * a + 0.02 * cut.curl * np.sin(
        9 * depth + cut.phase
    )
    inner = np.concatenate([np.array([(0.78 * a, -0.42 * b)]), pairs(inner_u, heights + 0.02)])
    for side in (-1.0, 1.0):
        flip = np.array([side, 1.0])
        shadow = head.project(np.concatenate([inner, (inner - (0.035, 0.0))[::-1]]) * flip, 0.6 * head.depth)
        canvas.fill(shadow, palette.skin_dark, 0.30)
        edges = [head.project(edge * flip, 0.6 * head.depth) for edge in (outer, inner)]
        canvas.fill(np.concatenate([edges[0], edges[1][::-1]]), palette.hair)
        for share, colour, opacity in (
            (0.22, palette.hair_light, 0.40),
            (0.45, palette.hair_dark, 0.50),
            (0.70, palette.hair_light, 0.55),
        ):
            canvas.stroke(smooth(edges[0] * (1 - share) + edges[1] * share, steps=3), colour, 0.026, opacity)
        canvas.stroke(edges[1], palette.hair_dark, 0.020, 0.7)


def draw_bangs(canvas: Canvas, cut: HairCut, head: Head, palette: Palette) -> None:
    """A fringe from the hairline to just above the brows."""
    a, b = head.half_width, head.half_height
    share = np.linspace(-1.0, 1.0, 15)
    edge = head.brow_v - 0.020 + 0.035 * share**2 + 0.030 * cut.fall * share
    tips = np.where(np.arange(15) % 2 == 0, 0.030, -0.030) * (0.8 + 0.4 * np.abs(np.sin(5.0 * share + cut.phase)))
    low = pairs(0.86 * a * share, edge + tips)
    crown = np.linspace(-1.0, 1.0, 9)
    high = pairs(0.90 * a * crown, -(0.86 - 0.42 * crown**2) * b)
    canvas.fill(
        head.project(np.concatenate([low + np.array([0.0, 0.030]), high[::-1]]), lift=0.02), palette.skin_dark, 0.38
    )
    canvas.fill(head.project(np.concatenate([low, high[::-1]]), lift=0.04), palette.hair)
    roots = pairs(0.52 * a * share + 0.2 * cut.part, np.full(15, -0.84 * b))
    middle = 0.5 * (roots + low) + pairs(0.05 * share, np.full(15, -0.02))
    for first, colour, opacity in ((1, palette.hair_dark, 0.75), (2, palette.hair_light, 0.50)):
        lines = [np.stack([roots[i], middle[i], low[i] - (0.0, 0.012)]) for i in range(first, 14, 2)]
        canvas.strokes([head.project(smooth(points, steps=4), lift=0.04) for points in lines], colour, 0.022, opacity)


def draw_scalp(canvas: Canvas, head: Head, palette: Palette) -> None:
    """The shine on a bald head."""
    crown = head.project(np.array([(-0.05, -0.80 * head.half_height)]), lift=0.02)[0]
    for radius in np.linspace(1.0, 0.2, 9):
        canvas.ellipse(crown, (0.21 * radius, 0.095 * radius), (255, 250, 244), 0.055)


def draw_beard(canvas: Canvas, identity: Identity, head: Head, palette: Palette) -> None:
    """A beard along the jaw and on the chin: full, or round the chin with thin sides."""
    b = head.half_height
    full = identity.beard_style > -0.35
    hang = 0.030 + 0.035 * (0.5 + 0.5 * identity.beard_length)
    lip = head.mouth_v + 0.050 + head.mouth_opening
    if full:
        heights = np.array([0.10, 0.26, 0.42, 0.58, 0.74, 0.88]) * b
        outer_u = head.outline_half_width(heights) + np.linspace(0.004, 0.030, 6)
        outer = np.concatenate([pairs(outer_u, heights), np.array([(0.17, 1.0 * b + 0.8 * hang), (0.0, b + hang)])])
        side = head.mouth_half_width + 0.040
        inner = np.array([(0.88 * head.outline_half_width(0.10 * b), 0.10 * b), (0.76 * head.half_width, 0.30 * b)])
        inner = np.concatenate(
            [
                inner,
                np.array([(0.5 * (side + 0.76 * head.half_width), head.mouth_v - 0.045), (side, head.mouth_v + 0.01)]),
            ]
        )
    else:
        outer = np.array(
            [(0.20, head.mouth_v + 0.07), (0.235, 0.80 * b), (0.19, 0.97 * b + 0.5 * hang), (0.0, b + hang)]
        )
        inner = np.array([(0.13, head.mouth_v + 0.055)])
    inner = np.concatenate([inner, np.array([(0.115, lip + 0.018), (0.045, lip + 0.030), (0.0, lip + 0.028)])])
    right = np.concatenate([smooth(outer, steps=3)[::-1], smooth(inner, steps=3)])
    points = np.concatenate([right, right[::-1] * (-1.0, 1.0)])
    place = head.contour_points(points)
    canvas.fill(place, palette.beard, 0.93)
    _texture(canvas, head, outer, inner, palette)


def _texture(canvas: Canvas, head: Head, outer: np.ndarray, inner: np.ndarray, palette: Palette) -> None:
    """Short strands over a beard."""
    share = np.linspace(0.08, 0.98, 9)
    high, low = _sample(inner, share), _sample(outer, share)
    for side in (-1.0, 1.0):
        for first, colour in ((0, palette.beard_dark), (1, palette.beard_light)):
            lines = [
                head.contour_points(np.stack([p + 0.15 * (q - p), p + 0.90 * (q - p)]) * (side, 1.0))
                for p, q in zip(high[first::2], low[first::2], strict=True)
            ]
            canvas.strokes(lines, colour, 0.018, 0.40)


def draw_mustache(canvas: Canvas, identity: Identity, head: Head, palette: Palette) -> None:
    """A moustache between nose and upper lip, out to the corners of the mouth."""
    half = head.mouth_half_width * ((1.0 if head.smiling else 1.16) + 0.10 * identity.beard_style)
    top = head.nose_v + 0.026
    low = head.mouth_v - 0.004
    corner = head.mouth_v - head.corner_lift
    drop = 0.022 + 0.020 * identity.beard_length
    right = np.array(
        [
            (0.0, top + 0.012),
            (0.40 * half, top - 0.004),
            (0.82 * half, corner - 0.040),
            (1.08 * half, corner + drop),
            (0.62 * half, low - 0.55 * head.corner_lift),
            (0.0, low - 0.008),
        ]
    )
    right = smooth(right, steps=4)
    points = np.concatenate([right, right[::-1] * (-1.0, 1.0)])
    canvas.fill(head.project(points, lift=0.05), palette.beard, 0.97)
    share = half * np.array([-0.72, -0.45, -0.18, 0.18, 0.45, 0.72])
    roots, ends = pairs(0.9 * share, top + 0.012), pairs(share + 0.025 * np.sign(share), low - 0.012)
    lines = [head.project(np.stack(line), lift=0.05) for line in zip(roots, ends, strict=True)]
    canvas.strokes(lines, palette.beard_light, 0.013, 0.40)
