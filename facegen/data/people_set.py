"""Synthetic people as Parquet: the contract between identities and everything that trains on or measures its pictures.

One row a picture, people one after the other: `id` string ("000012/0003": person, number of the picture), `identity`
int32 (0 .. K-1; the person), `candidate` int32 (which context of the draw that person is; screening leaves gaps), `seed`
int64, `switch` float32 (time t of the first step with the identity; 1: from the start, 0: never), `evaluations` int32 (of
the network), `method` string (only in ablation.parquet), `image` struct<bytes, path> (lossless RGB PNG; Hugging Face
`datasets` reads it as an Image). Files:

    eval/identities/people.parquet     the data set: K people x M pictures, by one method
    eval/identities/ablation.parquet   the same requests (people, seeds) by several methods, one block after the other

`write_image_folder` writes a set as FOLDER/000012/0003.png, a folder per person, which preprocess reads as a source.
Equal rows give equal bytes (under one version of pyarrow). Shapes: N pictures, S side in px.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.artifacts import atomic_path, canonical_json
from facegen.data.images import decode_png, encode_png, png_size
from facegen.errors import DamagedArtifactError

FORMAT = 1
PEOPLE, ABLATION = "people.parquet", "ablation.parquet"
ROW_GROUP = 256
_METADATA_KEY = b"facegen"
_AGAIN = "run the identities stage"
_TYPES = {
    "id": "string", "identity": "int32", "candidate": "int32", "seed": "int64", "switch": "float32",
    "evaluations": "int32", "method": "string",
}  # fmt: skip
_ARROW = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
}


@dataclass(frozen=True)
class PeopleRows:
    """N pictures of synthetic people in memory, encoded."""

    identity: np.ndarray  # (N,) from 0
    number: np.ndarray  # (N,) of the picture among the person's, from 0
    candidate: np.ndarray  # (N,)
    seeds: np.ndarray  # (N,)
    switch: np.ndarray  # (N,)
    evaluations: np.ndarray  # (N,)
    pngs: Sequence[bytes]
    method: Sequence[str] | None = None  # of each; None: no such column

    def __len__(self) -> int:
        return len(self.pngs)

    @property
    def ids(self) -> list[str]:
        """The name of each picture."""
        return [picture_id(*pair) for pair in zip(self.identity.tolist(), self.number.tolist(), strict=True)]


def picture_id(identity: int, number: int) -> str:
    """Return the name of a picture: person/number."""
    return f"{identity:06d}/{number:04d}"


class PeopleSet:
    """A file of synthetic people: labels as arrays, pictures decoded when asked for. See `PeopleSet.open`."""

    def __init__(self, path: Path, about: Mapping[str, Any], rows: np.ndarray | None = None) -> None:
        self.path, self.about = path, dict(about)
        self.resolution: int = about["resolution"]
        self._file = pq.ParquetFile(path, memory_map=True)
        sizes = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._first_row = np.cumsum([0, *sizes])
        self._rows = np.arange(self._first_row[-1]) if rows is None else rows  # of the file
        table = self._file.read([name for name in self._file.schema_arrow.names if name != "image"])
        table = table.take(pa.array(self._rows))
        self.ids: list[str] = table["id"].to_pylist()
        self.identity = table["identity"].to_numpy().astype(np.int32)  # (N,)
        self.number = np.array([int(id.rpartition("/")[2]) for id in self.ids], dtype=np.int32)  # (N,)
        self.candidate = table["candidate"].to_numpy().astype(np.int32)  # (N,)
        self.seeds = table["seed"].to_numpy().astype(np.int64)  # (N,)
        self.switch = table["switch"].to_numpy().astype(np.float32)  # (N,) time t
        self.evaluations = table["evaluations"].to_numpy().astype(np.int32)  # (N,)
        has_method = "method" in table.column_names
        self.method: list[str] = table["method"].to_pylist() if has_method else [""] * len(self.ids)

    @classmethod
    def open(cls, path: str | Path) -> PeopleSet:
        """Open people.parquet, ablation.parquet or another file of this format.

        Raises:
            FileNotFoundError: if it is missing.
            DamagedArtifactError: if it is unreadable or of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {_AGAIN}")
        try:
            schema = pq.read_schema(path, memory_map=True)
            about = json.loads((schema.metadata or {})[_METADATA_KEY])
            expected = _schema(about, methods="method" in schema.names)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DamagedArtifactError(f"{path} is not a file of synthetic people ({error!r}); {_AGAIN}") from error
        if about["format"] != FORMAT:
            raise DamagedArtifactError(f"{path} has format {about['format']}, this version reads {FORMAT}; {_AGAIN}")
        if not schema.equals(expected):
            raise DamagedArtifactError(f"{path} has columns {schema.names} of other types; {_AGAIN}")
        try:
            return cls(path, about)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedArtifactError(f"{path} does not read to its end ({error!r}); {_AGAIN}") from error

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def methods(self) -> list[str]:
        """The methods in order of their first row; none where there is no such column."""
        return [name for name in dict.fromkeys(self.method) if name]

    def of(self, method: str) -> PeopleSet:
        """Return the rows of one method, in order.

        Raises:
            ValueError: if there is none.
        """
        rows = np.array([i for i, found in enumerate(self.method) if found == method], dtype=np.int64)
        if not len(rows):
            raise ValueError(f"{self.path} holds no method {method!r}; there are {', '.join(self.methods) or 'none'}")
        return self.take(rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> PeopleSet:
        """Return these rows, in this order."""
        return PeopleSet(self.path, self.about, self._rows[np.asarray(rows, dtype=np.int64)])

    def pngs(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Return the PNG bytes of these rows; each part of the file that holds some of them is read once.

        Raises:
            IndexError: outside 0 .. N-1.
            DamagedArtifactError: if the file does not read.
        """
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows from {wanted.min()} to {wanted.max()}; there are {len(self)}")
        places = self._rows[wanted]
        groups = np.searchsorted(self._first_row, places, side="right") - 1
        out = [b""] * len(places)
        for group in np.unique(groups).tolist():
            slots = np.flatnonzero(groups == group)
            try:
                column = self._file.read_row_group(group, columns=["image"])["image"].combine_chunks().field("bytes")
            except (pa.ArrowException, OSError) as error:
                raise DamagedArtifactError(f"{self.path}: row group {group} does not read; {_AGAIN}") from error
            for slot, png in zip(slots, column.take(pa.array(places[slots] - self._first_row[group])), strict=True):
                out[slot] = png.as_py()
        return out

    def images(self, rows: Sequence[int] | np.ndarray | None = None, *, threads: int = 1) -> np.ndarray:
        """Decode the pictures of these rows, uint8 (N, S, S, 3), in their order; None: every row.

        Args:
            rows: row numbers, in any order, repeats allowed.
            threads: how many decode at once.

        Raises:
            IndexError: outside 0 .. N-1.
            DamagedArtifactError: if one does not decode (named).
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        pngs = self.pngs(chosen)
        out = np.empty((len(pngs), self.resolution, self.resolution, 3), np.uint8)

        def decode(slot: int) -> None:
            try:
                out[slot] = decode_png(pngs[slot])
            except ValueError as error:
                raise DamagedArtifactError(f"{self.path}: {self.ids[chosen[slot]]}: {error}; {_AGAIN}") from error

        with ThreadPoolExecutor(max(1, threads)) as pool:
            list(pool.map(decode, range(len(pngs)), chunksize=16))
        return out


class PeopleWriter:
    """Appends pictures to a file, whose bytes do not depend on how many come at a time. See `people_writer`."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema, *, resolution: int) -> None:
        self._file, self._schema, self._resolution = file, schema, resolution
        self._waiting: list[dict[str, Any]] = []
        self._seen: set[tuple[str, str]] = set()

    def add(self, rows: PeopleRows) -> None:
        """Append pictures.

        Raises:
            ValueError: if lengths disagree, a picture has another size, a number is out of range, or a name comes twice.
        """
        for row in self._checked(rows):
            self._waiting.append(row)
            if len(self._waiting) == ROW_GROUP:
                self.flush()

    def flush(self) -> None:
        """Write what waits as one part of the file."""
        if self._waiting:
            table = pa.Table.from_pylist(self._waiting, schema=self._schema)
            self._file.write_table(table, row_group_size=ROW_GROUP)
            self._waiting = []

    def _checked(self, rows: PeopleRows) -> list[dict[str, Any]]:
        columns = {
            "identity": rows.identity, "candidate": rows.candidate, "seed": rows.seeds, "switch": rows.switch,
            "evaluations": rows.evaluations, "number": rows.number,
        }  # fmt: skip
        lengths = {name: len(column) for name, column in columns.items()}
        if rows.method is not None:
            lengths["method"] = len(rows.method)
        if set(lengths.values()) - {len(rows)}:
            raise ValueError(f"{len(rows)} pictures, but {lengths}: lengths disagree")
        if (rows.method is not None) != ("method" in self._schema.names) or (rows.method and not all(rows.method)):
            raise ValueError("the file has a column method and each row the name of one, or neither has any")
        for name in ("identity", "candidate", "number", "evaluations"):
            if len(rows) and (min(columns[name]) < 0 or max(columns[name]) >= 2**31):
                raise ValueError(f"{name} from {min(columns[name])} to {max(columns[name])}; expected int32 from 0")
        if not np.isfinite(rows.switch).all():
            raise ValueError("switch times must be finite")
        out = []
        for i, (id, png) in enumerate(zip(rows.ids, rows.pngs, strict=True)):
            method = rows.method[i] if rows.method is not None else ""
            if (method, id) in self._seen:
                raise ValueError(f"picture {id} {method} is given twice")
            if png_size(png) != (self._resolution, self._resolution):
                raise ValueError(f"{id}: the PNG is {png_size(png)} px; expected {self._resolution} square")
            self._seen.add((method, id))
            row: dict[str, Any] = {name: column[i].item() for name, column in columns.items() if name != "number"}
            out.append(row | {"id": id, "method": method, "image": {"bytes": bytes(png), "path": f"{id}.png"}})
        return out


@contextmanager
def people_writer(
    path: str | Path, *, resolution: int, methods: bool = False, about: Mapping[str, Any] | None = None
) -> Iterator[PeopleWriter]:
    """Yield a writer; the file appears whole, when the block ends without an error.

    Args:
        path: the Parquet file.
        resolution: side of the pictures, px.
        methods: whether there is a column `method`.
        about: what further stands in the metadata of the file.
    """
    schema = _schema({**(about or {}), "format": FORMAT, "resolution": resolution}, methods=methods)
    with atomic_path(path) as temporary:
        plain = {"compression": "none", "write_statistics": False, "use_dictionary": ["method"] if methods else False}
        with pq.ParquetWriter(temporary, schema, **plain) as file:
            writer = PeopleWriter(file, schema, resolution=resolution)
            yield writer
            writer.flush()


def write_people(
    path: str | Path, rows: PeopleRows, *, resolution: int, about: Mapping[str, Any] | None = None
) -> None:
    """Write pictures, atomically; with a column `method` if the rows have one.

    Raises:
        ValueError: as `PeopleWriter.add`.
    """
    with people_writer(path, resolution=resolution, methods=rows.method is not None, about=about) as writer:
        writer.add(rows)


def encoded(images: np.ndarray) -> list[bytes]:
    """Return uint8 pictures (N, S, S, 3) as PNG.

    Raises:
        ValueError: for another shape or dtype.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != (images.shape[1], images.shape[1], 3):
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, S, S, 3)")
    return [encode_png(image) for image in images]


def write_image_folder(folder: str | Path, people: PeopleSet, *, threads: int = 1) -> int:
    """Write every picture as FOLDER/person/number.png; return how many there are.

    A picture that is there already with these bytes is left alone, so that a killed run goes on where it was.

    Raises:
        ValueError: if the set holds several methods: one folder cannot.
    """
    if people.methods:
        raise ValueError(f"{people.path} holds {len(people.methods)} methods; take one: people.of(method)")
    folder = Path(folder)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, len(people), ROW_GROUP):
            rows = range(start, min(start + ROW_GROUP, len(people)))
            paths = [folder / f"{people.ids[row]}.png" for row in rows]
            list(pool.map(_write_if_other, paths, people.pngs(rows)))
    return len(people)


def _write_if_other(path: Path, data: bytes) -> None:
    """Put a picture in place whole, but not flushed to disk one by one: the next run finds out what a crash spoilt."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _schema(about: Mapping[str, Any], *, methods: bool) -> pa.Schema:
    names = [name for name in _TYPES if methods or name != "method"]
    features: dict[str, Any] = {name: {"dtype": _TYPES[name], "_type": "Value"} for name in names}
    picture = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.schema(
        [*(pa.field(name, _ARROW[_TYPES[name]]) for name in names), picture],
        metadata={
            _METADATA_KEY: canonical_json(dict(about)).encode(),
            b"huggingface": canonical_json({"info": {"features": features | {"image": {"_type": "Image"}}}}).encode(),
        },
    )
