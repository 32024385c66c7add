"""Sets of pictures in every form give the same pixels, the same digest, and one clear line where something is wrong."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegen.data.images import encode_png
from facegen.data.samples import write_samples
from facegen.data.shards import FacesWriter
from facegen.image_sets import ImageSet, open_images, resized, set_digest


def _pictures(n: int, *, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def _folder(path: Path, images: np.ndarray) -> Path:
    for i, image in enumerate(images):
        target = path / ("deep/er" if i % 2 else ".") / f"{i:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_png(image))
    return path


def _faces(folder: Path, split: str, images: np.ndarray) -> None:
    with FacesWriter(
        folder, split, resolution=images.shape[1], attribute_names=["Male"], sources={}, rows_per_shard=3
    ) as writer:
        for i, image in enumerate(images):
            writer.add(f"{split}{i}.png", encode_png(image), np.array([1], np.int8), -1, np.zeros((5, 2), np.float32))


def _read(images: ImageSet, rows: list[int] | None = None) -> tuple[np.ndarray, list[bytes]]:
    parts = list(images.batches(range(len(images)) if rows is None else rows, threads=2))
    return np.concatenate([pixels for pixels, _ in parts]), [key for _, keys in parts for key in keys]


def _sorted(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_every_form_gives_the_same_pictures_and_the_same_digest(tmp_path: Path) -> None:
    images = _pictures(7)
    folder = _folder(tmp_path / "folder", images)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"{i}/same.png", encode_png(image))
    write_samples(
        tmp_path / "samples.parquet", seeds=range(9), attributes=np.zeros((9, 1)),
        images_uint8=np.concatenate([images[:4], _pictures(2, seed=1), images[4:]]),
        sets=["prior"] * 4 + ["null"] * 2 + ["prior"] * 3, attribute_names=["Male"],
    )  # fmt: skip
    _faces(tmp_path / "faces", "test", images)
    _faces(tmp_path / "faces", "train", _pictures(3, seed=2))
    column = pa.StructArray.from_arrays(
        [pa.array([encode_png(i) for i in images], pa.binary()), pa.array([None] * 7, pa.string())], ["bytes", "path"]
    )
    pq.write_table(pa.table({"image": column, "label": list(range(7))}), tmp_path / "hub.parquet", row_group_size=3)
    digests = set()
    for place in ("folder", "set.zip", "samples.parquet#prior", "faces#test", "hub.parquet"):
        found = open_images(f"{tmp_path}/{place}", size=None)
        pixels, keys = _read(found)
        assert len(found) == len(keys) == 7 and pixels.dtype == np.uint8
        assert _sorted(pixels) == _sorted(images), place
        digests.add(set_digest(keys))
        again, few = _read(found, [1, 2, 5])
        np.testing.assert_array_equal(again, pixels[[1, 2, 5]])
        assert few == [keys[1], keys[2], keys[5]]
    assert len(digests) == 1
    assert set_digest(keys[:6]) not in digests


def test_jpeg_webp_and_bmp_are_pictures_too(tmp_path: Path) -> None:
    ramp = np.add.outer(5 * np.arange(24), 4 * np.arange(24))
    image = np.stack([ramp, ramp[::-1], 255 - ramp], -1).astype(np.uint8)
    for name, options in (("a.BMP", {}), ("b.webp", {"lossless": True}), ("c.png", {}), ("d.jpg", {"quality": 95})):
        Image.fromarray(image).save(tmp_path / name, **options)
    pixels, keys = _read(open_images(tmp_path, size=None))
    np.testing.assert_array_equal(pixels[:3], np.stack([image] * 3))
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert np.abs(pixels[3].astype(int) - image).mean() < 3


def test_the_first_picture_of_another_size_is_named(tmp_path: Path) -> None:
    _folder(tmp_path, _pictures(3))
    (tmp_path / "001b.png").write_bytes(encode_png(_pictures(1, size=20)[0]))
    with pytest.raises(ValueError, match=r"001b.png is 20x20 px, the first one 16x16 px; .*--size"):
        _read(open_images(tmp_path, size=None))
    pixels, _ = _read(open_images(tmp_path, size=12))
    assert pixels.shape == (4, 12, 12, 3)


def test_resizing_is_pillows_bicubic_on_float_rounded_once() -> None:
    rings = 127.5 + 127.5 * np.cos(np.add.outer(np.arange(64.0) ** 2, np.arange(64.0) ** 2) / 9)
    image = np.stack([np.rint(rings)] * 3, -1).astype(np.uint8)
    plane = Image.fromarray(image[..., 0].astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
    want = np.clip(np.asarray(plane), 0, 255)
    found = resized(image, 16)
    assert np.abs(found[..., 0] - want).max() <= 0.5 + 1e-4 and abs((found[..., 0] - want).mean()) < 0.1
    assert np.abs(image[::4, ::4].astype(int) - found).mean() > 10  # without antialiasing it would be another picture
    assert resized(image, 64) is image


def test_every_unreadable_picture_is_named_with_its_reason(tmp_path: Path) -> None:
    _folder(tmp_path, _pictures(300, size=8))
    (tmp_path / "000.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "100.png").write_bytes(b"")
    (tmp_path / "298.png").write_bytes(encode_png(_pictures(1)[0])[:-20])
    (tmp_path / "299.bmp").write_bytes(b"BM and then nothing")
    with pytest.raises(ValueError, match="4 pictures cannot be used") as error:
        _read(open_images(tmp_path, size=None))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in ("000.png: not a JPEG", "100.png: the file is empty", "298.png: does not"))
    assert "299.bmp: does not decode" in message


def test_a_picture_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (9_000, 7_000)).save(buffer, "PNG")
    (tmp_path / "large.png").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"63\.0 megapixels; at most 50 are allowed$"):
        _read(open_images(tmp_path, size=64))


def test_unsafe_and_damaged_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "unsafe.zip", "w") as archive:
        archive.writestr("../escaped.png", encode_png(_pictures(1)[0]))
    with pytest.raises(ValueError, match=r"has '\.\.'"):
        open_images(tmp_path / "unsafe.zip", size=None)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, image in enumerate(_pictures(2)):
            archive.writestr(f"{i}.png", encode_png(image))
        archive.writestr("readme.txt", "x")
    found = open_images(tmp_path / "set.zip", size=None)
    assert len(found) == 2 and "readme.txt" in found.notes[0]
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[100] ^= 1
    (tmp_path / "set.zip").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"0\.png: its bytes do not match their checksum"):
        _read(found)


def test_parts_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    _faces(tmp_path / "faces", "test", _pictures(2))
    _faces(tmp_path / "faces", "train", _pictures(2, seed=1))
    with pytest.raises(ValueError, match=r"several splits; name one, .*#test"):
        open_images(tmp_path / "faces", size=None)
    with pytest.raises(ValueError, match="holds no picture"):
        open_images(f"{tmp_path}/faces#val", size=None)
    samples = dict(seeds=[0, 1], attributes=np.zeros((2, 1)), images_uint8=_pictures(2), attribute_names=["Male"])
    write_samples(tmp_path / "s" / "dit.parquet", sets=["prior", "null"], **samples)
    with pytest.raises(ValueError, match=r"several sets; name one, as in .*dit.parquet#null \(null, prior\)"):
        open_images(tmp_path / "s" / "dit.parquet", size=None)
    with pytest.raises(ValueError, match="no picture; it has null, prior"):
        open_images(f"{tmp_path}/s/dit.parquet#priors", size=None)
    write_samples(tmp_path / "s" / "gan.parquet", sets=["prior", "null"], **samples)
    with pytest.raises(ValueError, match=r"several files of samples; name one of dit.parquet, gan.parquet"):
        open_images(f"{tmp_path}/s#prior", size=None)


def test_what_is_no_set_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_images(tmp_path / "none", size=None)
    with pytest.raises(ValueError, match="holds no picture"):
        open_images(tmp_path, size=None)
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a whole zip"):
        open_images(tmp_path / "a.zip", size=None)
    with pytest.raises(ValueError, match="only Parquet files have parts"):
        open_images(f"{tmp_path}/a.zip#test", size=None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        open_images(tmp_path / "a.parquet", size=None)
    pq.write_table(pa.table({"image": ["path.png"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column `image` of struct<bytes, path>"):
        open_images(tmp_path / "a.parquet", size=None)
