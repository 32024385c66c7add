"""From a photograph to a square face: which part is cut out, and how it is made smaller without aliasing.

A point (x, y) is in px, counted from the centre of the top left pixel, as CelebA's landmarks are. Five points a face,
in CelebA's order: left eye, right eye (as the viewer sees them), nose, left and right corner of the mouth.

`cut_face` makes the pictures that are trained on, `recognizer_crops` what a face recogniser sees of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from facegen.data.images import ImageError

if TYPE_CHECKING:
    from torch import Tensor

Crop = Literal["full", "center", "landmarks"]
# Where the points lie in a square crop, as fractions of its side from its upper left corner: CelebA's mean positions in
# the centred square of 178 px, made symmetric so that a mirrored face is as canonical as the face.
CANONICAL = np.array([[0.3925, 0.512], [0.6075, 0.512], [0.5, 0.646], [0.404, 0.743], [0.596, 0.743]])
# Where they lie, in px, in the crop of 112 px that published face recognisers are trained on (insightface's template).
RECOGNIZER_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
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


def recognizer_template(size: int) -> np.ndarray:  # (5, 2)
    """Return the five positions in a recogniser's crop of `size` px, float64.

    Raises:
        ValueError: if size is a multiple neither of 112 nor of 128, the two layouts that are published.
    """
    if size > 0 and size % 112 == 0:
        return RECOGNIZER_TEMPLATE * (size / 112)
    if size > 0 and size % 128 == 0:  # the same face with 8 px more on the left and right, 16 below
        return (RECOGNIZER_TEMPLATE + np.array([8, 0])) * (size / 128)
    raise ValueError(f"a recogniser's crop of {size} px; expected a multiple of 112 or 128")


def recognizer_matrices(landmarks: np.ndarray, *, size: int) -> np.ndarray:  # (N, 5, 2) px -> (N, 2, 3)
    """Return the similarities that bring each picture's landmarks closest to the recogniser's template.

    Raises:
        ValueError: naming the row whose landmarks coincide or are not finite.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise ValueError(f"landmarks have shape {landmarks.shape}; expected (N, 5, 2)")
    target, matrices = recognizer_template(size), np.empty((len(landmarks), 2, 3))
    for row, points in enumerate(landmarks):
        try:
            matrices[row] = umeyama(points, target)
        except ValueError as error:
            raise ValueError(f"landmarks of picture {row}, {points.tolist()}: {error}") from error
    return matrices


def face_crops(images: np.ndarray, landmarks: np.ndarray, *, size: int) -> Tensor:
    """Return the recogniser's crops of pictures as they are stored, (B, 3, size, size) in [-1, 1], on the CPU.

    Args:
        images: uint8 (B, H, W, 3).
        landmarks: (B, 5, 2) px.

    Raises:
        ValueError: as `recognizer_matrices`.
    """
    import torch

    matrices = torch.from_numpy(recognizer_matrices(landmarks, size=size))
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)
    return recognizer_crops(pixels, matrices, size=size)


def recognizer_crops(images: Tensor, matrices: Tensor, *, size: int) -> Tensor:
    """Cut the recogniser's crop out of each picture: bilinear, black outside, as insightface does.

    A picture of more than twice the crop's density is first averaged over whole squares of pixels, so that no detail
    is skipped between samples; each one by its own scale, whatever else is in the batch.

    Args:
        images: float (B, 3, H, W) in [-1, 1].
        matrices: (B, 2, 3), from px in the picture to px in the crop, without shear; on the same device.

    Returns:
        (B, 3, size, size) in [-1, 1].
    """
    import torch
    from torch.nn import functional as F

    matrices = matrices.double()
    scales = torch.linalg.det(matrices[:, :, :2]).abs().sqrt()
    factors = (1 / scales.clamp(min=1e-3) + 1e-6).floor().clamp(min=1).long()
    inverse = torch.linalg.inv(matrices[:, :, :2])
    middle = inverse @ ((size - 1) / 2 - matrices[:, :, 2:]) + 0.5  # of the crop, in the picture, from its corner
    out = images.new_empty((len(images), 3, size, size))
    for factor in factors.unique().tolist():
        rows = (factors == factor).nonzero()[:, 0]
        part = images[rows] + 1  # black is 0, what grid_sample puts outside
        if factor > 1:
            part = F.avg_pool2d(part, factor, ceil_mode=True)
        half = factor * torch.tensor([[part.shape[3]], [part.shape[2]]], device=images.device) / 2
        theta = torch.cat([inverse[rows] * (size / 2) / half, middle[rows] / half - 1], dim=2).to(images.dtype)
        grid = F.affine_grid(theta, [len(rows), 3, size, size], align_corners=False)
        out[rows] = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False).sub_(1)
    return out
