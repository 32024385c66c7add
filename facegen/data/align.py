"""From a photograph to a square face: which part is cut out, and how it is made smaller without aliasing.

A point (x, y) is in px, counted from the centre of the top left pixel, as CelebA's landmarks are. Five points a face,
in CelebA's order: left eye, right eye (as the viewer sees them), nose, left and right corner of the mouth.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

from facegen.data.images import ImageError

Crop = Literal["full", "center", "landmarks"]
# Where the points lie in a square crop, as fractions of its side from its upper left corner: CelebA's mean positions in
# the centred square of 178 px, made symmetric so that a mirrored face is as canonical as the face.
CANONICAL = np.array([[0.3925, 0.512], [0.6075, 0.512], [0.5, 0.646], [0.404, 0.743], [0.596, 0.743]])
_MAX_SPAN = 4.0  # sides of the crop, in sides of the photograph, beyond which landmarks are nonsense


def canonical_landmarks(resolution: int) -> np.ndarray:  # (5, 2)
    """Return the canonical positions in a crop of `resolution` px, float32."""
    return (CANONICAL * resolution - 0.5).astype(np.float32)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:  # (P, 2), (P, 2) -> (2, 3)
    """Return the similarity M (rotation, one scale, shift; no reflection) that minimises sum |M (x, 1) - y|^2.

    Raises:
        ValueError: if the source points coincide, or values are not finite.

    Source: Umeyama 1991, Least-squares estimation of transformation parameters, equations 38 to 43.
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"points of shapes {x.shape} and {y.shape}; expected two finite sets (P, 2)")
    mean_x, mean_y = x.mean(0), y.mean(0)
    variance = ((x - mean_x) ** 2).sum(1).mean()
    if variance < 1e-6:
        raise ValueError("the points coincide")
    covariance = (y - mean_y).T @ (x - mean_x) / len(x)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / variance
    return np.hstack([scale * rotation, (mean_y - scale * rotation @ mean_x)[:, None]])


def cut_face(
    image: Image.Image, *, resolution: int, crop: Crop, crop_size_px: int, landmarks: np.ndarray | None
) -> tuple[Image.Image, np.ndarray, float]:
    """Cut the face out of a photograph and bring it to `resolution` px.

    Args:
        image: RGB.
        resolution: side of the result, px.
        crop: `full`: the largest centred square; `center`: the centred square of crop_size_px; `landmarks`: the square
            in which the five points come closest to the canonical positions (edge pixels are repeated where it leaves
            the photograph).
        crop_size_px: for `center`.
        landmarks: (5, 2) px in `image`, or None where they are not known.

    Returns:
        The picture, the landmarks in it ((5, 2) float32 px; canonical where unknown), the scale (above 1: enlarged).

    Raises:
        ImageError: if the photograph is smaller than the crop, or the landmarks cannot be those of a face in it.
    """
    if crop == "landmarks":
        assert landmarks is not None
        return _cut_by_landmarks(image, resolution, landmarks)
    width, height = image.size
    side = min(width, height) if crop == "full" else crop_size_px
    if side > min(width, height):
        raise ImageError(f"{width}x{height} px; smaller than the crop of {side} (preprocess.crop_size_px)")
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))  # first, so that nothing outside shines in at the edges
    face = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    scale = resolution / side
    if landmarks is None:
        return face, canonical_landmarks(resolution), scale
    moved = (np.asarray(landmarks, dtype=np.float64) + 0.5 - (left, top)) * scale - 0.5
    return face, moved.astype(np.float32), scale


def _cut_by_landmarks(
    image: Image.Image, resolution: int, landmarks: np.ndarray
) -> tuple[Image.Image, np.ndarray, float]:
    """Warp at the photograph's own density, then reduce by a whole factor: no detail is skipped between samples."""
    corner = np.asarray(landmarks, dtype=np.float64) + 0.5  # counted from the corner of the first pixel
    try:
        matrix = umeyama(corner, CANONICAL * resolution)
    except ValueError as error:
        raise ImageError(f"landmarks {np.asarray(landmarks).tolist()}: {error}") from error
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    span = resolution / scale if scale > 0 else math.inf
    if span > _MAX_SPAN * max(image.size):
        raise ImageError(f"landmarks {np.asarray(landmarks).tolist()}: no face of the photograph's {image.size} px")
    factor = max(1, math.ceil(1 / scale))
    inverse = np.linalg.inv(matrix[:, :2])
    shift = -inverse @ matrix[:, 2]
    region, origin = _region(image, inverse, shift, resolution)
    side = resolution * factor
    coefficients = np.hstack([inverse / factor, (shift - origin)[:, None]]).ravel()
    face = region.transform((side, side), Image.Transform.AFFINE, tuple(coefficients), Image.Resampling.BICUBIC)
    if factor > 1:
        face = face.resize((resolution, resolution), Image.Resampling.LANCZOS)
    moved = corner @ matrix[:, :2].T + matrix[:, 2] - 0.5
    return face, moved.astype(np.float32), scale


def _region(
    image: Image.Image, inverse: np.ndarray, shift: np.ndarray, resolution: int
) -> tuple[Image.Image, np.ndarray]:
    """Return the part of the photograph under the crop, its edge pixels repeated outwards, and that part's origin."""
    corners = np.array([[0, 0], [resolution, 0], [0, resolution], [resolution, resolution]]) @ inverse.T + shift
    low, high = np.floor(corners.min(0)).astype(int) - 3, np.ceil(corners.max(0)).astype(int) + 3
    width, height = image.size
    columns = np.clip(np.arange(low[0], high[0]), 0, width - 1)
    rows = np.clip(np.arange(low[1], high[1]), 0, height - 1)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns]), low
