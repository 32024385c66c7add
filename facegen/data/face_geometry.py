"""Where the parts of a drawn face are: a head in space, turned, and seen without perspective.

Head coordinates (u, v, w): the origin is the middle of the head; u to the picture's right, v down, w to the viewer.
Frame coordinates (x, y): the picture is [-1, 1] x [-1, 1], y down. Lengths are in half picture widths.

Shape legend: P points.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from facegen.data.face_parameters import Identity, Shot

# Half-width of a face by height, crown to chin: (height in half heads, width in half widths).
_OUTLINE = np.array(
    [
        (-1.00, 0.00),
        (-0.96, 0.36),
        (-0.82, 0.68),
        (-0.58, 0.90),
        (-0.28, 0.99),
        (0.00, 1.00),
        (0.24, 0.97),
        (0.48, 0.86),
        (0.70, 0.68),
        (0.87, 0.46),
        (0.97, 0.23),
        (1.00, 0.00),
    ]
)


@lru_cache(maxsize=64)
def _spline(num_points: int, *, closed: bool, steps: int) -> np.ndarray:
    """Matrix (num_points * steps, num_points) that samples a Catmull-Rom spline through its points."""
    basis = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]], dtype=np.float64)
    t = np.arange(steps) / steps
    weights = np.stack([np.ones_like(t), t, t**2, t**3], axis=1) @ basis
    spans = num_points if closed else num_points - 1
    matrix = np.zeros((spans * steps + (0 if closed else 1), num_points))
    for span in range(spans):
        for tap in range(4):
            index = span + tap - 1
            index = index % num_points if closed else min(max(index, 0), num_points - 1)
            matrix[span * steps : (span + 1) * steps, index] += weights[:, tap]
    if not closed:
        matrix[-1, -1] = 1.0
    return matrix


def smooth(points: np.ndarray, *, closed: bool = False, steps: int = 5) -> np.ndarray:
    """A dense polyline (P', 2) through `points` (P, 2), curved. Source: Catmull and Rom (1974), uniform."""
    return _spline(len(points), closed=closed, steps=steps) @ points


def pairs(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """Points (P, 2) from their coordinates; either may be one number."""
    points = np.empty((max(np.size(x), np.size(y)), 2))
    points[:, 0], points[:, 1] = x, y
    return points


class Head:
    """The measures of one face in one pose, and its projection onto the picture."""

    def __init__(self, identity: Identity, shot: Shot, attributes: Mapping[str, int]) -> None:
        male, old = bool(attributes["Male"]), not attributes["Young"]
        smiling = bool(attributes["Smiling"])
        who = identity
        self.male, self.old, self.smiling = male, old, smiling
        self.half_width = 0.455 * (1 + 0.10 * who.face_width) + (0.012 if male else -0.008)
        self.half_height = 0.605 * (1 + 0.08 * who.face_length)
        self.depth = 0.46
        self.yaw = math.radians(26 * shot.yaw)
        self.pitch = math.radians(11 * shot.pitch)
        self.roll = math.radians(8 * shot.roll)
        self.scale = 1.40 + 0.055 * shot.scale
        self.center = np.array([0.035 * shot.shift_x, 0.11 + 0.03 * shot.shift_y])
        cos, sin = self.scale * math.cos(self.roll), self.scale * math.sin(self.roll)
        self._plane = np.array([(cos, sin), (-sin, cos)])
        self._turn = np.array([(math.cos(self.yaw), 0.0), (0.0, math.cos(self.pitch))]) @ self._plane
        self._forward = np.array([math.sin(self.yaw), -math.sin(self.pitch)]) @ self._plane
        self._flatness = 1.0 / (1.12 * np.array([self.half_width, self.half_height])) ** 2
        self.jaw = 0.5 * who.jaw + (0.55 if male else -0.75)
        self.outline = self._outline(who)

        half_height = self.half_height
        self.eye_u = 0.198 * (1 + 0.10 * who.eye_spacing) * (1 + 0.05 * who.face_width)
        self.eye_v = (0.01 + 0.035 * who.eye_height) * half_height
        self.eye_half_width = 0.111 * (1 + 0.14 * who.eye_size) * (0.97 if male else 1.06)
        self.eye_tilt = 0.018 * who.eye_tilt + (0.0 if male else 0.006)
        openness = 0.060 * (1 + 0.16 * who.eye_size + 0.20 * who.eye_open + 0.10 * shot.eye_open)
        self.eye_opening = openness * (0.90 if male else 1.10) * (0.80 if old else 1.0) * (0.84 if smiling else 1.0)
        self.brow_v = self.eye_v - 0.125 - 0.020 * who.brow_height - (0.0 if male else 0.018) - 0.012 * shot.brow_raise
        self.nose_v = self.eye_v + (0.225 + 0.030 * who.nose_length + (0.012 if old else 0.0))
        self.nose_half_width = 0.078 * (1 + 0.24 * who.nose_width) * (1.10 if male else 0.92)
        gap = half_height - self.nose_v
        self.mouth_v = self.nose_v + gap * (0.43 + 0.05 * who.mouth_height)
        self.mouth_half_width = 0.150 * (1 + 0.16 * who.mouth_width) * (1.26 if smiling else 1.0)
        self.corner_lift = 0.045 + 0.012 * shot.smile if smiling else 0.002 + 0.007 * shot.smile
        self.mouth_opening = 0.070 + 0.020 * shot.mouth_open if smiling else 0.0

    def _outline(self, who: Identity) -> np.ndarray:
        """Right half of the face's outline, crown to chin, in head coordinates (P, 2)."""
        v, u = _OUTLINE[:, 0].copy(), _OUTLINE[:, 1].copy()
        jaw = np.array([0, 0, 0, 0, 0, 0, 0.010, 0.035, 0.065, 0.070, 0.035, 0]) * self.jaw
        chin = np.array([0, 0, 0, 0, 0, 0, 0, 0.0, 0.02, 0.055, 0.060, 0]) * (who.chin + (0.3 if self.male else -0.3))
        cheek = np.array([0, 0, 0, 0, 0, 0.012, 0.035, 0.030, 0, 0, 0, 0]) * who.cheek
        sag = np.array([0, 0, 0, 0, 0, 0, 0, 0.02, 0.065, 0.065, 0.02, 0]) * (1.0 if self.old else 0.0)
        u = u + jaw + chin + cheek + sag
        return np.stack([u * self.half_width, v * self.half_height], axis=1)

    def outline_half_width(self, v: np.ndarray | float) -> np.ndarray:
        """Half-width of the face at height v (head coordinates)."""
        return np.interp(v, self.outline[:, 1], self.outline[:, 0])

    def project(self, points: np.ndarray, depth: np.ndarray | float | None = None, *, lift: float = 0.0) -> np.ndarray:
        """Frame coordinates (P, 2) of points (u, v) (P, 2) at a depth w: the face's surface where none is given.

        Args:
            points: head coordinates (u, v), (P, 2).
            depth: w of the points, (P,) or one number; None puts them on the surface, a slightly larger ellipsoid.
            lift: added to the depth (a nose's tip stands out).
        """
        if depth is None:
            depth = self.depth * np.sqrt(np.maximum(0.0, 1.0 - (points * points) @ self._flatness))
        # Half of the shift is taken back, as in photographs that are aligned by the eyes.
        forward = np.asarray(depth + (lift - 0.5 * self.depth))
        return points @ self._turn + forward[..., None] * self._forward + self.center

    def place(self, points: np.ndarray) -> np.ndarray:
        """Frame coordinates (P, 2) of points that lie in the picture's plane: rolled, scaled and shifted only."""
        return points @ self._plane + self.center

    def contour_points(self, points: np.ndarray) -> np.ndarray:
        """Frame coordinates of points (P, 2) on the head's silhouette.

        A silhouette stays as wide when the head turns; only what lies in front (the chin) moves with the face.
        """
        front = 0.40 * np.clip(points[:, 1] / self.half_height, -0.4, 1.0) * self.depth
        x = points[:, 0] + front * math.sin(self.yaw)
        y = points[:, 1] - front * math.sin(self.pitch)
        return self.place(pairs(x, y))

    def face_outline(self) -> np.ndarray:
        """The closed outline of the face in frame coordinates."""
        right = smooth(self.outline, steps=4)
        return self.contour_points(np.concatenate([right, right[-2:0:-1] * (-1.0, 1.0)]))

    def landmarks(self) -> np.ndarray:
        """Frame coordinates (5, 2): left eye, right eye (of the picture), nose tip, left and right mouth corner."""
        on_surface = np.array(
            [
                (-self.eye_u, self.eye_v),
                (self.eye_u, self.eye_v),
                (-self.mouth_half_width, self.mouth_v - self.corner_lift),
                (self.mouth_half_width, self.mouth_v - self.corner_lift),
            ]
        )
        flat = self.project(on_surface)
        nose = self.project(np.array([(0.0, self.nose_v - 0.02)]), lift=0.10)
        return np.concatenate([flat[:2], nose, flat[2:]])
