"""Which part of a picture an edit may repaint: parts of a face from five landmarks, boxes and brushes.

A part is a set of polygons in face coordinates (u, v): the eyes are at (-1, 0) and (1, 0), the corners of the mouth at
(-1, 1) and (1, 1), the tip of the nose at (0, NOSE_V); u runs to the picture's right, v down. `to_picture` brings them
onto a picture: the five points go exactly where the landmarks are, what lies between is interpolated, and what lies
outside goes on along the axes and at the scale of the similarity that fits the whole face. So a wide mouth gets a wide
region and a turned face a bent one, on photographs as on drawn faces. Parts that end nowhere (hair, hats, halves) run
out of the picture.

A mask is bool (H, W), True where the picture is repainted. Points are px from the centre of the top left pixel, as in
facegen.data.align; a pixel belongs to a part if its centre does.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from facegen.data.align import CANONICAL, umeyama
from facegen.data.images import png_size

Polygon = np.ndarray  # (P, 2) of (u, v)
NOSE_V = 0.58  # where the mean nose lies, CelebA's as the drawn faces', between eyes and mouth
_NOSE_REACH_U = 2.0  # how far to the side what lies between eyes and mouth follows the nose
_UNIT_U = float(CANONICAL[1, 0] - CANONICAL[0, 0]) / 2  # of u and v where no landmark says it, in sides of the crop
_UNIT_V = float(CANONICAL[3, 1] - CANONICAL[0, 1])
_FAR = 40.0  # beyond every border


def _clockwise(polygon: Polygon) -> Polygon:
    """Return the polygon in the order in which y, down, follows x; then overlapping ones add up."""
    following = np.roll(polygon, -1, axis=0)
    area = (polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]).sum()
    return polygon if area > 0 else polygon[::-1]


def _mirrored(*right: tuple[float, float]) -> Polygon:
    """Return the polygon whose right half is given from top to bottom."""
    half = np.array(right)
    return _clockwise(np.concatenate([half, half[::-1] * (-1.0, 1.0)]))


def _ellipse(u: float, v: float, radius_u: float, radius_v: float, num_points: int = 20) -> Polygon:
    angle = 2 * np.pi * (np.arange(num_points) + 0.5) / num_points
    return _clockwise(np.stack([u + radius_u * np.cos(angle), v + radius_v * np.sin(angle)], axis=1))


def _both_sides(polygon: Polygon) -> tuple[Polygon, Polygon]:
    return _clockwise(polygon * (-1.0, 1.0)), _clockwise(polygon)


_CHEEK = np.array([(0.95, 0.36), (1.55, 0.28), (2.10, 0.34), (2.05, 0.90), (1.60, 1.22), (1.02, 1.10), (0.80, 0.66)])
_EAR = np.array([(2.20, -0.20), (2.60, -0.28), (3.10, -0.16), (3.10, 0.40), (2.75, 0.95), (2.20, 0.95)])
_BROW = np.array(
    [(0.16, -0.26), (0.70, -0.50), (1.40, -0.54), (1.95, -0.30), (1.90, -0.18), (1.30, -0.24), (0.25, -0.14)]
)
_HALF = np.array([(_FAR, -_FAR), (0.0, -_FAR), (0.0, 0.0), (0.0, 1.0), (0.0, _FAR), (_FAR, _FAR)])

# Every part by name. Shares of the picture, at the mean landmarks of CelebA / of the drawn faces: see the tests.
REGIONS: Mapping[str, tuple[Polygon, ...]] = MappingProxyType(
    {
        "eyes": _both_sides(_ellipse(1.0, 0.0, 0.72, 0.22)),
        "glasses": (
            _mirrored((0.00, -0.30), (0.60, -0.42), (1.80, -0.42), (2.25, -0.26), (2.90, -0.22), (2.90, 0.12),
                      (2.30, 0.18), (1.95, 0.48), (0.70, 0.50), (0.25, 0.28), (0.00, 0.20)),
        ),
        "brows": _both_sides(_BROW),
        "nose": (
            _mirrored((0.00, -0.10), (0.24, -0.10), (0.36, 0.30), (0.72, 0.52), (0.70, 0.70), (0.30, 0.77),
                      (0.00, 0.78)),
        ),
        "mouth": (
            _mirrored((0.00, 0.80), (0.75, 0.80), (1.35, 0.82), (1.48, 1.00), (1.15, 1.24), (0.55, 1.35), (0.00, 1.37)),
        ),
        "upper_lip": (
            _mirrored((0.00, 0.63), (0.55, 0.64), (1.10, 0.80), (1.50, 1.02), (1.30, 1.16), (0.80, 1.08), (0.00, 1.06)),
        ),
        "beard": (
            _mirrored((0.00, 0.64), (0.60, 0.66), (1.20, 0.76), (1.80, 0.14), (2.85, 0.10), (2.80, 0.70), (2.50, 1.22),
                      (2.00, 1.62), (1.20, 1.90), (0.00, 1.98)),
        ),
        "cheeks": _both_sides(_CHEEK),
        "hair": (
            _mirrored((0.00, -_FAR), (2.30, -_FAR), (2.90, -2.00), (3.60, -1.10), (4.00, 0.20), (4.10, 1.90),
                      (1.40, 1.90), (1.50, 1.45), (2.10, 1.10), (2.20, 0.20), (2.10, -0.35), (1.55, -0.72),
                      (0.80, -0.88), (0.00, -0.90)),
        ),
        "forehead": (
            _mirrored((0.00, -1.58), (1.20, -1.48), (2.10, -1.02), (2.40, -0.50), (2.25, -0.08), (1.90, -0.08),
                      (1.20, -0.22), (0.00, -0.20)),
        ),
        "hat": (_mirrored((0.00, -_FAR), (4.80, -_FAR), (4.80, -0.52), (2.60, -0.30), (0.00, -0.24)),),
        "ears": _both_sides(_EAR),
        "neck": (
            _mirrored((0.00, 1.62), (1.10, 1.50), (2.00, 1.20), (2.20, 1.70), (4.50, 2.10), (4.50, _FAR), (0.00, _FAR)),
        ),
        "face": (
            _mirrored((0.00, -1.15), (1.10, -1.08), (1.90, -0.75), (2.45, -0.10), (2.45, 0.50), (2.25, 1.05),
                      (1.75, 1.48), (0.95, 1.76), (0.00, 1.84)),
        ),
        "upper_face": (_mirrored((_FAR, -_FAR), (_FAR, 0.45)),),
        "lower_face": (_mirrored((_FAR, 0.45), (_FAR, _FAR)),),
        "left_half": (_clockwise(_HALF * (-1.0, 1.0)),),
        "right_half": (_clockwise(_HALF),),
    }
)  # fmt: skip

# What repainting has to cover, for each of CelebA's attributes, so that the attribute can come or go.
ATTRIBUTE_REGIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "5_o_Clock_Shadow": ("beard",),
        "Arched_Eyebrows": ("brows",),
        "Attractive": ("face",),
        "Bags_Under_Eyes": ("eyes",),
        "Bald": ("hair", "forehead"),
        "Bangs": ("forehead",),
        "Big_Lips": ("mouth",),
        "Big_Nose": ("nose",),
        "Black_Hair": ("hair", "forehead"),
        "Blond_Hair": ("hair", "forehead"),
        "Blurry": ("face",),
        "Brown_Hair": ("hair", "forehead"),
        "Bushy_Eyebrows": ("brows",),
        "Chubby": ("cheeks", "beard"),
        "Double_Chin": ("beard", "neck"),
        "Eyeglasses": ("glasses",),
        "Goatee": ("beard",),
        "Gray_Hair": ("hair", "forehead"),
        "Heavy_Makeup": ("eyes", "brows", "cheeks", "mouth"),
        "High_Cheekbones": ("cheeks",),
        "Male": ("face", "hair"),
        "Mouth_Slightly_Open": ("mouth",),
        "Mustache": ("upper_lip",),
        "Narrow_Eyes": ("eyes",),
        "No_Beard": ("beard",),
        "Oval_Face": ("face",),
        "Pale_Skin": ("face",),
        "Pointy_Nose": ("nose",),
        "Receding_Hairline": ("forehead",),
        "Rosy_Cheeks": ("cheeks",),
        "Sideburns": ("beard", "ears"),
        "Smiling": ("mouth", "cheeks"),
        "Straight_Hair": ("hair", "forehead"),
        "Wavy_Hair": ("hair", "forehead"),
        "Wearing_Earrings": ("ears",),
        "Wearing_Hat": ("hat",),
        "Wearing_Lipstick": ("mouth",),
        "Wearing_Necklace": ("neck",),
        "Wearing_Necktie": ("neck",),
        "Young": ("face", "hair"),
    }
)
FALLBACK = ("face",)


def regions_of(attribute: str) -> tuple[str, ...]:
    """Return the parts that a change of this attribute repaints; of an unknown one, the face."""
    return ATTRIBUTE_REGIONS.get(attribute, FALLBACK)


def parse_region(text: str) -> tuple[str, ...]:
    """Parse "eyes+mouth" into names of parts, each once.

    Raises:
        ValueError: naming what is no part, and the list.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split("+")))
    _require_regions(names)
    return names


def region_mask(names: Sequence[str], landmarks: np.ndarray, *, size: int | tuple[int, int]) -> np.ndarray:  # (H, W)
    """Return the union of some parts of a face.

    Args:
        names: of REGIONS, one or more.
        landmarks: (5, 2) px; the mean or canonical ones where they are not known.
        size: side of the picture, or its (height, width), px.

    Returns:
        bool (H, W). It has no True where the parts lie outside the picture.

    Raises:
        ValueError: for an unknown part, or landmarks that are no face.
    """
    _require_regions(names)
    points, following = _outlines(tuple(names))
    return fill_polygons(FaceFrame(landmarks).to_picture(points), following, size=size)


class FaceFrame:
    """Face coordinates of one face."""

    def __init__(self, landmarks: np.ndarray) -> None:
        """Args:
        landmarks: (5, 2) px.

        Raises:
            ValueError: if they coincide or are not five finite points.
        """
        points = np.asarray(landmarks, dtype=np.float64)
        try:
            fit = umeyama(CANONICAL, points)
            if np.hypot(*fit[:, 0]) < 1:  # the face would be smaller than a pixel
                raise ValueError("the points coincide")
        except ValueError as error:
            raise ValueError(f"landmarks {points.tolist()}: {error}") from error
        self.axes = fit[:, :2] * (_UNIT_U, _UNIT_V)  # columns: px of one u, of one v
        self.left, self.right = points[[0, 3]], points[[1, 4]]  # eye, corner of the mouth
        self.nose = np.zeros(2)
        self.nose = points[2] - self.to_picture(np.array([[0.0, NOSE_V]]))[0]

    def to_picture(self, points: np.ndarray) -> np.ndarray:  # (P, 2) of (u, v) -> (P, 2) of (x, y) px
        """Return where points of the face lie in the picture."""
        u, v = points[:, :1], points[:, 1:]
        inner_u, inner_v = np.clip(u, -1.0, 1.0), np.clip(v, 0.0, 1.0)
        left = self.left[0] + inner_v * (self.left[1] - self.left[0])
        right = self.right[0] + inner_v * (self.right[1] - self.right[0])
        inner = (left + right) / 2 + inner_u * (right - left) / 2
        outer = np.concatenate([u - inner_u, v - inner_v], axis=1) @ self.axes.T
        tent = np.minimum(inner_v / NOSE_V, (1 - inner_v) / (1 - NOSE_V)) * np.maximum(0, 1 - abs(u) / _NOSE_REACH_U)
        return np.asarray(inner + outer + tent * self.nose)


@lru_cache(maxsize=1024)
def _outlines(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:  # (P, 2) of (u, v), (P,)
    """Return the vertices of the parts' polygons, and the number of the vertex that follows each."""
    polygons = [polygon for name in dict.fromkeys(names) for polygon in REGIONS[name]]
    first = np.cumsum([0, *(len(polygon) for polygon in polygons)])
    following = [start + np.roll(np.arange(len(p)), -1) for start, p in zip(first, polygons, strict=False)]
    return np.concatenate(polygons), np.concatenate(following)


def fill_polygons(points: np.ndarray, following: np.ndarray, *, size: int | tuple[int, int]) -> np.ndarray:  # (H, W)
    """Return the pixels whose centres one of several polygons winds round (the nonzero rule).

    Each edge adds 1 or -1, by its direction, to what lies right of it, row by row.

    Args:
        points: (P, 2) px, the vertices of all of them.
        following: (P,) the number of the vertex that follows each in its polygon.
        size: side of the picture, or its (height, width), px.
    """
    height, width = _height_width(size)
    start, end = points, points[following]
    y = np.arange(height)[:, None]
    above = start[:, 1] <= y
    rows, edges = np.nonzero(above != (end[:, 1] <= y))
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    columns = np.clip(np.ceil(x0 + (rows - y0) * (x1 - x0) / (y1 - y0)), 0, width).astype(np.int64)
    turns = np.bincount(
        rows * (width + 1) + columns, weights=np.where(above[rows, edges], 1, -1), minlength=height * (width + 1)
    )
    return np.asarray(np.cumsum(turns.reshape(height, width + 1)[:, :width], axis=1) != 0)


def box_mask(box: tuple[float, float, float, float], *, size: int | tuple[int, int]) -> np.ndarray:  # (H, W)
    """Return the pixels of a box.

    Args:
        box: (x0, y0, x1, y1) px: its left and upper pixel, and the first pixel right of and below it.
        size: side of the picture, or its (height, width), px.

    Raises:
        ValueError: if the box is empty, leaves the picture, is the whole of it, or is not of four whole numbers.
    """
    height, width = _height_width(size)
    values = np.asarray(box, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or (values != np.round(values)).any():
        raise ValueError(f"box {box}; expected four whole numbers x0, y0, x1, y1 in px")
    x0, y0, x1, y1 = (int(value) for value in values)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"box {x0},{y0},{x1},{y1}: expected 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} (the picture)"
        )
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    if mask.all():
        raise ValueError(f"box {x0},{y0},{x1},{y1} is the whole picture; leave a part of it")
    return mask


def read_mask(path: str | Path, *, size: tuple[int, int]) -> np.ndarray:  # (H, W)
    """Read a brush: a PNG of the picture's size in which white marks what is repainted.

    Where the PNG is transparent somewhere, its opaque pixels are the brush instead, whatever their colour. Both are
    decided at half of the range.

    Args:
        path: the file.
        size: (height, width) of the picture, px.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is no whole PNG of 8 bits or less a channel, of another size, or marks
            nothing or everything.
    """
    data = Path(path).read_bytes()
    try:
        width, height = png_size(data)
        if (height, width) != tuple(size):  # before anything is allocated
            raise ValueError(f"{width}x{height} px, but the picture has {size[1]}x{size[0]}")
        mask = _decode_mask(data)
        if not mask.any():
            raise ValueError("it marks nothing: paint white, or opaque on transparent, what shall change")
        if mask.all():
            raise ValueError("it marks everything: leave a part of the picture black or transparent")
    except ValueError as error:
        raise ValueError(f"mask {path}: {error}") from error
    return mask


def mask_share(mask: np.ndarray) -> float:
    """Return the share of the picture that is True."""
    return float(np.mean(mask))


def _decode_mask(data: bytes) -> np.ndarray:
    """Return what the bytes of a PNG mark, bool (H, W).

    Raises:
        ValueError: if they do not decode.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"not a whole PNG ({' '.join(str(error).split())})") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError("16 bits a channel; save it with 8")
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return np.asarray(alpha >= 128)
    return np.asarray(image.convert("L")) >= 128


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {width}x{height} px; each side must be at least 1")
    return height, width


def _require_regions(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in REGIONS]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0].lower(), list(REGIONS), n=1, cutoff=0.5) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else ""
        what = f"unknown region {unknown[0]!r}{hint}" if unknown else "no region"
        raise ValueError(f"{what} (known: {', '.join(REGIONS)}; join several with +)")
