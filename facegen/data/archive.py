"""The pictures of a source, in one zip that is never unpacked or in a folder: listed and checked at once, read one by
one.

A zip from elsewhere is not trusted: every name and every size of its directory is checked before the first byte is
read, and all faults are told together. Nothing is ever written to where a name points. Pictures are known by their
file name alone, so `img_align_celeba/000001.jpg` is `000001.jpg` however deep it lies; or, where asked for, by the
whole path.

Reading needs no open archive (only offsets), so worker processes stay small however many entries there are.
"""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from facegen.artifacts import digest
from facegen.data.images import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
MAX_ENTRIES = 2_000_000
MAX_ENTRY_BYTES = 128 << 20
MAX_TOTAL_BYTES = 256 << 30
MAX_RATIO = 100  # of expanded to packed size; pictures are packed already
_RATIO_FROM_BYTES = 1 << 16  # small files may pack well, and can do no harm
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_FAULTS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """Where one picture lies.

    Attributes:
        name: its file name, or its path; its id everywhere else.
        path: the entry's name in the zip, or the path below the folder.
        offset: of the entry's local header in the zip; 0 in a folder.
        packed: bytes in the zip; 0 in a folder.
        size: bytes.
        crc: CRC-32 of the bytes.
        deflated: whether the zip entry is compressed.
    """

    name: str
    path: str
    offset: int
    packed: int
    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True)
class Pictures:
    """All pictures of a source, by name, in sorted order.

    Attributes:
        place: the zip or the folder.
        by_name: the pictures.
        notes: what was passed over, in words.
    """

    place: Path
    by_name: dict[str, Picture]
    notes: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """Return a digest of names, sizes and checksums: the same for a zip and a folder, whatever the order."""
        return digest([(p.name, p.size, p.crc) for p in self.by_name.values()])


def list_pictures(place: str | Path, *, known_by: Literal["name", "path"] = "name") -> Pictures:
    """List the pictures of a zip or a folder, checked.

    Args:
        place: the zip or the folder.
        known_by: what identifies a picture: its file name, or its path below `place`.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: listing every entry that is unsafe, damaged or ambiguous; or if there is no picture at all.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist")
    found = _in_folder(place) if place.is_dir() else _in_zip(place)
    if known_by == "path":
        found = (replace(picture, name=picture.path) for picture in found)
    pictures: dict[str, Picture] = {}
    faults, others = [], []
    for picture in sorted(found, key=lambda p: (p.name, p.path)):
        if not picture.name.lower().endswith(SUFFIXES):
            others.append(picture.path)
        elif picture.name in pictures:
            faults.append(f"{pictures[picture.name].path!r} and {picture.path!r} have the same file name")
        else:
            pictures[picture.name] = picture
    _raise_faults(place, faults)
    if not pictures:
        raise ValueError(f"{place} holds no picture ({', '.join(SUFFIXES)})")
    notes = []
    if others:
        notes.append(f"{place.name}: passed over {len(others)} files that are no pictures (first: {others[0]})")
    return Pictures(place, pictures, notes)


def read_picture(place: str | Path, picture: Picture) -> bytes:
    """Return the bytes of one picture, its length and checksum verified.

    Raises:
        ImageError: if they are not what the directory of the zip promised (or the file has changed since listing).
    """
    try:
        if picture.packed == 0 and picture.offset == 0 and Path(place).is_dir():
            data = (Path(place) / picture.path).read_bytes()
        else:
            data = _read_entry(place, picture)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    except (zlib.error, struct.error) as error:
        raise ImageError(f"cannot be unpacked: {error}") from error
    if len(data) != picture.size or zlib.crc32(data) != picture.crc:
        raise ImageError(f"its bytes do not match their checksum ({len(data)} bytes, {picture.size} expected)")
    return data


def unsafe_name(name: str) -> str | None:
    """Return what is wrong with the name of a zip entry, or None."""
    parts = name.rstrip("/").split("/")
    if "\\" in name:
        return "has a backslash"
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "is absolute"
    if ".." in parts:
        return "has '..'"
    if not name or "" in parts or "." in parts:
        return "has an empty part"
    if any(unicodedata.category(c) == "Cc" for c in name):
        return "has control characters"
    return None


def _in_zip(place: Path) -> Iterator[Picture]:
    """Yield the files of a zip after checking its whole directory."""
    try:
        with zipfile.ZipFile(place) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, struct.error) as error:
        raise ValueError(f"{place} is not a whole zip archive ({error}); fetch it again") from error
    _raise_faults(place, _entry_faults(entries, place.stat().st_size))
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if not entry.is_dir() and "__MACOSX" not in path.parts and path.name not in LITTER:
            deflated = entry.compress_type == zipfile.ZIP_DEFLATED
            yield Picture(
                path.name,
                entry.filename,
                entry.header_offset,
                entry.compress_size,
                entry.file_size,
                entry.CRC,
                deflated,
            )


def _entry_faults(entries: list[zipfile.ZipInfo], archive_bytes: int) -> list[str]:
    """Return everything that is unsafe about a zip's directory."""
    faults: list[str] = []
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.orig_filename
        if problem := unsafe_name(name) or _unsafe_entry(entry):
            faults.append(f"entry {name!r} {problem}")
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            other = f" (as {seen[folded]!r})" if seen[folded] != name else ""
            faults.append(f"entry {name!r} is there twice{other}")
        seen[folded] = name
    total, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if len(entries) > MAX_ENTRIES:
        faults.append(f"{len(entries)} entries; at most {MAX_ENTRIES} are allowed")
    if total > MAX_TOTAL_BYTES:
        faults.append(f"it expands to {total / 2**30:.1f} GiB; at most {MAX_TOTAL_BYTES >> 30} are allowed")
    if packed > archive_bytes:
        faults.append("its entries overlap")
    return faults


def _unsafe_entry(entry: zipfile.ZipInfo) -> str | None:
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode) if entry.create_system == 3 else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a symbolic link" if kind == stat.S_IFLNK else "is no ordinary file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {entry.compress_type}; only stored and deflated entries are read"
    if entry.file_size > MAX_ENTRY_BYTES:
        return f"has {entry.file_size >> 20} MiB; at most {MAX_ENTRY_BYTES >> 20} are allowed"
    if entry.file_size > max(_RATIO_FROM_BYTES, MAX_RATIO * entry.compress_size):
        return f"expands {entry.file_size / max(1, entry.compress_size):.0f} times; at most {MAX_RATIO} is allowed"
    return None


def _in_folder(place: Path) -> Iterator[Picture]:
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            if name in LITTER or name.startswith("._"):
                continue
            if not path.is_file():
                raise ValueError(f"{path} is not a file that can be read (a broken link?); remove it")
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise ValueError(f"{path} has more than {MAX_ENTRY_BYTES >> 20} MiB; remove it")
            data = path.read_bytes()
            yield Picture(name, path.relative_to(place).as_posix(), 0, 0, len(data), zlib.crc32(data), False)


def _read_entry(place: str | Path, picture: Picture) -> bytes:
    """Read one entry of a zip by its offset, expanding no more than its directory promised."""
    with Path(place).open("rb") as file:
        file.seek(picture.offset)
        signature, *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        name = file.read(name_bytes)
        if signature != b"PK\x03\x04" or name not in (picture.path.encode(), picture.path.encode("cp437", "replace")):
            raise OSError("the zip's directory and the entry disagree")
        file.seek(extra_bytes, os.SEEK_CUR)
        packed = file.read(picture.packed)
    if not picture.deflated:
        return packed
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, picture.size + 1)


def _raise_faults(place: Path, faults: Iterable[str]) -> None:
    listed = list(faults)
    if listed:
        more = f"; and {len(listed) - _FAULTS_SHOWN} more" if len(listed) > _FAULTS_SHOWN else ""
        raise ValueError(f"{place} is refused: {'; '.join(listed[:_FAULTS_SHOWN])}{more}")
