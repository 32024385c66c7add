"""Writes a data set in the files of CelebA as published: one zip of JPEGs and four lists.

Source: the readme and the lists of CelebA (Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015). Fixed
dates in the zip and none in the pictures: equal inputs give equal bytes.

Shape legend: N pictures, A attributes.
"""

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ZIP_NAME = "img_align_celeba.zip"
ATTRIBUTES_NAME = "list_attr_celeba.txt"
IDENTITY_NAME = "identity_CelebA.txt"
LANDMARKS_NAME = "list_landmarks_align_celeba.txt"
PARTITION_NAME = "list_eval_partition.txt"
LANDMARK_NAMES = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
_FOLDER = "img_align_celeba"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def image_name(number: int) -> str:
    """File name of picture `number`, counted from 0."""
    return f"{number + 1:06d}.jpg"


def encode_jpeg(pixels: np.ndarray, *, quality: int) -> bytes:
    """A JPEG with colour at full resolution of uint8 (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def write_zip(path: Path, pictures: Iterable[bytes]) -> None:
    """Writes JPEGs in order, stored (they do not deflate), with fixed dates."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, data in enumerate(pictures):
            entry = zipfile.ZipInfo(f"{_FOLDER}/{image_name(number)}", _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def write_lists(
    folder: Path,
    *,
    attribute_names: Sequence[str],
    attributes: np.ndarray,
    identity: np.ndarray,
    landmarks: np.ndarray,
    split: np.ndarray,
) -> None:
    """Writes the four lists.

    Args:
        folder: where.
        attribute_names: A names.
        attributes: 0 or 1, (N, A); written as -1 and 1.
        identity: (N,), from 0; written from 1.
        landmarks: (N, 5, 2) in px, pixel centres at half-integers; written as the whole pixel that holds the point.
        split: (N,), 0 train, 1 val, 2 test.

    Raises:
        ValueError: the arrays do not belong to the same pictures.
    """
    count = len(attributes)
    shapes = {
        "attributes": (count, len(attribute_names)),
        "identity": (count,),
        "landmarks": (count, 5, 2),
        "split": (count,),
    }
    for name, array in (("attributes", attributes), ("identity", identity), ("landmarks", landmarks), ("split", split)):
        if array.shape != shapes[name]:
            raise ValueError(f"{name} has shape {array.shape}, it must be {shapes[name]} for {count} pictures")
    names = [image_name(number) for number in range(count)]
    signed = np.where(attributes > 0, 1, -1)
    lines = [
        f"{name} {' '.join(f'{value:2d}' for value in row)}" for name, row in zip(names, signed.tolist(), strict=True)
    ]
    _write(folder / ATTRIBUTES_NAME, [str(count), " ".join(attribute_names), *lines])
    _write(
        folder / IDENTITY_NAME, [f"{name} {person + 1}" for name, person in zip(names, identity.tolist(), strict=True)]
    )
    points = np.floor(landmarks).astype(int).reshape(count, 10).tolist()
    header = " ".join(f"{name}_{axis}" for name in LANDMARK_NAMES for axis in "xy")
    lines = [f"{name} {' '.join(f'{value:4d}' for value in row)}" for name, row in zip(names, points, strict=True)]
    _write(folder / LANDMARKS_NAME, [str(count), header, *lines])
    _write(folder / PARTITION_NAME, [f"{name} {value}" for name, value in zip(names, split.tolist(), strict=True)])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")
