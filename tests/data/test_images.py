"""Pictures: the tensor range; every odd file is converted by the stated rule, to the pixel, or refused by name."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from facegen.data.images import ImageError, decode_photo, decode_png, encode_png, png_size, to_uint8, to_unit

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def decoded(data: bytes, max_megapixels: float = 25) -> np.ndarray:
    return np.asarray(decode_photo(data, max_megapixels=max_megapixels))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# --- tensors ---------------------------------------------------------------------------------------------------------


def test_unit_range_and_layout() -> None:
    images = np.zeros((2, 4, 6, 3), np.uint8)
    images[1, 2, 3] = (0, 255, 51)
    unit = to_unit(images)
    assert unit.shape == (2, 3, 4, 6) and unit.dtype == torch.float32 and unit.is_contiguous()
    assert unit[1, :, 2, 3].tolist() == pytest.approx([-1.0, 1.0, -0.6], abs=1e-6)


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_unit(levels)), levels)


def test_pixels_are_rounded_and_clamped_not_truncated_or_wrapped() -> None:
    values = torch.tensor([100.4, 100.6, -40.0, 300.0, 254.6, 0.4]) / 127.5 - 1
    pixels = to_uint8(values.reshape(1, 1, 1, 6).expand(1, 3, 1, 6))
    assert pixels[0, 0, :, 0].tolist() == [100, 101, 0, 255, 255, 0]
    assert to_uint8(torch.tensor([torch.inf, -torch.inf]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2))[
        0, 0, :, 0
    ].tolist() == [255, 0]


def test_wrong_arrays_and_nan_are_refused() -> None:
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            to_unit(wrong)
    for tensor in (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected floating"):
            to_uint8(tensor)
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((1, 3, 2, 2), torch.nan))


# --- files that are fine, or become so by rule ------------------------------------------------------------------------


def test_plain_pictures_are_untouched() -> None:
    image = Image.fromarray(PIXELS)
    assert np.array_equal(decoded(saved(image)), PIXELS)
    assert np.array_equal(decoded(saved(image, "WEBP", lossless=True)), PIXELS)
    jpeg = saved(image, "JPEG", quality=90)
    assert np.array_equal(decoded(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))))


def test_grey_and_bilevel_are_repeated_over_the_channels() -> None:
    grey = PIXELS[..., 0]
    assert np.array_equal(decoded(saved(Image.fromarray(grey))), np.repeat(grey[..., None], 3, axis=2))
    bits = (grey > 127).astype(np.uint8) * 255
    bilevel = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    assert np.array_equal(decoded(saved(bilevel)), np.repeat(bits[..., None], 3, axis=2))


def test_a_palette_is_looked_up() -> None:
    indices = PIXELS[..., 0] % 4
    palette = np.array([[9, 8, 7], [255, 0, 1], [0, 200, 30], [70, 80, 90]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert np.array_equal(decoded(saved(image)), palette[indices])
    transparent = decoded(saved(image, transparency=1))
    palette[1] = 255
    assert np.array_equal(transparent, palette[indices])


def test_cmyk_is_converted_by_the_stated_formula() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8] = (255, 0, 102, 51)
    jpeg = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0)
    expected = np.full((16, 16, 3), 255.0)
    expected[:8] = [(255 - c) * (255 - 51) / 255 for c in (255, 0, 102)]
    assert np.abs(decoded(jpeg) - expected).max() <= 3  # JPEG itself rounds


def test_transparency_is_composited_over_white() -> None:
    layers = np.zeros((10, 10, 4), np.uint8)
    layers[...] = (200, 100, 0, 0)  # a colour hidden under full transparency
    layers[2:5] = (200, 100, 0, 255)
    layers[5:7] = (200, 100, 0, 51)
    pixels = decoded(saved(Image.fromarray(layers)))
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[3, 3].tolist() == [200, 100, 0]
    assert np.abs(pixels[5, 5].astype(int) - [244, 224, 204]).max() <= 1
    veiled_grey = np.stack([np.full((9, 9), 40, np.uint8), np.zeros((9, 9), np.uint8)], -1)
    assert (decoded(saved(Image.fromarray(veiled_grey, "LA"))) == 255).all()
    keyed = saved(Image.fromarray(PIXELS), transparency=tuple(PIXELS[4, 5].tolist()))
    assert decoded(keyed)[4, 5].tolist() == [255, 255, 255] and np.array_equal(decoded(keyed)[0, 0], PIXELS[0, 0])


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: p[::-1].transpose(1, 0, 2)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: p.transpose(1, 0, 2)[::-1]),
    ],
)
def test_exif_orientation_is_applied(orientation: int, turn: Callable[[np.ndarray], np.ndarray]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(saved(Image.fromarray(PIXELS), exif=exif)), turn(PIXELS))


def test_of_a_multi_picture_jpeg_the_first_is_taken() -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert np.array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


# --- files that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_cut_short_is_refused_at_every_length(format: str) -> None:
    data = saved(Image.fromarray(PIXELS), format)
    pixels_end = len(data) - (12 if format == "PNG" else 2)  # what follows is only the end mark
    for length in [*range(0, pixels_end, 37), pixels_end - 1]:
        with pytest.raises(ImageError):
            decode_photo(data[:length], max_megapixels=25)


def test_a_flipped_bit_in_a_png_is_refused_or_harmless() -> None:
    data = saved(Image.fromarray(PIXELS[:12, :12]))
    passed = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            assert np.array_equal(decoded(bytes(damaged)), PIXELS[:12, :12])
            passed += 1
        except ImageError:
            pass
    assert passed <= 12  # the end mark alone


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "not a JPEG, PNG or WebP picture .it begins with b'<!DOCTYPE ht'"),
        (saved(Image.fromarray(PIXELS), "GIF"), "not a JPEG, PNG or WebP"),
        (saved(Image.fromarray(PIXELS), "TIFF"), "not a JPEG, PNG or WebP"),
        (saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)), "16 bits a channel"),
        (saved(Image.fromarray(PIXELS[:1, :1])), "1x1 px; each side must have at least 8"),
        (saved(Image.fromarray(PIXELS[:7])), "30x7 px"),
    ],
)
def test_what_is_no_usable_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_photo(data, max_megapixels=25)


def test_sixteen_bit_colour_is_refused_though_pillow_would_halve_it_silently() -> None:
    row = b"\0" + struct.pack(">48H", *range(30000, 30048))
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(row * 16)) + png_chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + body
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    with pytest.raises(ImageError, match="16 bits a channel"):
        decode_photo(data, max_megapixels=25)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format: str) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    with pytest.raises(ImageError, match="animation of 2 frames"):
        decode_photo(saved(frames[0], format, save_all=True, append_images=frames[1:]), max_megapixels=25)


def huge_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10000, 10000), (6000, 5000), (60000, 60000)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=r"megapixels; at most 25|too many pixels"):
        decode_photo(huge_png(width, height), max_megapixels=25)


def test_pillows_own_bomb_warning_is_an_error_too() -> None:
    with pytest.raises(ImageError, match="too many pixels"):
        decode_photo(huge_png(10000, 10000), max_megapixels=178)


def test_a_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    code = """
import io, resource, sys
from PIL import Image
from facegen.data.images import ImageError, decode_photo
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_photo(data, max_megapixels=25)
except ImageError as error:
    print(len(data) // 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    bomb = saved(Image.new("L", (9000, 9000)))  # 80 kB of file, 81 MB of pixels
    done = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True)
    kilobytes, grown_kib = map(int, done.stdout.split())
    assert kilobytes < 100 and grown_kib < 20_000


def test_damaged_exif_is_refused_for_the_orientation_is_unknown() -> None:
    data = saved(Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01")
    with pytest.raises(ImageError, match="does not decode"):
        decode_photo(data, max_megapixels=25)


def test_tolerance_of_truncation_is_a_mistake_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode_photo(saved(Image.fromarray(PIXELS)), max_megapixels=25)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_random_damage_never_escapes_as_another_error(format: str) -> None:
    data, draw = saved(Image.fromarray(PIXELS), format), np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for position in draw.integers(0, len(data), draw.integers(1, 9)):
            damaged[position] = draw.integers(0, 256)
        try:
            decode_photo(bytes(damaged), max_megapixels=25)
        except ImageError as error:
            assert "\n" not in str(error)


# --- PNG of our own ---------------------------------------------------------------------------------------------------


def test_our_png_is_lossless_and_deterministic() -> None:
    data = encode_png(PIXELS)
    assert data == encode_png(Image.fromarray(PIXELS)) and png_size(data) == (30, 20)
    assert np.array_equal(decode_png(data), PIXELS) and np.array_equal(decode_png(memoryview(data)), PIXELS)


@pytest.mark.parametrize(
    "data", [b"", encode_png(PIXELS)[:-40], saved(Image.fromarray(PIXELS[..., 0])), b"\xff\xd8\xff"]
)
def test_what_is_not_our_png_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a whole RGB PNG"):
        decode_png(data)
