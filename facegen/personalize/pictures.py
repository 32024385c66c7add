"""Pictures of given people as Parquet: the contract between what draws them and what measures them.

One row a picture: `id` string (its number), `method` string, `alpha` float32 (share of the steps in which the people are
told), `prompt` string (with its markers <id:k>), `subjects` list<int32> (who they are, by `Faces.identity`), `references`
list<list<int32>> (rows of the split whose pictures told each of them), `seed` int64, `image` struct<bytes, path> (RGB
PNG; Hugging Face `datasets` reads it as an Image). Equal rows give equal bytes (under one version of pyarrow). Shapes: N
pictures, H W px.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.artifacts import atomic_path, canonical_json
from facegen.data.images import decode_png, encode_png
from facegen.errors import DamagedArtifactError

FORMAT = 1
PICTURES, ABOUT = "pictures.parquet", "personalize.json"
ROW_GROUP = 256
_METADATA_KEY = b"facegen"
_AGAIN = "run the personalize stage"
_INT32 = {"dtype": "int32", "_type": "Value"}
_COLUMNS: dict[str, tuple[pa.DataType, Any]] = {  # of a row, in order: Arrow's type and that of Hugging Face
    "id": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "method": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "alpha": (pa.float32(), {"dtype": "float32", "_type": "Value"}),
    "prompt": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "subjects": (pa.list_(pa.int32()), [_INT32]),
    "references": (pa.list_(pa.list_(pa.int32())), [[_INT32]]),
    "seed": (pa.int64(), {"dtype": "int64", "_type": "Value"}),
    "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
}


@dataclass(frozen=True)
class Drawn:
    """What one picture is of: how, which words, whom, told by which rows of the split, from which seed."""

    method: str
    alpha: float
    prompt: str
    subjects: tuple[int, ...]
    references: tuple[tuple[int, ...], ...]
    seed: int


class PictureSet:
    """A file of pictures of given people: its rows, and pictures decoded when asked for. See `PictureSet.open`."""

    def __init__(self, path: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(about)
        self.size: tuple[int, int] = (about["height"], about["width"])  # px
        self._pngs = table["image"].combine_chunks().field("bytes")
        rows = table.drop_columns(["id", "image"]).to_pylist()
        self.rows = [
            Drawn(
                row["method"], round(float(row["alpha"]), 6), row["prompt"], tuple(row["subjects"]),
                tuple(tuple(own) for own in row["references"]), int(row["seed"]),
            )
            for row in rows
        ]  # fmt: skip

    @classmethod
    def open(cls, path: str | Path) -> PictureSet:
        """Open a file of this format.

        Raises:
            FileNotFoundError: if it is missing.
            DamagedArtifactError: if it is unreadable or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {_AGAIN}")
        try:
            table = pq.read_table(path, memory_map=True)
            about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
            if about["format"] != FORMAT or not table.schema.equals(_schema(about)):
                raise ValueError(f"format {about['format']}, columns {table.schema.names}")
            return cls(path, table, about)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DamagedArtifactError(f"{path} is no file of pictures of people ({error!r}); {_AGAIN}") from error

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def methods(self) -> list[str]:
        """The methods in order of their first row."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def images(self, rows: Sequence[int] | np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        """Decode the pictures of these rows, uint8 (N, H, W, 3), in their order; None: every row.

        Raises:
            IndexError: outside 0 .. N-1.
            DamagedArtifactError: if one does not decode, or has another size (named).
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"rows from {chosen.min()} to {chosen.max()}; there are {len(self)}")
        out = np.empty((len(chosen), *self.size, 3), np.uint8)

        def decode(slot: int) -> None:
            try:
                pixels = decode_png(self._pngs[int(chosen[slot])].as_py())
                if pixels.shape != out.shape[1:]:
                    raise ValueError(f"it has {pixels.shape[1]}x{pixels.shape[0]} px")
                out[slot] = pixels
            except ValueError as error:
                raise DamagedArtifactError(f"{self.path}, picture {chosen[slot]}: {error}; {_AGAIN}") from error

        with ThreadPoolExecutor(max(1, threads)) as pool:
            list(pool.map(decode, range(len(chosen))))
        return out


def write_pictures(
    path: str | Path, rows: Sequence[Drawn], images: np.ndarray, *, about: Mapping[str, Any] | None = None
) -> None:
    """Write pictures, atomically.

    Args:
        path: the Parquet file.
        rows: what each is of, N >= 1.
        images: uint8 (N, H, W, 3).
        about: what further stands in the metadata of the file.

    Raises:
        ValueError: if lengths or shapes disagree, a row tells of no one or has not as many references as people, an
            alpha lies outside [0, 1], or two rows ask for the same.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) != len(rows) or not rows:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 ({len(rows)}, H, W, 3), not empty")
    for row in rows:
        if not row.subjects or len(row.references) != len(row.subjects) or not all(row.references):
            raise ValueError(f"{row.method}: references {row.references} for people {row.subjects}; each needs one")
        if not 0 <= row.alpha <= 1:
            raise ValueError(f"{row.method}: alpha is {row.alpha}; allowed: from 0 to 1")
    if len(set(rows)) < len(rows):
        raise ValueError(f"{len(rows) - len(set(rows))} of {len(rows)} rows ask for what another one asks for")
    names = [f"{number:06d}" for number in range(len(rows))]
    columns: dict[str, list[Any]] = {
        "id": names,
        **{name: [getattr(row, name) for row in rows] for name in _COLUMNS if name not in ("id", "image")},
        "image": [
            {"bytes": encode_png(image), "path": f"{name}.png"} for name, image in zip(names, images, strict=True)
        ],
    }
    schema = _schema({**(about or {}), "format": FORMAT, "height": images.shape[1], "width": images.shape[2]})
    table = pa.table({name: pa.array(columns[name], kind) for name, (kind, _) in _COLUMNS.items()}, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, compression="none", write_statistics=False, use_dictionary=["method", "prompt"],
            row_group_size=ROW_GROUP,
        )  # fmt: skip


def _schema(about: Mapping[str, Any]) -> pa.Schema:
    features = {name: kind for name, (_, kind) in _COLUMNS.items()}
    return pa.schema(
        [pa.field(name, kind) for name, (kind, _) in _COLUMNS.items()],
        metadata={
            _METADATA_KEY: canonical_json(dict(about)).encode(),
            b"huggingface": canonical_json({"info": {"features": features}}).encode(),
        },
    )
