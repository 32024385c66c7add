"""CelebA's lists, as text (the published form) or CSV (as on Kaggle), checked line by line.

Every fault is told with file, line and column (both from 1, the column in characters). UTF-8 with or without a byte
order mark, and Windows line ends, are read as what they mean. A list is `id value value ...` a line: below a count
and a header line (attributes, landmarks), or bare (identities, splits); as CSV always below a header that begins with
image_id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ID_COLUMN = "image_id"
LANDMARK_COLUMNS = tuple(
    f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)
_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,6}(\.\d{1,9})?", re.ASCII)
_BINARY = {"1": 1, "0": 0, "-1": 0}


@dataclass(frozen=True)
class Table:
    """A list as read.

    Attributes:
        path: where from.
        columns: names of the value columns.
        lines: the line number of each id, in the order of the file.
        values: (rows, columns), aligned with `lines`.
    """

    path: Path
    columns: tuple[str, ...]
    lines: dict[str, int]
    values: np.ndarray


class _File:
    """The lines of a list, and errors that name a place in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.csv = path, path.suffix == ".csv"
        data = path.read_bytes()
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise self.fault(1, 1, "the file is UTF-16; save it as UTF-8")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8-sig", "replace")
            column = len(before) - before.rfind("\n")
            raise self.fault(before.count("\n") + 1, column, f"byte 0x{data[error.start]:02x} is not UTF-8") from None
        self.lines = text.replace("\r\n", "\n").split("\n")
        while self.lines and not self.lines[-1].strip():
            self.lines.pop()
        if not self.lines:
            raise self.fault(1, 1, "the file is empty")

    def fault(self, line: int, column: int, message: str) -> ValueError:
        return ValueError(f"{self.path}, line {line}, column {column}: {message}")

    def cells(self, line: int) -> list[str]:
        """Return the cells of a line; the line must not be blank or hold control characters."""
        text = self.lines[line - 1]
        for control in ("\r", "\0", '"'):
            if control in text:
                raise self.fault(line, text.index(control) + 1, f"{control!r} does not belong here")
        if not text.strip():
            raise self.fault(line, 1, "the line is blank")
        return [cell.strip() for cell in text.split(",")] if self.csv else text.split()

    def column(self, line: int, cell: int) -> int:
        """Return the character column at which a cell begins (the end of the line for one that is not there)."""
        text = self.lines[line - 1]
        pattern = r"(?:^|(?<=,))\s*[^,]*" if self.csv else r"\S+"
        starts = [m.start() + len(m[0]) - len(m[0].lstrip()) for m in re.finditer(pattern, text)]
        return (starts[cell] if cell < len(starts) else len(text.rstrip())) + 1


def read_attributes(path: Path) -> Table:
    """Read list_attr_celeba.{txt,csv}.

    Returns:
        The table; values int8, 0 (absent; -1 or 0 in the file) or 1 (present).

    Raises:
        ValueError: naming line and column: a value that is not -1/1 or 0/1, both ways mixed, a wrong number of values,
            a wrong count, a column or an id given twice.
    """
    file = _File(path)
    first, columns = _header(file)
    absent: dict[str, int] = {}  # how the file writes it, and the first line that does

    def parse(cells: list[str], line: int) -> list[int]:
        found = set(cells)
        if not found <= _BINARY.keys():
            cell = next(i for i, c in enumerate(cells) if c not in _BINARY)
            message = f"{columns[cell]} is {cells[cell]!r}; allowed: -1 and 1, or 0 and 1"
            raise file.fault(line, file.column(line, cell + 1), message)
        if not found - {"1"} <= absent.keys():
            for cell, word in enumerate(cells):
                if word != "1":
                    absent.setdefault(word, line)
                if len(absent) == 2:
                    other = next(w for w in absent if w != word)
                    message = f"{columns[cell]} is {word}, but line {absent[other]} writes {other} for absent"
                    raise file.fault(line, file.column(line, cell + 1), message)
        return [_BINARY[c] for c in cells]

    return _rows(file, first, columns, parse, np.int8)


def read_landmarks(path: Path) -> Table:
    """Read list_landmarks_align_celeba.{txt,csv}.

    Returns:
        The table; values float32 (rows, 10) px: x, y of left eye, right eye, nose, left and right corner of the mouth.

    Raises:
        ValueError: naming line and column: another header, a wrong number of values, a value that is no number.
    """
    file = _File(path)
    first, columns = _header(file)
    if columns != LANDMARK_COLUMNS:
        raise file.fault(first - 1, 1, f"the header is {' '.join(columns)}; expected {' '.join(LANDMARK_COLUMNS)}")
    parse = _numbers(file, columns, _NUMBER, float, "a number of px")
    return _rows(file, first, columns, parse, np.float32)


def read_numbers(path: Path, *, column: str, allowed: Sequence[int] | None) -> Table:
    """Read list_eval_partition or identity_CelebA: one whole number an id, without a header unless it is CSV.

    Args:
        path: the file.
        column: what the number is called.
        allowed: the numbers that may stand there; None for any from 0.

    Returns:
        The table; values int32 (rows, 1).

    Raises:
        ValueError: naming line and column.
    """
    file = _File(path)
    if file.csv:
        first, columns = _header(file)
        if len(columns) != 1:
            raise file.fault(1, 1, f"{len(columns) + 1} columns; expected {ID_COLUMN},{column}")
    else:
        first = 1
    choices = " or ".join(map(str, allowed)) if allowed else "a whole number from 0"
    pattern = re.compile("|".join(map(str, allowed))) if allowed else _INTEGER
    return _rows(file, first, (column,), _numbers(file, (column,), pattern, int, choices), np.int32)


def _header(file: _File) -> tuple[int, tuple[str, ...]]:
    """Return the line of the first row and the value columns' names, after checking header and count."""
    if file.csv:
        head, *names = file.cells(1)
        if head != ID_COLUMN:
            raise file.fault(1, 1, f"the first column is {head!r}; expected {ID_COLUMN} (separated by commas)")
        line = 1
    else:
        declared = file.lines[0].strip()
        if not _INTEGER.fullmatch(declared):
            raise file.fault(1, 1, f"{declared[:40]!r} is not the number of pictures, which belongs in the first line")
        if int(declared) != len(file.lines) - 2:
            raise file.fault(1, 1, f"declares {declared} pictures, but {max(0, len(file.lines) - 2)} lines follow")
        line, names = 2, file.cells(2)
    for cell, name in enumerate(names):
        at = file.column(line, cell + file.csv)
        if not name or "=" in name or "," in name:
            raise file.fault(line, at, f"{name!r} cannot be the name of a column")
        if name in names[:cell]:
            raise file.fault(line, at, f"the column {name} is there twice")
    if not names:
        raise file.fault(line, 1, "the header names no column")
    return line + 1, tuple(names)


def _rows(
    file: _File, first: int, columns: tuple[str, ...], parse: Callable[[list[str], int], list], dtype: type[np.generic]
) -> Table:
    """Read all rows from line `first` on; `parse` turns the cells behind the id into values."""
    lines: dict[str, int] = {}
    values = np.empty((len(file.lines) - first + 1, len(columns)), dtype=dtype)
    for line in range(first, len(file.lines) + 1):
        id, *cells = file.cells(line)
        if len(cells) != len(columns):
            at = file.column(line, min(len(cells), len(columns)) + 1)
            raise file.fault(line, at, f"{len(cells)} values for {id}; the list has {len(columns)}")
        if not id or "/" in id or "\\" in id:
            raise file.fault(line, 1, f"{id!r} is not the file name of a picture")
        if id in lines:
            raise file.fault(line, 1, f"{id} is there twice (first in line {lines[id]})")
        lines[id] = line
        values[line - first] = parse(cells, line)
    if not lines:
        raise file.fault(first, 1, "the list has no rows")
    return Table(file.path, columns, lines, values)


def _numbers(
    file: _File, columns: tuple[str, ...], pattern: re.Pattern[str], kind: type, meaning: str
) -> Callable[[list[str], int], list]:
    def parse(cells: list[str], line: int) -> list:
        for cell, text in enumerate(cells):
            if not pattern.fullmatch(text):
                raise file.fault(line, file.column(line, cell + 1), f"{columns[cell]} is {text!r}; allowed: {meaning}")
        return [kind(text) for text in cells]

    return parse
