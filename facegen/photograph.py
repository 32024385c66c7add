"""A user's own photograph: opened with what surrounds the face, and saved as it was.

What is allowed, and how it becomes RGB, stands in `facegen.data.images`: a model sees a photograph by that rule
(transparency over white, grey repeated). What a photograph has besides is kept: its size, its alpha channel and the
colours that lie under it, its colour profile, and that it is grey. EXIF is applied (orientation) and then left out,
because its thumbnail would still show the face as it was. A palette becomes RGB, black and white becomes grey, CMYK
becomes RGB. How a face is taken out and put back: `facegen.photo_face`. Shapes: H W photograph, px.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from facegen.artifacts import atomic_write_bytes, canonical_json
from facegen.data.images import FORMATS, ImageError, decode_photo

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
JPEG_QUALITY = WEBP_QUALITY = 95
METADATA_KEY = "facegen"  # of PNG, as facegen.grids writes it
_PNG_LEVEL = 6
_ICC_SPACES = {"RGB": b"RGB ", "L": b"GRAY"}  # bytes 16 to 19 of a profile


@dataclass(frozen=True)
class Photograph:
    """A photograph in memory, upright.

    Attributes:
        pixels: uint8 (H, W, 3): the colours as stored, also where they are transparent.
        alpha: uint8 (H, W), or None where nothing is transparent.
        seen: uint8 (H, W, 3): composited over white; what a model sees.
        mode: RGB or L (the file was grey), without alpha.
        grey: whether the three channels are equal everywhere.
        profile: the ICC profile that belongs to `pixels`, or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    seen: np.ndarray
    mode: Literal["RGB", "L"]
    grey: bool
    profile: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in px."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def with_pixels(self, pixels: np.ndarray) -> Photograph:
        """Return the same photograph with other colours, uint8 (H, W, 3).

        Raises:
            ValueError: for another size or dtype.
        """
        if pixels.shape != self.pixels.shape or pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 {self.pixels.shape}")
        return replace(self, pixels=pixels, seen=_over_white(pixels, self.alpha), grey=_is_grey(pixels))


def open_photograph(source: str | Path | bytes, *, max_megapixels: float) -> Photograph:
    """Open a user's photograph, by the rules of `facegen.data.images`.

    Args:
        source: a file, or its bytes.
        max_megapixels: the most pixels allowed, in millions; read from the header, before anything is allocated.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: with the reason in one line (and the file, if it is one), for what the rules refuse.
    """
    if isinstance(source, bytes):
        return _decoded(source, max_megapixels)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder; expected a picture" if path.is_dir() else f"{path}: no such file")
    try:
        return _decoded(path.read_bytes(), max_megapixels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def photograph_of(pixels: np.ndarray) -> Photograph:
    """Return an opaque photograph of uint8 (H, W, 3)."""
    return Photograph(pixels, None, pixels, "RGB", _is_grey(pixels), None)


def save_photograph(path: str | Path, photo: Photograph, *, metadata: dict[str, object] | None = None) -> None:
    """Write a photograph, whole or not at all, in the format of the file name's ending.

    Alpha and colour profile are kept; a photograph that was grey and still is, is written as grey. PNG carries the
    metadata as canonical JSON under the key `facegen`; JPEG (quality 95, colours at full resolution) and WebP
    (quality 95) carry none, and lose a little everywhere, as they do.

    Args:
        path: ends in .png, .jpg, .jpeg or .webp.
        photo: what to write.
        metadata: what it was made with.

    Raises:
        ValueError: for another ending, or a JPEG of a photograph that has transparent parts.
    """
    path = Path(path)
    kind = picture_format(path, photo)
    mode = "L" if photo.mode == "L" and photo.grey else "RGB"
    image = Image.fromarray(photo.pixels[..., 0] if mode == "L" else photo.pixels)
    if photo.alpha is not None and kind != "JPEG":
        image.putalpha(Image.fromarray(photo.alpha))
    settings: dict[str, Any] = {}
    if photo.profile and photo.profile[16:20] == _ICC_SPACES[mode]:
        settings["icc_profile"] = photo.profile
    if kind == "PNG":
        settings["pnginfo"], settings["compress_level"] = PngImagePlugin.PngInfo(), _PNG_LEVEL
        if metadata is not None:
            settings["pnginfo"].add_text(METADATA_KEY, canonical_json(metadata))
    elif kind == "JPEG":
        settings |= {"quality": JPEG_QUALITY, "subsampling": 0}
    else:
        settings |= {"quality": WEBP_QUALITY, "exact": True}  # exact: colours under full transparency are kept
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    atomic_write_bytes(path, buffer.getvalue())


def picture_format(path: Path, photo: Photograph) -> str:
    """Return the format in which a photograph is written under a file name: PNG, JPEG or WEBP, by the ending.

    Raises:
        ValueError: for another ending, or a JPEG of a photograph that has transparent parts.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: the name of a picture ends in {', '.join(SUFFIXES)}")
    if kind == "JPEG" and photo.alpha is not None and photo.alpha.min() < 255:
        raise ValueError(f"{path}: JPEG has no transparency, which the photograph has; write a .png or a .webp")
    return kind


def _decoded(data: bytes, max_megapixels: float) -> Photograph:
    """Decode by `decode_photo`, which checks everything; then read again what it leaves out."""
    seen = np.asarray(decode_photo(data, max_megapixels=max_megapixels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=FORMATS))
    profile = image.info.get("icc_profile")
    grey_file = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        layer = np.asarray(image.convert("RGBA"))
        pixels, alpha = np.ascontiguousarray(layer[..., :3]), np.ascontiguousarray(layer[..., 3])
    else:
        pixels, alpha = seen, None
    kept = profile if isinstance(profile, bytes) and image.mode != "CMYK" else None
    return Photograph(pixels, alpha, seen, "L" if grey_file else "RGB", _is_grey(pixels), kept)


def _over_white(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is None:
        return pixels
    layer = Image.fromarray(np.dstack([pixels, alpha]), "RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))


def _is_grey(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[..., :1]).all())
