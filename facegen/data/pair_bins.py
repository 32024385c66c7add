"""Verification sets as they are published (lfw.bin, cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin): pairs of pictures.

Such a file is a Python pickle, mostly of Python 2, of (list of encoded pictures, list of bool): pair i is pictures 2i and
2i + 1, and the i-th bool says whether they show one person. A pickle is a program, and whoever wrote the file wrote the
program, so nothing here runs it as it is:

1. The operations are listed first, without carrying any out. What builds lists, tuples, bytes, numbers and calls is
   allowed, all else refused; so is a length, or a place in the memo, beyond what the file has.
2. It is then read by an unpickler that knows a handful of names (those that numpy's arrays and Python's bytes are
   written with). Even these are not called: a call becomes a note of its name and arguments.
3. What comes out is looked through, and notes of byte arrays and bools become such, their size checked against the data.

Pictures stay encoded until they are asked for. Shapes: P pairs, H W size.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from facegen.artifacts import atomic_write_bytes
from facegen.data.images import ImageError, decode_photo

SUFFIX = ".bin"
MAX_FILE_BYTES = 4 << 30
MAX_MEGAPIXELS = 4.0  # of a picture; those of published sets have 0.0125
_OPERATIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
_BY_CODE = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
_NAMES = {
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
_BYTES, _FLAGS = ("u1",), ("b1", "u1", "i1", "i2", "i4", "i8")  # dtypes of an encoded picture, and of the bools


class PairBin:
    """A verification set: pictures, encoded, and which pairs show one person. See `PairBin.open`."""

    def __init__(self, path: Path, pictures: Sequence[bytes], same: np.ndarray) -> None:
        self.path, self.name = path, path.stem
        self.encoded = list(pictures)  # 2P
        self.same = same  # bool (P,)

    @classmethod
    def open(cls, path: str | Path) -> PairBin:
        """Read a file without decoding its pictures and without running what it says.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: naming the file, if it is no such set: another structure, a name that is not allowed, lengths
                that do not belong together.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected a verification set ({SUFFIX})")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} is no usable verification set: more than {MAX_FILE_BYTES >> 30} GiB")
        try:
            pictures, same = _contents(path.read_bytes())
        except Exception as error:  # a damaged pickle can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path} is no usable verification set, expected a pickle of (encoded pictures, bools): {reason}"
            ) from error
        return cls(path, pictures, same)

    def __len__(self) -> int:
        return len(self.same)

    def images(self, rows: Sequence[int] | np.ndarray, *, threads: int) -> np.ndarray:
        """Decode pictures, uint8 (B, H, H, 3), in the order of `rows`.

        Args:
            rows: numbers of pictures, 0 .. 2P-1.
            threads: how many are decoded at once.

        Raises:
            ValueError: naming file and picture, if one does not decode, is not square, or unlike the first one in size.
        """

        def decode(row: int) -> np.ndarray:
            try:
                return np.asarray(decode_photo(self.encoded[row], max_megapixels=MAX_MEGAPIXELS))
            except ImageError as error:
                reason = str(error).removesuffix(" (preprocess.max_megapixels)")
                raise ValueError(f"{self.path}: picture {row}: {reason}") from error

        with ThreadPoolExecutor(max(1, threads)) as pool:
            decoded = list(pool.map(decode, [int(row) for row in rows]))
        for row, picture in zip(rows, decoded, strict=True):
            if picture.shape != decoded[0].shape or picture.shape[0] != picture.shape[1]:
                size = f"{picture.shape[1]}x{picture.shape[0]}"
                raise ValueError(f"{self.path}: picture {row} is {size} px; expected squares of one size")
        return np.stack(decoded) if decoded else np.empty((0, 0, 0, 3), np.uint8)


def write_pair_bin(path: str | Path, pictures: Sequence[bytes], same: Sequence[bool] | np.ndarray) -> None:
    """Write a verification set that this module, and every reader of the published ones, reads; atomically.

    Args:
        path: the file.
        pictures: 2P encoded pictures (PNG, JPEG); those of published sets are 112 px, aligned to the template.
        same: P.

    Raises:
        ValueError: if lengths do not belong together.
    """
    flags = [bool(flag) for flag in same]
    _require_pairs(len(pictures), len(flags))
    atomic_write_bytes(path, pickle.dumps(([bytes(picture) for picture in pictures], flags), protocol=4))


class _Note:
    """A name of the file, or a call of it: noted, not made."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def __call__(self, *args: Any) -> _Note:
        return _Note(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Note:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return _Note(_NAMES[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _contents(data: bytes) -> tuple[list[bytes], np.ndarray]:
    """Return the 2P encoded pictures and the bools (P,)."""
    _require_harmless(data)
    found = _Unpickler(io.BytesIO(data), fix_imports=False, encoding="bytes").load()
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError(f"it holds {_kind(found)}, not two lists")
    pictures, flags = found
    if not isinstance(pictures, tuple | list):
        raise ValueError(f"its pictures are {_kind(pictures)}, not a list")
    same = _bools(flags)
    _require_pairs(len(pictures), len(same))
    seen: dict[int, bytes] = {}  # a file can name one picture a million times: it is copied once
    for number, item in enumerate(pictures):
        if id(item) not in seen:
            seen[id(item)] = _picture(item, number)
    return [seen[id(item)] for item in pictures], same


def _require_harmless(data: bytes) -> None:
    """Check every operation of a pickle without carrying it out."""
    stream, number, name = io.BytesIO(data), 0, ""
    while name != "STOP":
        code = stream.read(1)
        operation = _BY_CODE.get(code)
        if operation is None:
            raise ValueError(f"its operation {number} is {code!r}, which there is not" if code else "it ends too early")
        name = operation.name
        if name not in _OPERATIONS:
            raise ValueError(f"its operation {number} is {name}, which is not allowed")
        argument: Any = None
        if name == "STRING":  # pickletools reads only ASCII here
            stream.readline()
        elif operation.arg is not None:
            argument = operation.arg.reader(stream)
        limit = number if name in _MEMO_WRITES else len(data) if name == "FRAME" else None
        if limit is not None and not 0 <= argument <= limit:
            raise ValueError(f"its operation {number} claims {argument}, more than the file has")
        number += 1


def _require_pairs(num_pictures: int, num_pairs: int) -> None:
    if num_pictures != 2 * num_pairs or not num_pairs:
        raise ValueError(f"{num_pictures} pictures for {num_pairs} pairs; expected two a pair, and at least one pair")


def _picture(item: Any, number: int) -> bytes:
    try:
        found = _raw(item) if not isinstance(item, _Note) or item.name == "encode" else _array(item, _BYTES).tobytes()
    except ValueError as error:
        raise ValueError(f"picture {number} is {error}") from error
    if not found:
        raise ValueError(f"picture {number} is empty")
    return found


def _bools(flags: Any) -> np.ndarray:
    """Return the bools: a list of bools, numpy's bools, or 0 and 1; or one array of them."""
    try:
        if isinstance(flags, _Note):
            values = _array(flags, _FLAGS)
        elif isinstance(flags, tuple | list):
            values = np.array([_flag(flag) for flag in flags], dtype=np.int64)
        else:
            raise ValueError(_kind(flags))
    except ValueError as error:
        raise ValueError(f"what says which pairs show one person is {error}") from error
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise ValueError("what says which pairs show one person is not true or false for each")
    return values.astype(bool)


def _flag(flag: Any) -> int:
    if isinstance(flag, _Note) and flag.name == "scalar" and len(flag.args or ()) == 2:
        dtype, raw = flag.args or ()
        return int(_from_raw(_raw(raw), (), dtype, _FLAGS))
    if isinstance(flag, int) and flag in (0, 1):
        return int(flag)
    raise ValueError(f"a list that holds {_kind(flag)}")


def _array(note: _Note, allowed: tuple[str, ...]) -> np.ndarray:
    """Return the array that a note describes, built from its bytes."""
    if note.name == "_reconstruct" and isinstance(note.state, tuple) and len(note.state) in (4, 5):
        shape, dtype, fortran, raw = note.state[-4:]
    elif note.name == "_frombuffer" and len(note.args or ()) == 4:
        raw, dtype, shape, order = note.args or ()
        fortran = order in ("F", b"F")
    else:
        raise ValueError(_kind(note))
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError("an array without a shape")
    if fortran and sum(side > 1 for side in shape) > 1:
        raise ValueError("an array by columns")
    if not isinstance(dtype, _Note) or _dtype_name(dtype) not in allowed:
        raise ValueError(f"an array of {_dtype_name(dtype)!r}, expected {' or '.join(allowed)}")
    return _from_raw(_raw(raw), shape, dtype, allowed)


def _from_raw(raw: bytes, shape: tuple[int, ...], dtype: Any, allowed: tuple[str, ...]) -> np.ndarray:
    name = _dtype_name(dtype)
    if name not in allowed:
        raise ValueError(f"a number of {name!r}, expected {' or '.join(allowed)}")
    size = int(name[1:])
    for side in shape:
        size *= side
    if size != len(raw):
        raise ValueError(f"an array that claims {size} bytes and has {len(raw)}")
    return np.frombuffer(raw, dtype=f"<{name}").reshape(shape)


def _dtype_name(dtype: Any) -> str:
    """Return u1, b1, i8, ... of a noted dtype; else something that nothing allows."""
    if not isinstance(dtype, _Note) or dtype.name != "dtype" or not dtype.args:
        return "?"
    name = dtype.args[0]
    text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    big = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] in (">", b">")
    return f">{text}" if big else text.lstrip("|<=")


def _raw(item: Any) -> bytes:
    """Return bytes, or the text that Python 3 writes bytes as under the old protocols."""
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    if isinstance(item, _Note) and item.name == "encode" and len(item.args or ()) == 2:
        text, codec = item.args or ()
        if isinstance(text, str) and codec in ("latin1", b"latin1"):
            return text.encode("latin-1")
    raise ValueError(f"{_kind(item)}, expected bytes")


def _kind(item: Any) -> str:
    if isinstance(item, _Note):
        return f"{item.name}(...)" if item.args is not None else f"the name {item.name}"
    return f"of type {type(item).__name__}"
