"""Pictures in and out: strict decoding of what users bring, lossless PNG of our own, and the step to and from tensors.

A picture is RGB, 8 bits a channel, upright, in memory as uint8 (H, W, 3). What arrives in another form is converted
by a stated rule or refused with a reason; nothing is guessed. The rules:

- JPEG, PNG and WebP, told by content, never by name. Of a multi-picture JPEG (MPO, phones write it) the first is
  taken.
- Grey (1, L) is repeated over the channels; a palette (P) is looked up; CMYK becomes (255-C)(255-K)/255.
- Transparency is composited over white: what hides under it is never seen.
- The EXIF orientation is applied. Colour profiles are ignored.
- Refused: 16 bits a channel (its range is anybody's guess), animations, other modes, less than MIN_SIDE_PX a side,
  more pixels than allowed (read from the header, before any pixel is allocated), and whatever does not decode to its
  last byte.

Shapes: B batch, H W size in px.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

if TYPE_CHECKING:
    import torch

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE_PX = 8
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MODES = ("1", "L", "P", "RGB", "CMYK", "LA", "PA", "RGBA")
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_PNG_LEVEL = 3  # measured on faces: 3 % larger than level 6, a third less time


class ImageError(ValueError):
    """A file that is not a picture we can use; the message is the reason, in one line."""


def to_unit(images: np.ndarray) -> torch.Tensor:  # (B, H, W, 3) -> (B, 3, H, W)
    """Turn pixels into the networks' range: 0 becomes -1 and 255 becomes 1.

    Args:
        images: uint8 (B, H, W, 3).

    Returns:
        float32 (B, 3, H, W) in [-1, 1], contiguous.

    Raises:
        ValueError: for another rank, channel count or dtype.
    """
    import torch

    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (B, H, W, 3)")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return pixels.float().div_(127.5).sub_(1.0)


def to_uint8(images: torch.Tensor) -> np.ndarray:  # (B, 3, H, W) -> (B, H, W, 3)
    """Turn the networks' range into pixels: clamped to [-1, 1], then rounded (truncation would darken by half a step).

    Args:
        images: floating (B, 3, H, W), on any device.

    Returns:
        uint8 (B, H, W, 3), contiguous.

    Raises:
        ValueError: for another rank or channel count, or if a value is NaN.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected floating (B, 3, H, W)")
    values = images.detach().float()
    if bool(values.isnan().any()):
        raise ValueError("images hold NaN; the network that made them is broken")
    pixels = values.clamp(-1.0, 1.0).add(1.0).mul(127.5).round()
    return np.ascontiguousarray(pixels.byte().permute(0, 2, 3, 1).cpu().numpy())


def decode_photo(data: bytes, *, max_megapixels: float) -> Image.Image:
    """Decode a user's picture completely, by the rules above.

    Args:
        data: the bytes of the file.
        max_megapixels: the most pixels allowed, in millions; checked against the header, before allocation.

    Returns:
        An RGB image, upright.

    Raises:
        ImageError: with the reason, for every file that the rules refuse.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on: broken pictures would pass as grey ones; turn it off"
        )
    if not data:
        raise ImageError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("error", UserWarning)  # damaged EXIF and the like
        try:
            image = _open(data, max_megapixels)
            image.load()
            return _upright_rgb(image)
        except ImageError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f"too many pixels: {_one_line(error)}") from error
        except MemoryError as error:
            raise ImageError("decoding it needs more memory than there is") from error
        except (*_DECODER_ERRORS, UserWarning) as error:
            raise ImageError(f"does not decode: {_one_line(error)}") from error


def encode_png(image: Image.Image | np.ndarray) -> bytes:
    """Encode an RGB picture (or uint8 (H, W, 3)) as PNG: equal pixels give equal bytes under one version of zlib."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    Image.Image.save(image, buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def decode_png(data: bytes | memoryview) -> np.ndarray:
    """Decode a PNG of our own into uint8 (H, W, 3).

    Raises:
        ValueError: if it is not a whole RGB PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode != "RGB":
                raise ValueError(f"mode {image.mode}, expected RGB")
            return np.asarray(image)
    except _DECODER_ERRORS as error:
        raise ValueError(f"not a whole RGB PNG ({_one_line(error)})") from error


def png_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a PNG from its first 24 bytes.

    Raises:
        ValueError: if it does not begin as a PNG does.
    """
    if len(data) < 33 or not data.startswith(PNG_SIGNATURE):
        raise ValueError("the bytes are not a PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _open(data: bytes, max_megapixels: float) -> Image.Image:
    """Read the header only, and refuse what the header tells."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"not a JPEG, PNG or WebP picture (it begins with {data[:12]!r})") from None
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        size = f"{width}x{height} px, {width * height / 1e6:.1f} megapixels"
        raise ImageError(f"{size}; at most {max_megapixels:g} are allowed (preprocess.max_megapixels)")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"{width}x{height} px; each side must have at least {MIN_SIDE_PX}")
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise ImageError(f"an animation of {frames} frames; only still pictures are allowed")
    if isinstance(image, PngImagePlugin.PngImageFile):
        if data[24] == 16:
            raise ImageError("16 bits a channel; convert it to 8 bits, choosing the range yourself")
        image.verify()  # the checksums of all chunks; Pillow's decoder alone lets some flipped bits through
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.mode not in _MODES:
        raise ImageError(f"colour mode {image.mode}; allowed: {', '.join(_MODES)}")
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, composite transparency over white, convert to RGB."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
