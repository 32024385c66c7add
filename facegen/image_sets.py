"""Any set of pictures, read one way: to be scored, whoever made it and in whatever form.

A set is named by a path:

    photos/                      a folder of pictures (JPEG, PNG, WebP, BMP), with its subfolders
    photos.zip                   a zip of pictures (JPEG, PNG, WebP); never unpacked
    samples.parquet#prior        the rows of one set of a Samples file
    data/faces#test              one split of a folder of Parquet files named <split>-*.parquet
    photos.parquet, photos/      any Parquet with a column `image` of struct<bytes, path>, as Hugging Face writes it

A folder that holds Parquet files is read as those. What does not decode is named, all of it at once, and nothing is
passed over. The digest of a set is that of its pixels: it depends neither on the form nor on the order.

Shapes: N pictures, B batch, H W size in px.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from facegen.data.archive import LITTER, SUFFIXES, list_pictures, read_picture
from facegen.data.images import ImageError, decode_photo

BATCH = 128
MAX_MEGAPIXELS = 50.0
FAULTS_SHOWN = 50
_FOLDER_SUFFIXES = (*SUFFIXES, ".bmp")


Encoded = tuple[str, bytes | ImageError]  # what a picture is called, and its bytes or why there are none


@dataclass(frozen=True)
class ImageSet:
    """Pictures that are still encoded; see `open_images`.

    Attributes:
        name: what the user called it.
        num_images: N.
        size: side in px that pictures are resized to, or None where they stay as they are.
        notes: what was passed over, in words.
    """

    name: str
    num_images: int
    size: int | None
    notes: tuple[str, ...]
    _encoded: Callable[[Sequence[int]], Iterator[Encoded]] = field(repr=False)

    def __len__(self) -> int:
        return self.num_images

    def batches(self, rows: Sequence[int] | np.ndarray, *, threads: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Decode some pictures.

        Args:
            rows: which, in ascending order.
            threads: how many decode at once.

        Yields:
            uint8 (B, H, W, 3) of equal H W in all batches, and the sha256 of each picture's pixels before resizing.

        Raises:
            ValueError: naming every picture that does not decode, or the first that is of another size.
        """
        faults: list[str] = []
        shape: tuple[int, ...] | None = None
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for chunk in _chunks(self._encoded(list(map(int, rows))), BATCH):
                decoded = list(pool.map(self._decode, chunk))
                faults += [found for found in decoded if isinstance(found, str)]
                if faults:  # go on only to name the others
                    continue
                images = [found[0] for found in decoded if not isinstance(found, str)]
                shape = shape or images[0].shape
                for (label, _), image in zip(chunk, images, strict=True):
                    if image.shape != shape:
                        raise ValueError(
                            f"{self.name}: {label} is {_px(image.shape)}, the first one {_px(shape)}; "
                            "bring all to one size with --size"
                        )
                yield np.stack(images), [found[1] for found in decoded if not isinstance(found, str)]
        if faults:
            more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
            raise ValueError(
                f"{self.name}: {len(faults)} pictures cannot be used: {'; '.join(faults[:FAULTS_SHOWN])}{more}"
            )

    def _decode(self, item: Encoded) -> tuple[np.ndarray, bytes] | str:
        """Return pixels and their digest, or what is wrong with them."""
        label, data = item
        try:
            if isinstance(data, ImageError):
                raise data
            picture = decode_photo(_without_bmp(data), max_megapixels=MAX_MEGAPIXELS)
        except ImageError as error:
            return f"{label}: {str(error).removesuffix(' (preprocess.max_megapixels)')}"
        pixels = np.asarray(picture)
        key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
        return pixels if self.size is None else resized(pixels, self.size), key


def open_images(place: str | Path, *, size: int | None) -> ImageSet:
    """Open a set.

    Args:
        place: as the head of this module says.
        size: side in px that every picture is resized to (to a square, whatever its shape), or None.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if it holds no picture, is no whole zip or Parquet file, or needs the name of a part and has none.
    """
    text, part = _divided(str(place))
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] * (path.suffix == ".parquet")
    if files:
        return _parquet_set(str(place), files, part, size)
    if part is not None:
        raise ValueError(f"{place}: only Parquet files have parts (#{part})")
    return _folder_set(path, size) if path.is_dir() else _zip_set(path, size)


def set_digest(keys: Iterable[bytes]) -> str:
    """Return one digest (hex) of the digests of a set's pictures, whatever their order."""
    return hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def resized(pixels: np.ndarray, size: int) -> np.ndarray:  # uint8 (H, W, 3) -> (size, size, 3)
    """Resize each channel in float with Pillow's antialiased bicubic filter; rounded once, at the end."""
    if pixels.shape[:2] == (size, size):
        return pixels
    planes = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC))
        for plane in np.moveaxis(pixels.astype(np.float32), -1, 0)
    ]
    return np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)


def _folder_set(path: Path, size: int | None) -> ImageSet:
    names = sorted(
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, _, files in os.walk(path)
        for name in files
        if name.lower().endswith(_FOLDER_SUFFIXES) and name not in LITTER and not name.startswith(".")
    )
    if not names:
        raise ValueError(f"{path} holds no picture ({', '.join(_FOLDER_SUFFIXES)}) and no Parquet file")

    def encoded(rows: Sequence[int]) -> Iterator[Encoded]:
        for row in rows:
            yield names[row], (path / names[row]).read_bytes()

    return ImageSet(str(path), len(names), size, (), encoded)


def _zip_set(path: Path, size: int | None) -> ImageSet:
    listed = list_pictures(path, known_by="path")
    pictures = list(listed.by_name.values())

    def encoded(rows: Sequence[int]) -> Iterator[Encoded]:
        for row in rows:
            try:
                yield pictures[row].path, read_picture(path, pictures[row])
            except ImageError as error:
                yield pictures[row].path, error

    return ImageSet(str(path), len(pictures), size, tuple(listed.notes), encoded)


def _parquet_set(name: str, files: list[Path], part: str | None, size: int | None) -> ImageSet:
    """Index the rows of Parquet files by row group; their bytes are read a row group at a time."""
    files, part = _of_split(name, files, part)
    groups: list[tuple[Path, int, np.ndarray]] = []  # (file, row group, its rows)
    found: set[str] = set()
    for path in files:
        for group, labels in enumerate(_row_labels(path)):
            if isinstance(labels, int):
                kept = np.arange(labels) if part is None else np.arange(0)
            else:
                found |= set(labels)
                kept = np.flatnonzero(np.array(labels) == part) if part is not None else np.arange(len(labels))
            groups.append((path, group, kept))
    if found and len(files) > 1:
        raise ValueError(f"{name} holds several files of samples; name one of {_listed({f.name for f in files})}")
    if part is None and len(found) > 1:
        raise ValueError(f"{name} holds several sets; name one, as in {name}#{min(found)} ({_listed(found)})")
    ends = np.cumsum([len(kept) for *_, kept in groups])
    if not len(ends) or ends[-1] == 0:
        there = f"; it has {_listed(found)}" if found else ""
        raise ValueError(f"{name} holds no picture{there}")

    def encoded(rows: Sequence[int]) -> Iterator[Encoded]:
        owner = np.searchsorted(ends, rows, side="right")
        for g in np.unique(owner):
            path, group, kept = groups[g]
            data = _read_images(path, group)
            for row in np.asarray(rows)[owner == g]:
                own = int(kept[row - (ends[g] - len(kept))])
                yield f"{path.name} row group {group} row {own}", data[own].as_py() or b""

    return ImageSet(name, int(ends[-1]), size, (), encoded)


def _of_split(name: str, files: list[Path], part: str | None) -> tuple[list[Path], str | None]:
    """Return the files of a split, if that is what the part names, and what is left of the part."""
    splits = {path.name.split("-")[0] for path in files if "-" in path.name}
    if part is not None and part in splits:
        return [path for path in files if path.name.startswith(f"{part}-")], None
    if part is None and len(splits) > 1 and all("-" in path.name for path in files):
        raise ValueError(f"{name} holds several splits; name one, as in {name}#{min(splits)} ({_listed(splits)})")
    return files, part


def _row_labels(path: Path) -> list[list[str] | int]:
    """Return, for each row group, the names of the sets of its rows, or their number where there are no sets."""
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        kind = file.schema_arrow.field("image").type if "image" in names else None
        labels = [
            file.read_row_group(group, columns=["set"])["set"].to_pylist()
            if "set" in names
            else file.metadata.row_group(group).num_rows
            for group in range(file.num_row_groups)
        ]
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({' '.join(str(error).split())})") from error
    if kind is None or not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise ValueError(f"{path} has no column `image` of struct<bytes, path>")
    return labels


def _read_images(path: Path, group: int) -> pa.Array:
    """Return the encoded pictures of one row group."""
    try:
        table = pq.ParquetFile(path).read_row_group(group, columns=["image"])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: row group {group} cannot be read ({' '.join(str(error).split())})") from error
    return table["image"].combine_chunks().field("bytes")


def _divided(place: str) -> tuple[str, str | None]:
    """Return path and part; a path that exists as it is has none."""
    if "#" not in place or Path(place).exists():
        return place, None
    path, _, part = place.rpartition("#")
    return path, part


def _without_bmp(data: bytes) -> bytes:
    """Return a BMP as PNG (it is allowed here, but is no format of photographs), and anything else as it is."""
    if data[:2] != b"BM":
        return data
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=("BMP",)) as image:
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                raise ImageError(f"{image.width}x{image.height} px; at most {MAX_MEGAPIXELS:g} megapixels are allowed")
            image.convert("RGB").save(buffer, format="PNG", compress_level=0)
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"does not decode: {' '.join(str(error).split())}") from error
    return buffer.getvalue()


def _chunks(items: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    chunk: list[Encoded] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _px(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]} px"


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
