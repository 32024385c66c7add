"""The face in a photograph: taken out of it as a model wants it, and its change put back.

Putting back. A model's face has fewer pixels than the face in the photograph, so replacing would blur. Only where the
model changed something does the photograph give way: with D the change in the model's pixels, and

    keep = exp(-(largest |D| of the 3 x 3 neighbours / CHANGE_LEVELS)^2)
    result = photograph + weight * (keep * D + (1 - keep) * (edited - photograph as seen))

so that the photograph's own detail survives where D is small, and the detail of what was removed (a rim of glasses)
leaves no ghost where D is large. The weight is 1 inside the mask and falls to 0 over FEATHER_PX of the model's pixels
towards its edge (an editor has faded the change there already; this keeps the model's pixels from showing as stairs).
Where the mask runs out of the crop, it falls over BORDER_SHARE of the side. Pixels outside are untouched, bit for bit.
A grey photograph takes the luma of the change.

A point is in px, counted from the centre of the top left pixel; a matrix maps points counted from its corner. Shapes:
H W photograph, S the model's side, k the factor of an upscaler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from facegen.data.align import CANONICAL, cut_face, umeyama
from facegen.data.images import ImageError
from facegen.photograph import Photograph

CHANGE_LEVELS = 40.0  # of 255; below it ghosts of what was removed are faint, above it they show (looked at: 1 to 90)
FEATHER_PX = 1.0  # of the model's pixels
BORDER_SHARE = 0.08  # of the model's side: the fade at the crop's border, where the photograph goes on
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's conversion to grey
_MAX_SPAN = 4.0  # distance of landmarks from their middle, in sides of the photograph, beyond which they are nonsense
_BAND_ROWS = 512  # rows of the photograph that are pasted at a time


@dataclass(frozen=True)
class AlignedFace:
    """A face as a model takes it.

    Attributes:
        image: uint8 (S, S, 3).
        landmarks: float32 (5, 2) px in `image`; the template's where they are not known.
        matrix: float64 (2, 3), from the photograph to `image`, both counted in px from the corner of the first pixel.
    """

    image: np.ndarray
    landmarks: np.ndarray
    matrix: np.ndarray

    @property
    def scale(self) -> float:
        """Pixels of `image` a pixel of the photograph."""
        return math.hypot(self.matrix[0, 0], self.matrix[1, 0])


def take_face(photo: Photograph, landmarks: np.ndarray | None, *, template: np.ndarray, resolution: int) -> AlignedFace:
    """Take the face out of a photograph, as `facegen.data.align` cuts those that are trained on: without aliasing.

    Args:
        photo: the photograph.
        landmarks: (5, 2) px in it: the similarity that brings them closest to the template; edge pixels are repeated
            where the crop leaves the photograph. None: the face fills the largest centred square, which is resized.
        template: (5, 2) px, where the landmarks lie in the model's faces.
        resolution: S.

    Raises:
        ImageError: if the landmarks cannot be those of a face in the photograph.
    """
    image = Image.fromarray(photo.seen)
    if landmarks is None:
        height, width = photo.size
        side = min(height, width)
        scale = resolution / side
        left, top = (width - side) // 2, (height - side) // 2
        matrix = np.array([[scale, 0.0, -scale * left], [0.0, scale, -scale * top]])
        face = cut_face(image, resolution=resolution, crop="full", crop_size_px=0, landmarks=None)[0]
        return AlignedFace(np.asarray(face), np.asarray(template, np.float32), matrix)
    matrix = _alignment(photo, landmarks, template)
    # `cut_face` fits points to the canonical ones: those that the wanted similarity brings there fit it exactly
    points = _apply(_inverse(matrix), CANONICAL * resolution) - 0.5
    face = cut_face(image, resolution=resolution, crop="landmarks", crop_size_px=0, landmarks=points)[0]
    moved = _apply(matrix, np.asarray(landmarks, np.float64) + 0.5) - 0.5
    return AlignedFace(np.asarray(face), moved.astype(np.float32), matrix)


def take_mask(mask: np.ndarray, aligned: AlignedFace) -> np.ndarray:
    """Return the part of a photograph's mask that lies in the face, bool (S, S): every pixel that it touches.

    Args:
        mask: bool (H, W).
        aligned: the face.
    """
    side = len(aligned.image)
    fine = max(1, math.ceil(1 / aligned.scale))  # samples a pixel of the face and side
    centres = (np.arange(side * fine) + 0.5) / fine
    x, y = np.meshgrid(centres, centres)
    places = np.floor(_apply(_inverse(aligned.matrix), np.stack([x, y], axis=-1))).astype(int)
    height, width = mask.shape
    inside = ((places >= 0) & (places < (width, height))).all(axis=-1)
    column, row = places[..., 0].clip(0, width - 1), places[..., 1].clip(0, height - 1)
    covered = (mask[row, column] & inside).reshape(side, fine, side, fine)
    return covered.any(axis=(1, 3))


def put_back(
    photo: Photograph,
    aligned: AlignedFace,
    edited: np.ndarray,
    mask: np.ndarray,
    *,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Paste the change of a face into the photograph it was taken from.

    Args:
        photo: the photograph.
        aligned: the face as it was taken.
        edited: uint8 (k S, k S, 3): the face after editing; for k > 1 of an upscaler, whose detail replaces the
            photograph's where the face was changed.
        mask: bool (S, S), where it may differ.
        within: bool (H, W), a mask of the photograph itself that is not left either; None: no other limit.

    Returns:
        uint8 (H, W, 3): the photograph's pixels, bit-identical outside the mask, and everywhere if nothing changed.

    Raises:
        ValueError: for shapes that do not fit.
    """
    side = len(aligned.image)
    factor = edited.shape[0] // side
    if edited.shape != (side * factor, side * factor, 3) or factor < 1 or edited.dtype != np.uint8:
        raise ValueError(f"edited is {edited.dtype} {edited.shape}; expected uint8 squares, a multiple of {side} px")
    if mask.shape != (side, side) or (within is not None and within.shape != photo.size):
        raise ValueError(f"masks of {mask.shape} and {None if within is None else within.shape} do not fit the face")
    result = photo.pixels.copy()
    left, top, right, bottom = _place(photo, aligned, mask)
    if left >= right or top >= bottom:
        return result
    small = edited.reshape(side, factor, side, factor, 3).mean(axis=(1, 3), dtype=np.float32)
    change = small - aligned.image
    if photo.grey:
        change, edited = _grey(change), _grey(edited.astype(np.float32))
    size = np.abs(change).max(axis=-1)
    keep = np.exp(-np.square(ndimage.maximum_filter(size, size=3) / CHANGE_LEVELS))
    depth = _face_depth(mask, photo, aligned).clip(max=FEATHER_PX + 1)
    sheets = _Sheets(
        [(change, 1, 3), (edited, factor, 3), (keep[..., None], 1, 1), (depth[..., None], 1, 1)], aligned, mask
    )
    near = None if within is None else _depth(within[top:bottom, left:right]) * aligned.scale
    for start in range(top, bottom, _BAND_ROWS):
        stop = min(start + _BAND_ROWS, bottom)
        band = np.s_[start:stop, left:right]
        (moved, whole, kept, deep), inside = sheets.at(left, right, start, stop)
        share = _ramp(deep - 0.5)
        if near is not None:
            share *= _ramp(near[start - top : stop - top, :, None] - 0.5 * aligned.scale)  # 0 where `within` is not
        kept = kept.clip(0, 1)
        seen = photo.seen[band].astype(np.float32)
        mixed = photo.pixels[band] + share * (kept * moved + (1 - kept) * (whole - seen))
        result[band][inside] = np.rint(mixed.clip(0, 255))[inside].astype(np.uint8)
    return result


class _Sheets:
    """What is pasted, over the face's pixels, and its values at the photograph's."""

    def __init__(self, sheets: Sequence[tuple[np.ndarray, int, int]], aligned: AlignedFace, mask: np.ndarray) -> None:
        """
        Args:
            sheets: arrays (k S, k S, channels), their k, and the order of the spline that is read between pixels.
            aligned: the face.
            mask: bool (S, S).
        """
        self._matrix, self._mask = aligned.matrix, mask
        self._sheets = []
        for sheet, factor, order in sheets:
            shrink = max(1, math.floor(aligned.scale * factor + 1e-6))  # first averaged, so that no pixel is skipped
            values = _averaged(sheet.astype(np.float32), shrink)
            if order > 1:
                values = np.stack(
                    [ndimage.spline_filter(c, order, np.float32, "reflect") for c in _channels(values)], -1
                )
            self._sheets.append((values, factor / shrink, order))

    def at(self, left: int, right: int, top: int, bottom: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each sheet, float32 (rows, columns, channels), and whether a pixel's centre lies in the mask."""
        shape = (bottom - top, right - left)
        linear = self._matrix[::-1, 1::-1]  # of (row, column)
        first = self._matrix[::-1, :2] @ (left + 0.5, top + 0.5) + self._matrix[::-1, 2]  # (y, x) of the first centre
        found = []
        for values, density, order in self._sheets:
            arguments: dict[str, Any] = {"output_shape": shape, "order": order, "mode": "reflect", "prefilter": False}
            planes = [
                ndimage.affine_transform(plane, linear * density, first * density - 0.5, **arguments)
                for plane in _channels(values)
            ]
            found.append(np.stack(planes, axis=-1))
        side = len(self._mask)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        place = np.floor(np.stack([rows, columns], axis=-1) @ linear.T + first).astype(int)
        within = ((place >= 0) & (place < side)).all(axis=-1)
        place = place.clip(0, side - 1)
        return found, within & self._mask[place[..., 0], place[..., 1]]


def _grey(values: np.ndarray) -> np.ndarray:
    """Return the luma of float32 (..., 3) on all three channels."""
    return np.repeat((values @ _LUMA)[..., None], 3, axis=-1)


def _alignment(photo: Photograph, landmarks: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Return the similarity from the photograph to the face, (2, 3), counted from the corner of the first pixel."""
    points = np.asarray(landmarks, dtype=np.float64)
    try:
        matrix = umeyama(points + 0.5, np.asarray(template, np.float64) + 0.5)
    except ValueError as error:
        raise ImageError(f"landmarks {points.tolist()}: {error}") from error
    height, width = photo.size
    middle = points.mean(axis=0)
    spread = np.abs(points - middle).max()
    if not (-0.5 <= middle[0] < width - 0.5 and -0.5 <= middle[1] < height - 0.5) or spread > _MAX_SPAN * max(
        photo.size
    ):
        raise ImageError(f"landmarks {points.tolist()}: no face of the photograph's {width}x{height} px")
    return matrix


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:  # (2, 3), (..., 2) -> (..., 2)
    return points @ matrix[:, :2].T + matrix[:, 2]


def _inverse(matrix: np.ndarray) -> np.ndarray:  # (2, 3) -> (2, 3)
    inverse = np.linalg.inv(matrix[:, :2])
    return np.hstack([inverse, -inverse @ matrix[:, 2:]])


def _place(photo: Photograph, aligned: AlignedFace, mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the photograph's pixels that the mask may touch."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = np.meshgrid([columns[0], columns[-1] + 1], [rows[0], rows[-1] + 1])
    corners = _apply(_inverse(aligned.matrix), np.stack([x, y], axis=-1)).reshape(-1, 2)
    low, high = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
    height, width = photo.size
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    return left, top, min(width, int(high[0])), min(height, int(high[1]))


def _face_depth(mask: np.ndarray, photo: Photograph, aligned: AlignedFace) -> np.ndarray:  # (S, S)
    """Return the depth in the mask, px; at the crop's border, where the photograph goes on, it rises more slowly.

    What ends in the mask was faded by whoever edited the face; what runs out of the crop was not.
    """
    side = len(mask)
    x, y = np.meshgrid(np.arange(-1, side + 1) + 0.5, np.arange(-1, side + 1) + 0.5)
    places = _apply(_inverse(aligned.matrix), np.stack([x, y], axis=-1))
    height, width = photo.size
    beyond = np.asarray(((places < 0) | (places >= (width, height))).any(axis=-1))
    beyond[1:-1, 1:-1] = True  # what remains is the border, without that part which lies outside the photograph
    slower = FEATHER_PX / max(FEATHER_PX, BORDER_SHARE * side)
    border = 0.5 + (_depth(beyond)[1:-1, 1:-1] - 0.5) * slower
    return np.minimum(_depth(mask), border)


def _depth(mask: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest pixel outside the mask, px, float32; infinite where there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask), np.float32)


def _ramp(depth_px: np.ndarray) -> np.ndarray:
    """Return the weight at a depth in the mask, counted from its edge in the model's pixels."""
    return (depth_px / FEATHER_PX).clip(0, 1)


def _averaged(sheet: np.ndarray, factor: int) -> np.ndarray:
    """Return means over squares of factor x factor pixels; edge pixels are repeated to fill the last ones."""
    if factor == 1:
        return sheet
    missing = -len(sheet) % factor
    whole = np.pad(sheet, ((0, missing), (0, missing), (0, 0)), mode="edge")
    side = len(whole) // factor
    return whole.reshape(side, factor, side, factor, -1).mean(axis=(1, 3))


def _channels(values: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(values[..., c]) for c in range(values.shape[-1])]
