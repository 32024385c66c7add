"""Faces as Parquet: the contract between preprocess and everything that looks at pictures.

`{train,val,test}-NNNNN.parquet`: `id` string, `image` struct<bytes, path> (lossless RGB PNG; Hugging Face `datasets`
reads it as an Image), `attributes` fixed-size list<int8> (no such column where the source names none), `identity` int32
(-1 unknown), `landmarks` fixed-size list<float32> of five (x, y) in px. Row groups of 256. Picture bytes are stored
plain: one data page a row group, no compression, no dictionary, so a picture lies verbatim in the file and can be read
through a memory map without touching its neighbours.

Equal rows give equal bytes (under one version of pyarrow). Shapes: N pictures, B batch, H W size, A attributes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.attributes import STATES
from facegen.data.faces_schema import COMPRESSION, FORMAT, METADATA_KEY, NUM_LANDMARKS, faces_schema
from facegen.data.images import PNG_SIGNATURE, decode_png, png_size
from facegen.errors import DamagedArtifactError

SPLITS = ("train", "val", "test")
ROW_GROUP = 256
_ONE_PAGE = 1 << 30  # bytes; larger than any row group, so that each picture column chunk is a single page


class FacesWriter:
    """Writes one split, shard by shard, holding at most one row group in memory.

    Args:
        folder: where the shards go; made if missing.
        split: train, val or test.
        resolution: side of every picture, px.
        attribute_names: what the columns of `attributes` mean; may be empty.
        sources: digest of each source file by name, kept in the metadata.
        rows_per_shard: pictures a file.

    Raises:
        ValueError: for an unknown split, or shards of no rows.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        resolution: int,
        attribute_names: Sequence[str],
        sources: Mapping[str, str],
        rows_per_shard: int,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r}; allowed: {', '.join(SPLITS)}")
        if rows_per_shard < 1:
            raise ValueError(f"{rows_per_shard} rows a shard; it must be at least 1")
        self._folder, self._split, self._rows_per_shard = Path(folder), split, rows_per_shard
        self._folder.mkdir(parents=True, exist_ok=True)
        self._resolution, self._num_attributes = resolution, len(attribute_names)
        self._schema = faces_schema(
            split=split, resolution=resolution, attribute_names=attribute_names, sources=sources
        )
        self._rows: list[tuple[str, bytes, np.ndarray, int, np.ndarray]] = []
        self._seen: set[str] = set()
        self._shard, self._rows_in_shard = 0, 0
        self._file: pq.ParquetWriter | None = None

    def add(self, id: str, png_bytes: bytes, attributes: np.ndarray, identity: int, landmarks: np.ndarray) -> None:
        """Append one picture.

        Args:
            id: its name, unique in the split.
            png_bytes: an RGB PNG of the writer's resolution.
            attributes: (A,) of -1 (unknown), 0, 1.
            identity: number of the person, -1 where unknown.
            landmarks: (5, 2) of (x, y) in px of this picture.

        Raises:
            ValueError: if any of them is not so.
        """
        states, points = np.asarray(attributes), np.asarray(landmarks, dtype=np.float32)
        if not id or id in self._seen:
            raise ValueError(f"id {id!r} is empty or given twice")
        if png_size(png_bytes) != (self._resolution, self._resolution):
            raise ValueError(f"{id}: the PNG is {png_size(png_bytes)} px; expected {self._resolution} square")
        if states.shape != (self._num_attributes,) or not np.isin(states, STATES).all():
            raise ValueError(f"{id}: attributes {states.tolist()}; expected {self._num_attributes} of -1, 0, 1")
        if points.shape != (NUM_LANDMARKS, 2) or not np.isfinite(points).all():
            raise ValueError(f"{id}: landmarks {points.tolist()}; expected 5 finite (x, y)")
        if not -1 <= identity < 2**31:
            raise ValueError(f"{id}: identity {identity}; expected -1 (unknown) or an int32 from 0")
        self._seen.add(id)
        self._rows.append((id, bytes(png_bytes), states.astype(np.int8), int(identity), points))
        self._rows_in_shard += 1
        if self._rows_in_shard == self._rows_per_shard:
            self._end_shard()
        elif len(self._rows) == ROW_GROUP:
            self._write_row_group()

    def close(self) -> None:
        """Write what is left; a split without pictures gets one shard without rows."""
        if self._rows_in_shard or self._shard == 0:
            self._end_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:  # leave no half shard behind
            with suppress(OSError, pa.ArrowException):  # a full disk fails here again
                self._file.close()
            self._temporary().unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self._folder / f".{self._split}-{self._shard:05d}.tmp"

    def _end_shard(self) -> None:
        self._write_row_group()
        assert self._file is not None
        self._file.close()
        self._temporary().replace(self._folder / f"{self._split}-{self._shard:05d}.parquet")
        self._file, self._rows_in_shard = None, 0
        self._shard += 1

    def _write_row_group(self) -> None:
        if self._file is None:
            self._file = pq.ParquetWriter(
                self._temporary(),
                self._schema,
                compression=COMPRESSION,
                use_dictionary=False,
                data_page_size=_ONE_PAGE,
                write_statistics=["identity"],
            )
        if self._rows:
            ids, pngs, states, identities, points = zip(*self._rows, strict=True)
            images = pa.StructArray.from_arrays(
                [pa.array(pngs, pa.binary()), pa.array([_png_name(i) for i in ids], pa.string())], ["bytes", "path"]
            )
            columns = [
                pa.array(ids, pa.string()),
                images,
                *([_fixed_list(np.stack(states))] if self._num_attributes else []),
                pa.array(np.array(identities, dtype=np.int32)),
                _fixed_list(np.stack(points).reshape(len(ids), -1)),
            ]
            self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=ROW_GROUP)
            self._rows = []


class Faces:
    """One split, read through memory maps: labels as arrays, pictures decoded when asked for. See `Faces.open`."""

    def __init__(self, shards: Sequence[Path], about: Mapping[str, Any]) -> None:
        self.attribute_names: tuple[str, ...] = tuple(about["attribute_names"])
        self.resolution: int = about["resolution"]
        self.sources: dict[str, str] = dict(about["sources"])
        tables, self._maps, groups = [], [], []
        labels = ["id", "identity", "landmarks", *(["attributes"] if self.attribute_names else [])]
        for shard in shards:
            file = pq.ParquetFile(shard, memory_map=True)
            tables.append(file.read(labels))
            self._maps.append(np.memmap(shard, dtype=np.uint8, mode="r"))
            groups += [(len(self._maps) - 1, *_picture_chunk(file, g)) for g in range(file.num_row_groups)]
        table = pa.concat_tables(tables).combine_chunks()
        self._shards = list(shards)
        self._groups: list[tuple[int, int, int, int]] = groups  # (shard, first byte, end byte, rows) a row group
        self._first_row = np.cumsum([0, *(rows for *_, rows in groups)])
        self._offsets: list[np.ndarray | None] = [None] * len(groups)
        self.ids: list[str] = table["id"].to_pylist()
        self.attributes = np.empty((len(self.ids), 0), np.int8)  # (N, A)
        if self.attribute_names:
            self.attributes = _as_matrix(table["attributes"], np.int8, len(self.attribute_names))
        self.identity = table["identity"].to_numpy().astype(np.int32)  # (N,)
        landmarks = _as_matrix(table["landmarks"], np.float32, 2 * NUM_LANDMARKS)
        self.landmarks = landmarks.reshape(-1, NUM_LANDMARKS, 2)  # (N, 5, 2) px

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Faces:
        """Open a split of a faces folder.

        Args:
            folder: what preprocess wrote.
            split: train, val or test.

        Raises:
            FileNotFoundError: if the folder holds no shard of this split.
            DamagedArtifactError: if a shard is missing, unreadable, of another format, or unlike the others.
        """
        shards = sorted(Path(folder).glob(f"{split}-*.parquet"))
        if not shards:
            raise FileNotFoundError(f"{folder} holds no {split}-NNNNN.parquet; run the preprocess stage")
        about = None
        for number, shard in enumerate(shards):
            if shard.name != f"{split}-{number:05d}.parquet":
                raise DamagedArtifactError(f"{folder}: {split}-{number:05d}.parquet is missing; run preprocess again")
            found = _read_about(shard)
            if about is not None and found != about:
                raise DamagedArtifactError(f"{shard} was written with other settings than {shards[0].name}")
            about = found
        assert about is not None
        return cls(shards, about)

    def __len__(self) -> int:
        return len(self.ids)

    def png(self, index: int) -> bytes:
        """Return the PNG bytes of one picture.

        Raises:
            IndexError: outside 0 .. N-1.
            DamagedArtifactError: if the shard does not hold pictures as this format lays them out.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index}; there are {len(self)}")
        group = int(np.searchsorted(self._first_row, index, side="right")) - 1
        shard, _, _, _ = self._groups[group]
        offsets = self._offsets[group]
        if offsets is None:
            offsets = self._offsets[group] = self._find_pictures(group)
        start, end = offsets[index - self._first_row[group]]
        return self._maps[shard][start:end].tobytes()

    def images(self, indices: Sequence[int] | np.ndarray, *, threads: int) -> np.ndarray:  # (B, H, W, 3)
        """Decode pictures.

        Args:
            indices: B row numbers, in any order, repeats allowed.
            threads: how many decode at once (the decoder releases the interpreter lock).

        Returns:
            uint8 (B, H, W, 3), in the order of `indices`.

        Raises:
            IndexError, DamagedArtifactError: as `png`, or if a picture does not decode (named).
        """
        out = np.empty((len(indices), self.resolution, self.resolution, 3), dtype=np.uint8)

        def decode(slot: int) -> None:
            index = int(indices[slot])
            try:
                out[slot] = decode_png(self.png(index))
            except ValueError as error:
                raise DamagedArtifactError(f"{self.ids[index]}: {error}; run preprocess again") from error

        if threads <= 1:
            for slot in range(len(indices)):
                decode(slot)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(decode, range(len(indices)), chunksize=16))
        return out

    def _find_pictures(self, group: int) -> np.ndarray:  # (rows, 2) of [start, end) in the file
        """Walk the (uint32 length, bytes) entries of a plain page; they must end exactly where the page does."""
        shard, first, end, rows = self._groups[group]
        chunk = self._maps[shard][first : min(end, first + 4096)].tobytes()
        position = first + chunk.find(PNG_SIGNATURE) - 4
        offsets = np.empty((rows, 2), dtype=np.int64)
        for row in range(rows):
            if position < first or position + 4 > end:
                break
            (length,) = struct.unpack("<I", self._maps[shard][position : position + 4].tobytes())
            offsets[row] = position + 4, position + 4 + length
            position += 4 + length
        if position != end:
            raise DamagedArtifactError(f"{self._shards[shard]}: row group {group} is not laid out as facegen writes it")
        return offsets


def _read_about(shard: Path) -> dict[str, Any]:
    """Return our metadata of a shard, checked."""
    try:
        about = json.loads((pq.read_schema(shard, memory_map=True).metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{shard} is not a faces shard ({error!r}); run preprocess again") from error
    if about["format"] != FORMAT:
        raise DamagedArtifactError(f"{shard} has format {about['format']}, this version reads {FORMAT}; run preprocess")
    return about


def _picture_chunk(file: pq.ParquetFile, group: int) -> tuple[int, int, int]:
    """Return (first byte, end byte, rows) of a row group's picture bytes."""
    meta = file.metadata.row_group(group)
    column = next(c for c in map(meta.column, range(meta.num_columns)) if c.path_in_schema == "image.bytes")
    return column.data_page_offset, column.data_page_offset + column.total_compressed_size, meta.num_rows


def _fixed_list(rows: np.ndarray) -> pa.FixedSizeListArray:
    """Build a fixed-size list column from a matrix's buffer."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def _as_matrix(column: pa.ChunkedArray, dtype: type[np.generic], width: int) -> np.ndarray:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate([np.empty((0, width), dtype), *chunks]).astype(dtype, copy=False)


def _png_name(id: str) -> str:
    return Path(id).with_suffix(".png").as_posix()
