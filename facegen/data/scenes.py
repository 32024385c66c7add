"""Scenes as Parquet: captioned pictures of one or more people, each person's place, face and identity told.

`{train,test}-NNNNN.parquet`: `id` string, `image` struct<bytes, path> (lossless RGB PNG), `caption` and `description`
strings, `segments` list of one struct a person, sorted by `end`, and `segmap` struct<bytes, path> (grey PNG: a pixel is
the id of the segment that it belongs to, 0 for none). A segment is

    id          1 to 255
    label       the class, "person"
    end         the character of the caption before which the person's noun phrase ends
    bbox        x0, y0, x1, y1: the edges of the person's pixels, px
    landmarks   five (x, y) in px from the centre of the top left pixel, as faces' are; NaN where unknown
    identity    -1 unknown; of drawn people the number that faces have
    attributes  -1, 0, 1 in the order of the metadata's names

A description has ends of its own, which are not kept. Picture bytes are stored plain, as the faces' are.

Equal rows give equal bytes (under one version of pyarrow). Shapes: B batch, K people, H W size in px.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facegen.attributes import STATES
from facegen.data.images import decode_png, png_size
from facegen.data.png_column import ONE_PAGE, PngColumn, decode_grey
from facegen.data.scenes_schema import COMPRESSION, FORMAT, METADATA_KEY, NUM_LANDMARKS, SEGMENT, scenes_schema
from facegen.errors import DamagedArtifactError

SPLITS = ("train", "test")
ROW_GROUP = 256
ROWS_PER_SHARD = 8192
# Ellipses about a face in units of its eye distance, in the face's own axes: (centre below the eyes, half width, half
# height). Of the first, 96 % lie on the person where people are drawn; the second holds 98 % of what is seen of them.
_ELLIPSES = {"face": (0.55, 1.20, 1.55), "head": (0.15, 1.75, 2.35)}


@dataclass(frozen=True, eq=False)
class Segment:
    """One person of a scene; see the module for the meaning of the fields."""

    id: int
    label: str
    end: int
    bbox: tuple[float, float, float, float]
    landmarks: np.ndarray | None  # float32 (5, 2), px from the centre of the first pixel
    identity: int
    attributes: tuple[int, ...]


class ScenesWriter:
    """Writes one split, shard by shard, holding at most one row group in memory.

    Args:
        folder: where the shards go; made if missing.
        split: train or test.
        height: of every picture, px.
        width: of every picture, px.
        attribute_names: what the attributes of a segment mean; may be empty.
        source: where the scenes come from, kept in the metadata.
        rows_per_shard: scenes a file.

    Raises:
        ValueError: for an unknown split, or shards of no rows.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        height: int,
        width: int,
        attribute_names: Sequence[str],
        source: str,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        if split not in SPLITS or rows_per_shard < 1:
            raise ValueError(
                f"split {split!r} of {rows_per_shard} rows a shard; allowed: {', '.join(SPLITS)}, 1 or more"
            )
        self._folder, self._split, self._rows_per_shard = Path(folder), split, rows_per_shard
        self._folder.mkdir(parents=True, exist_ok=True)
        self._size, self._num_attributes = (height, width), len(attribute_names)
        self._schema = scenes_schema(
            split=split, height=height, width=width, attribute_names=attribute_names, source=source
        )
        self._rows: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self._shard, self._rows_in_shard = 0, 0
        self._file: pq.ParquetWriter | None = None

    def add(
        self, id: str, png: bytes, segmap_png: bytes, caption: str, description: str, segments: Sequence[Segment]
    ) -> None:
        """Append one scene.

        Args:
            id: its name, unique in the split.
            png: an RGB PNG of the writer's size.
            segmap_png: an 8-bit grey PNG of that size, made of the segments' ids and 0.
            caption: that the segments' ends belong to.
            description: a longer caption, or the same.
            segments: the people; none is a picture without any.

        Raises:
            ValueError: if any of them is not so.
        """
        if not id or id in self._seen:
            raise ValueError(f"id {id!r} is empty or given twice")
        for name, data in (("picture", png), ("segmap", segmap_png)):
            if png_size(data) != self._size[::-1]:
                raise ValueError(
                    f"{id}: the {name} is {png_size(data)} px; expected {self._size[::-1]} (width, height)"
                )
        ordered = sorted(segments, key=lambda s: (s.end, s.id))
        self._require_segments(id, caption, ordered)
        self._seen.add(id)
        path = f"{id}.png"
        self._rows.append(
            {
                "id": id,
                "image": {"bytes": bytes(png), "path": path},
                "caption": caption,
                "description": description,
                "segments": [_as_row(segment) for segment in ordered],
                "segmap": {"bytes": bytes(segmap_png), "path": path},
            }
        )
        self._rows_in_shard += 1
        if self._rows_in_shard == self._rows_per_shard:
            self._end_shard()
        elif len(self._rows) == ROW_GROUP:
            self._write_row_group()

    def _require_segments(self, id: str, caption: str, segments: Sequence[Segment]) -> None:
        if len({s.id for s in segments}) < len(segments) or not all(1 <= s.id <= 255 for s in segments):
            raise ValueError(f"{id}: segment ids {[s.id for s in segments]}; expected different numbers from 1 to 255")
        for s in segments:
            if not 0 < s.end <= len(caption):
                raise ValueError(f"{id}: segment {s.id} ends at {s.end}, the caption has {len(caption)} characters")
            if len(s.attributes) != self._num_attributes or not set(s.attributes) <= set(STATES):
                raise ValueError(
                    f"{id}: attributes {s.attributes} of segment {s.id}; expected {self._num_attributes} of -1, 0, 1"
                )
            if s.landmarks is not None and (
                s.landmarks.shape != (NUM_LANDMARKS, 2) or not np.isfinite(s.landmarks).all()
            ):
                raise ValueError(f"{id}: landmarks {s.landmarks.tolist()} of segment {s.id}; expected 5 finite (x, y)")

    def close(self) -> None:
        """Write what is left; a split without scenes gets one shard without rows."""
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
                self._temporary(), self._schema, compression=COMPRESSION, use_dictionary=False,
                data_page_size=ONE_PAGE, write_statistics=False,
            )  # fmt: skip
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), row_group_size=ROW_GROUP)
            self._rows = []


class Scenes:
    """One split, read through memory maps: captions and people as lists, pictures decoded when asked for."""

    def __init__(self, shards: Sequence[Path], about: Mapping[str, Any]) -> None:
        self.attribute_names: tuple[str, ...] = tuple(about["attribute_names"])
        self.size: tuple[int, int] = (about["height"], about["width"])
        self.source: str = about["source"]
        columns = ["id", "caption", "description", "segments"]
        table = pa.concat_tables([pq.read_table(shard, columns=columns, memory_map=True) for shard in shards])
        self.ids: list[str] = table["id"].to_pylist()
        self.captions: list[str] = table["caption"].to_pylist()
        self.descriptions: list[str] = table["description"].to_pylist()
        self.segments: list[tuple[Segment, ...]] = [
            tuple(_as_segment(row) for row in rows) for rows in table["segments"].to_pylist()
        ]
        self._images, self._segmaps = PngColumn(shards, "image.bytes"), PngColumn(shards, "segmap.bytes")

    @classmethod
    def open(cls, folder: str | Path, split: str) -> Scenes:
        """Open a split of a scenes folder.

        Args:
            folder: what the scenes stage wrote.
            split: train or test.

        Raises:
            FileNotFoundError: if the folder holds no shard of this split.
            DamagedArtifactError: if a shard is missing, unreadable, of another format, or unlike the others.
        """
        shards = sorted(Path(folder).glob(f"{split}-*.parquet"))
        if not shards:
            raise FileNotFoundError(f"{folder} holds no {split}-NNNNN.parquet; run the scenes stage")
        about = _read_about(shards[0])
        for number, shard in enumerate(shards):
            if shard.name != f"{split}-{number:05d}.parquet":
                raise DamagedArtifactError(f"{folder}: {split}-{number:05d}.parquet is missing; run scenes again")
            if _read_about(shard) != about:
                raise DamagedArtifactError(f"{shard} was written with other settings than {shards[0].name}")
        return cls(shards, about)

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, rows: Sequence[int] | np.ndarray, *, threads: int) -> np.ndarray:
        """Decode the pictures of B rows: uint8 (B, H, W, 3), in their order.

        Raises:
            IndexError, DamagedArtifactError: as `PngColumn.decode`.
        """
        out = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        return self._images.decode(rows, out, decode_png, threads=threads)

    def segmaps(self, rows: Sequence[int] | np.ndarray, *, threads: int) -> np.ndarray:
        """Decode the segment maps of B rows: uint8 (B, H, W) of segment ids, in their order.

        Raises:
            IndexError, DamagedArtifactError: as `PngColumn.decode`.
        """
        return self._segmaps.decode(rows, np.empty((len(rows), *self.size), np.uint8), decode_grey, threads=threads)


def face_masks(segments: Sequence[Segment], size: tuple[int, int], *, kind: Literal["face", "head"]) -> np.ndarray:
    """Where the people's faces are: an ellipse about each one's landmarks.

    Args:
        segments: K people.
        size: (H, W) of the picture, px.
        kind: the face, or the head with its hair.

    Returns:
        float32 (K, H, W), 1 inside and 0 outside, the edge antialiased over a pixel; all 0 where landmarks are unknown.
    """
    height, width = size
    grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height)), axis=-1)  # (H, W, 2)
    masks = np.zeros((len(segments), height, width), dtype=np.float32)
    below, half_width, half_height = _ELLIPSES[kind]
    for mask, segment in zip(masks, segments, strict=True):
        if segment.landmarks is None:
            continue
        points = segment.landmarks.astype(np.float64)
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        down = mouth - eyes
        length = float(np.hypot(*down))
        down = down / max(length, 1e-6)
        unit = max(float(np.hypot(*(points[1] - points[0]))), length / 1.2)  # a turned head keeps its height
        offset = grid - (eyes + below * unit * down)
        along, across = offset @ down, offset @ np.array([down[1], -down[0]])
        radius = np.sqrt((across / half_width) ** 2 + (along / half_height) ** 2) / unit
        edge = unit * min(half_width, half_height)
        mask[:] = np.clip((1.0 - radius) * edge + 0.5, 0.0, 1.0)
    return masks


def _as_row(segment: Segment) -> dict[str, Any]:
    points = np.full(2 * NUM_LANDMARKS, np.nan) if segment.landmarks is None else segment.landmarks.reshape(-1)
    values = (
        segment.id, segment.label, segment.end, list(segment.bbox), points.astype(np.float32).tolist(),
        segment.identity, list(segment.attributes),
    )  # fmt: skip
    return dict(zip((field.name for field in SEGMENT), values, strict=True))


def _as_segment(row: Mapping[str, Any]) -> Segment:
    x0, y0, x1, y1 = row["bbox"]
    points = np.array(row["landmarks"], dtype=np.float32).reshape(NUM_LANDMARKS, 2)
    known = bool(np.isfinite(points).all())
    return Segment(
        row["id"], row["label"], row["end"], (x0, y0, x1, y1), points if known else None, row["identity"],
        tuple(row["attributes"]),
    )  # fmt: skip


def _read_about(shard: Path) -> dict[str, Any]:
    """Return our metadata of a shard, checked."""
    try:
        about: dict[str, Any] = json.loads((pq.read_schema(shard, memory_map=True).metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{shard} is not a scenes shard ({error!r}); run scenes again") from error
    if about["format"] != FORMAT or "height" not in about:
        raise DamagedArtifactError(f"{shard} is no scenes shard of format {FORMAT}; run scenes again")
    return about
