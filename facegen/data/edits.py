"""Edited photographs as Parquet: the contract between edit and everything that scores or shows edits.

`eval/edits/edits.parquet`, one row an edit: `photo` string (the id in the test split of data/faces), `attribute` string
(the change is about it), `state` int8 (asked for: 0 absent, 1 present), `region` string (parts joined with +; empty:
no mask), `method` string, `area` float32 (the mask's share of the picture), `seed` int64, `states` and `known`
fixed-size list<int8> (the whole request, and the labels before it), `evaluations` int32 (of the network), `image` and
`raw` struct<bytes, path> (lossless RGB PNG, which Hugging Face `datasets` reads as an Image: composited into the
photograph, and as decoded before that), `mask` binary (PNG of 1 bit; white is repainted).

Equal edits give equal bytes (under one version of pyarrow). Shapes: N edits, S side in px, A attributes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from facegen.artifacts import atomic_path, canonical_json
from facegen.attributes import ABSENT, PRESENT, STATES
from facegen.data.images import decode_png, encode_png
from facegen.errors import DamagedArtifactError

FORMAT = 1
ROW_GROUP = 256
_METADATA_KEY = b"facegen"
_WORDS = ("photo", "attribute", "region", "method")  # text columns; repeated ones are stored once
_AGAIN = "run the edit stage"


@dataclass(frozen=True)
class EditRows:
    """N edits in memory."""

    photo: Sequence[str]
    attribute: Sequence[str]
    state: np.ndarray  # (N,) of 0, 1
    region: Sequence[str]
    method: Sequence[str]
    seed: np.ndarray  # (N,)
    states: np.ndarray  # (N, A) of -1, 0, 1
    known: np.ndarray  # (N, A) of -1, 0, 1
    evaluations: np.ndarray  # (N,)
    images: np.ndarray  # uint8 (N, S, S, 3)
    raws: np.ndarray  # uint8 (N, S, S, 3)
    masks: np.ndarray  # bool (N, S, S)
    attribute_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Edits:
    """Rows of an edits file, pictures still encoded. See `Edits.open`."""

    photo: list[str]
    attribute: list[str]
    state: np.ndarray  # (N,) int8
    region: list[str]
    method: list[str]
    area: np.ndarray  # (N,) float32
    seed: np.ndarray  # (N,) int64
    states: np.ndarray  # (N, A) int8
    known: np.ndarray  # (N, A) int8
    evaluations: np.ndarray  # (N,) int32
    attribute_names: tuple[str, ...]
    resolution: int
    image_pngs: list[bytes]
    raw_pngs: list[bytes]
    mask_pngs: list[bytes]

    @classmethod
    def open(cls, path: str | Path) -> Edits:
        """Read an edits file.

        Raises:
            FileNotFoundError: if it is missing.
            DamagedArtifactError: if it is unreadable or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {_AGAIN}")
        table, about = _read(path)
        names = tuple(about["attribute_names"])

        def matrix(name: str) -> np.ndarray:
            flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat.reshape(-1, len(names)).astype(np.int8))

        def column(name: str) -> np.ndarray:
            return np.asarray(table[name].to_numpy())

        def pngs(name: str) -> list[bytes]:
            return list(table[name].combine_chunks().field("bytes").to_pylist())

        words = {name: table[name].to_pylist() for name in _WORDS}
        return cls(
            **words, state=column("state"), area=column("area"), seed=column("seed"), states=matrix("states"),
            known=matrix("known"), evaluations=column("evaluations"), attribute_names=names,
            resolution=about["resolution"], image_pngs=pngs("image"), raw_pngs=pngs("raw"),
            mask_pngs=table["mask"].to_pylist(),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.photo)

    def images(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Decode the edits of these rows as they stand in their photographs, uint8 (N, S, S, 3); None: every row.

        Raises:
            DamagedArtifactError: if one does not decode (its row is named).
        """
        return self._decoded(self.image_pngs, rows)

    def raws(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Decode the edits of these rows before they were put into their photographs; as `images`."""
        return self._decoded(self.raw_pngs, rows)

    def masks(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Decode the masks of these rows, bool (N, S, S); as `images`."""
        chosen = range(len(self)) if rows is None else rows
        out = np.empty((len(chosen), self.resolution, self.resolution), np.bool_)
        for place, i in enumerate(chosen):
            try:
                with Image.open(io.BytesIO(self.mask_pngs[i]), formats=("PNG",)) as mask:
                    if mask.mode != "1":
                        raise ValueError(f"the mask has mode {mask.mode}, expected 1")
                    out[place] = np.asarray(mask)
            except (OSError, SyntaxError, ValueError) as error:
                raise self._damaged(i, error) from error
        return out

    def _decoded(self, pngs: list[bytes], rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
        chosen = range(len(self)) if rows is None else rows
        out = np.empty((len(chosen), self.resolution, self.resolution, 3), np.uint8)
        for place, i in enumerate(chosen):
            try:
                out[place] = decode_png(pngs[i])
            except ValueError as error:
                raise self._damaged(i, error) from error
        return out

    def _damaged(self, row: int, error: Exception) -> DamagedArtifactError:
        return DamagedArtifactError(f"edit {row} of {self.photo[row]} by {self.method[row]}: {error}; {_AGAIN}")


def write_edits(path: str | Path, rows: EditRows) -> None:
    """Write edits, atomically.

    Args:
        path: the Parquet file.
        rows: the edits, in the order of the file; none is allowed.

    Raises:
        ValueError: if shapes, dtypes, states, names or lengths disagree.
    """
    _check(rows)
    num, names = len(rows), list(rows.attribute_names)
    columns = {
        "photo": pa.array(list(rows.photo), pa.string()),
        "attribute": pa.array(list(rows.attribute), pa.string()),
        "state": pa.array(np.asarray(rows.state, np.int8)),
        "region": pa.array(list(rows.region), pa.string()),
        "method": pa.array(list(rows.method), pa.string()),
        "area": pa.array(rows.masks.reshape(num, rows.masks.shape[1] ** 2).mean(axis=1).astype(np.float32)),
        "seed": pa.array(np.asarray(rows.seed, np.int64)),
        "states": _fixed_list(rows.states),
        "known": _fixed_list(rows.known),
        "evaluations": pa.array(np.asarray(rows.evaluations, np.int32)),
        "image": _pictures(rows.images, "image"),
        "raw": _pictures(rows.raws, "raw"),
        "mask": pa.array([_mask_png(mask) for mask in rows.masks], pa.binary()),
    }
    schema = _schema(names, resolution=rows.images.shape[1])
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, row_group_size=ROW_GROUP, compression="none", use_dictionary=list(_WORDS),
            write_statistics=False,
        )  # fmt: skip


def _check(rows: EditRows) -> None:
    num, names = len(rows.images), rows.attribute_names
    side = rows.images.shape[1] if rows.images.ndim == 4 else 0
    for what, pictures in (("images", rows.images), ("raws", rows.raws)):
        if pictures.dtype != np.uint8 or pictures.shape != (num, side, side, 3):
            raise ValueError(f"{what} are {pictures.dtype} {pictures.shape}; expected uint8 (N, S, S, 3), all alike")
    if rows.masks.dtype != np.bool_ or rows.masks.shape != (num, side, side):
        raise ValueError(f"masks are {rows.masks.dtype} {rows.masks.shape}; expected bool {(num, side, side)}")
    one_each = {name: len(getattr(rows, name)) for name in (*_WORDS, "state", "seed", "evaluations")}
    if set(one_each.values()) != {num}:
        raise ValueError(f"{num} images, but {one_each}: lengths disagree")
    for what, states in (("states", rows.states), ("known", rows.known)):
        if states.shape != (num, len(names)) or not np.isin(states, STATES).all():
            raise ValueError(f"{what} {states.shape} must be -1, 0 or 1, {(num, len(names))}")
    if not np.isin(rows.state, (ABSENT, PRESENT)).all() or not set(rows.attribute) <= set(names):
        raise ValueError(f"each edit asks for one of {', '.join(names)}, present (1) or absent (0)")
    asked = np.array([list(names).index(name) for name in rows.attribute], dtype=np.int64)
    if (rows.states[np.arange(num), asked] != rows.state).any():
        raise ValueError("state disagrees with states: they are one request")
    if not all(rows.photo) or not all(rows.method):
        raise ValueError("every edit needs the id of its photograph and the name of its method")


def _fixed_list(states: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(states, np.int8).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, states.shape[1])


def _pictures(images: np.ndarray, name: str) -> pa.StructArray:
    pngs = pa.array([encode_png(image) for image in images], pa.binary())
    return pa.StructArray.from_arrays(
        [pngs, pa.array([f"{name}-{i:06d}.png" for i in range(len(images))], pa.string())], ["bytes", "path"]
    )


def _mask_png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def _schema(attribute_names: Sequence[str], *, resolution: int) -> pa.Schema:
    about = {"format": FORMAT, "attribute_names": list(attribute_names), "resolution": resolution}
    states, picture = (
        pa.list_(pa.int8(), len(attribute_names)),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    types = {
        "photo": pa.string(), "attribute": pa.string(), "state": pa.int8(), "region": pa.string(),
        "method": pa.string(), "area": pa.float32(), "seed": pa.int64(), "states": states, "known": states,
        "evaluations": pa.int32(), "image": picture, "raw": picture, "mask": pa.binary(),
    }  # fmt: skip
    plain = {pa.float32(): "float32", pa.string(): "string", pa.binary(): "binary"}
    features: dict[str, Any] = {}
    for name, kind in types.items():
        features[name] = {"dtype": plain.get(kind, str(kind)), "_type": "Value"}
    for name in ("states", "known"):
        features[name] = {
            "feature": {"dtype": "int8", "_type": "Value"},
            "length": len(attribute_names),
            "_type": "List",
        }
    for name in ("image", "raw"):
        features[name] = {"_type": "Image"}
    return pa.schema(
        [pa.field(name, kind) for name, kind in types.items()],
        metadata={
            _METADATA_KEY: canonical_json(about).encode(),
            b"huggingface": canonical_json({"info": {"features": features}}).encode(),
        },
    )


def _read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.read_table(path, memory_map=True)
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        wrong = about["format"] != FORMAT
        expected = _schema(about["attribute_names"], resolution=about["resolution"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DamagedArtifactError(f"{path} is not an edits file ({error!r}); {_AGAIN}") from error
    if wrong:
        raise DamagedArtifactError(f"{path} has format {about['format']}, this version reads {FORMAT}; {_AGAIN}")
    if not table.schema.equals(expected):
        raise DamagedArtifactError(f"{path} has columns {table.schema.names} of other types; {_AGAIN}")
    return table, about
