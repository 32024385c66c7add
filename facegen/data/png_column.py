"""A Parquet column of pictures, read through memory maps: picture bytes lie verbatim in the file, one page a row group.

The writer stores them plain (no compression, no dictionary, one data page a row group); see shards.py for why.

Shape legend: N pictures, B batch, H W size.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from facegen.data.images import PNG_SIGNATURE
from facegen.errors import DamagedArtifactError

ONE_PAGE = 1 << 30  # bytes; larger than any row group, so that each picture column chunk is a single page


class PngColumn:
    """Reads the pictures of one column over several shards.

    Args:
        shards: the files, in order.
        column: path of the column in the schema, "image.bytes".
    """

    def __init__(self, shards: Sequence[Path], column: str) -> None:
        self._shards, self._column = list(shards), column
        self._maps = [np.memmap(shard, dtype=np.uint8, mode="r") for shard in shards]
        self._groups: list[tuple[int, int, int, int]] = []  # (shard, first byte, end byte, rows) a row group
        for number, shard in enumerate(shards):
            meta = pq.read_metadata(shard, memory_map=True)
            for group in range(meta.num_row_groups):
                rows = meta.row_group(group)
                chunk = next(c for c in map(rows.column, range(rows.num_columns)) if c.path_in_schema == column)
                first = chunk.data_page_offset
                self._groups.append((number, first, first + chunk.total_compressed_size, rows.num_rows))
        self._first_row = np.cumsum([0, *(rows for *_, rows in self._groups)])
        self._offsets: list[np.ndarray | None] = [None] * len(self._groups)

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def png(self, index: int) -> bytes:
        """Return the PNG bytes of one picture.

        Raises:
            IndexError: outside 0 .. N-1.
            DamagedArtifactError: if the shard does not hold pictures as its writer lays them out.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index}; there are {len(self)}")
        group = int(np.searchsorted(self._first_row, index, side="right")) - 1
        offsets = self._offsets[group]
        if offsets is None:
            offsets = self._offsets[group] = self._find_pictures(group)
        start, end = offsets[index - self._first_row[group]]
        return self._maps[self._groups[group][0]][start:end].tobytes()

    def decode(
        self, indices: Sequence[int] | np.ndarray, out: np.ndarray, read: Callable[[bytes], np.ndarray], *, threads: int
    ) -> np.ndarray:
        """Decode pictures into `out`.

        Args:
            indices: B row numbers, in any order, repeats allowed.
            out: uint8 (B, H, W, ...), filled and returned.
            read: decodes one picture; raises ValueError where it does not decode.
            threads: how many decode at once (the decoder releases the interpreter lock).

        Raises:
            IndexError, DamagedArtifactError: as `png`, or if a picture does not decode or has another size.
        """

        def decode(slot: int) -> None:
            index = int(indices[slot])
            try:
                out[slot] = read(self.png(index))
            except ValueError as error:
                raise DamagedArtifactError(f"{self._column} of row {index}: {error}") from error

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


def decode_grey(data: bytes) -> np.ndarray:
    """Decode an 8-bit grey PNG of our own into uint8 (H, W).

    Raises:
        ValueError: if it is not a whole grey PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode != "L":
                raise ValueError(f"mode {image.mode}, expected L")
            return np.asarray(image)
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"not a whole grey PNG ({error})") from error
