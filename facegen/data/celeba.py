"""The source: CelebA as published, or one's own faces in the same layout.

`img_align_celeba.zip` (or the folder), `list_attr_celeba.txt` and, where they exist, `identity_CelebA.txt`,
`list_landmarks_align_celeba.txt`, `list_eval_partition.txt`; each list may be a .csv instead. Pictures and rows must
match both ways. What a missing list switches off is said in `Source.notes`. The order of lines, of zip entries and
the folder's place change nothing. Shapes: N pictures, A attributes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from facegen.artifacts import digest
from facegen.attributes import require_known
from facegen.data.archive import Pictures, list_pictures
from facegen.data.lists import Table, read_attributes, read_landmarks, read_numbers
from facegen.data.shards import SPLITS
from facegen.rng import numpy_generator

PICTURES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba"
IDENTITIES = "identity_CelebA"
LANDMARKS = "list_landmarks_align_celeba"
PARTITION = "list_eval_partition"
UNKNOWN_IDENTITY = -1
_SHOWN = 5


@dataclass(frozen=True)
class Source:
    """Faces and what is known of them, row by row in the order of `ids` (sorted).

    Attributes:
        pictures: where the picture of each id lies.
        attribute_names: A names, in the order of the columns.
        ids: N file names.
        attributes: (N, A) int8 of 0 (absent), 1 (present).
        identity: (N,) int32, -1 where unknown.
        landmarks: (N, 5, 2) float32 px in the photographs, or None.
        split: (N,) int8, an index into shards.SPLITS.
        digests: of each file's content, by file name without suffix.
        notes: what is missing and what that switches off.
    """

    pictures: Pictures
    attribute_names: tuple[str, ...]
    ids: tuple[str, ...]
    attributes: np.ndarray
    identity: np.ndarray
    landmarks: np.ndarray | None
    split: np.ndarray
    digests: dict[str, str]
    notes: list[str]


def read_celeba(
    root: str | Path,
    *,
    attributes: Sequence[str] | Literal["all"],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Source:
    """Read and check a source completely, except the pixels.

    Args:
        root: the folder (`data.root`).
        attributes: the columns in use, or "all" of them.
        val_fraction: share of the pictures for validation, where there is no partition list.
        test_fraction: the same for testing.
        seed: of that split.

    Raises:
        FileNotFoundError: if the folder, the pictures or the attribute list is missing.
        ValueError: with file, line and column, for everything that is wrong in the lists; with the ids where pictures
            and rows do not match or a person's pictures lie in more than one split.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: {root} is not a folder")
    notes: list[str] = []
    pictures = list_pictures(_pictures_place(root, notes))
    notes += pictures.notes
    ids = tuple(pictures.by_name)
    digests = {PICTURES: pictures.digest()}

    def rows(table: Table) -> np.ndarray:
        _require_match(table, pictures)
        order = {id: row for row, id in enumerate(table.lines)}
        values = table.values[[order[id] for id in ids]]
        digests[table.path.stem] = digest([table.columns, list(zip(ids, values.tolist(), strict=True))])
        return values

    path = _list_path(root, ATTRIBUTES, notes)
    if path is None:
        raise FileNotFoundError(f"{root} holds neither {ATTRIBUTES}.txt nor {ATTRIBUTES}.csv; attributes are needed")
    table = read_attributes(path)
    columns = _columns_in_use(table, attributes)
    states = rows(table)[:, columns]

    identity = np.full(len(ids), UNKNOWN_IDENTITY, dtype=np.int32)
    if path := _list_path(root, IDENTITIES, notes):
        identity = rows(read_numbers(path, column="identity", allowed=None))[:, 0]
    else:
        notes.append(f"no {IDENTITIES}: identities are unknown, so no recogniser can be trained from this source")

    landmarks = None
    if path := _list_path(root, LANDMARKS, notes):
        landmarks = rows(read_landmarks(path)).reshape(-1, 5, 2)
    else:
        notes.append(f"no {LANDMARKS}: canonical positions stand in for the landmarks")

    if path := _list_path(root, PARTITION, notes):
        split = rows(read_numbers(path, column="partition", allowed=(0, 1, 2)))[:, 0].astype(np.int8)
        require_disjoint(ids, identity, split)
    else:
        groups = _groups(pictures, identity)
        split = seeded_split(groups, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
        known = (identity != UNKNOWN_IDENTITY).all()
        people = "identity-disjoint" if known else "identities unknown, so a person may be in several"
        notes.append(f"no {PARTITION}: splits drawn by seed {seed} ({people})")
    for number, name in enumerate(SPLITS):
        if not (split == number).any():
            notes.append(f"the {name} split is empty")
    names = tuple(table.columns[c] for c in columns)
    return Source(pictures, names, ids, states, identity, landmarks, split, digests, notes)


def require_disjoint(ids: Sequence[str], identity: np.ndarray, split: np.ndarray) -> None:
    """Check that no person is in two splits.

    Raises:
        ValueError: naming the identities, each with a picture of both splits.
    """
    first: dict[int, int] = {}
    torn: dict[int, tuple[int, int]] = {}
    for row, person in enumerate(identity.tolist()):
        if person == UNKNOWN_IDENTITY:
            continue
        other = first.setdefault(person, row)
        if split[other] != split[row]:
            torn.setdefault(person, (other, row))
    if torn:
        shown = "; ".join(
            f"{person} ({ids[a]} in {SPLITS[split[a]]}, {ids[b]} in {SPLITS[split[b]]})"
            for person, (a, b) in sorted(torn.items())[:_SHOWN]
        )
        raise ValueError(
            f"{len(torn)} identities have pictures in more than one split: {shown}; a person may be in one only: "
            f"mend {PARTITION} or {IDENTITIES}, or remove {PARTITION} to have the splits drawn"
        )


def seeded_split(groups: Sequence[Hashable], *, val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """Split rows so that equal groups stay together.

    Args:
        groups: N sortable keys.
        val_fraction: share of the rows wanted for validation; met to within one group.
        test_fraction: the same for testing.
        seed: of the draw; the order of the rows has no influence.

    Returns:
        (N,) int8, 0 train, 1 val, 2 test.

    Raises:
        ValueError: if the shares leave nothing to train on.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction {val_fraction}, test_fraction {test_fraction}; a share must be left to train on"
        )
    sizes: dict[Hashable, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    ordered = sorted(sizes)  # type: ignore[type-var]
    chosen = dict.fromkeys(ordered, SPLITS.index("train"))
    queue = [ordered[i] for i in numpy_generator(seed, "split").permutation(len(ordered))]
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        wanted, taken = round(fraction * len(groups)), 0
        while taken < wanted and len(queue) > 1:
            group = queue.pop()
            chosen[group] = SPLITS.index(name)
            taken += sizes[group]
    return np.array([chosen[group] for group in groups], dtype=np.int8)


def _groups(pictures: Pictures, identity: np.ndarray) -> list[tuple[int, ...]]:
    """A person's pictures belong together; where persons are unknown, copies of one file do."""
    return [
        (1, person) if person != UNKNOWN_IDENTITY else (0, picture.size, picture.crc)
        for person, picture in zip(identity.tolist(), pictures.by_name.values(), strict=True)
    ]


def _pictures_place(root: Path, notes: list[str]) -> Path:
    """Return the zip, else the folder."""
    archive, folder = root / f"{PICTURES}.zip", root / PICTURES
    if not archive.is_file() and not folder.is_dir():
        raise FileNotFoundError(f"{root} holds neither {archive.name} nor the folder {PICTURES}/ (CelebA's layout)")
    if archive.is_file() and folder.is_dir():
        notes.append(f"both {archive.name} and {PICTURES}/ exist: the zip is read")
    return archive if archive.is_file() else folder


def _list_path(root: Path, stem: str, notes: list[str]) -> Path | None:
    found = [path for path in (root / f"{stem}.txt", root / f"{stem}.csv") if path.is_file()]
    if len(found) == 2:
        notes.append(f"both {found[0].name} and {found[1].name} exist: the first is read")
    return found[0] if found else None


def _columns_in_use(table: Table, wanted: Sequence[str] | Literal["all"]) -> list[int]:
    """Return the column number of each attribute in use."""
    if wanted == "all":
        return list(range(len(table.columns)))
    problems = []
    for name in wanted:
        try:
            require_known(name, table.columns)
        except ValueError as error:
            problems.append(str(error).partition(" (known:")[0])
    if problems:
        raise ValueError(f"data.attributes: {'; '.join(problems)}. {table.path} has: {', '.join(table.columns)}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"data.attributes names an attribute twice: {', '.join(wanted)}")
    return [table.columns.index(name) for name in wanted]


def _require_match(table: Table, pictures: Pictures) -> None:
    """Every row must have its picture, and every picture its row."""
    by_name: Mapping[str, object] = pictures.by_name
    rows_alone = [id for id in table.lines if id not in by_name]
    if rows_alone:
        line = table.lines[rows_alone[0]]
        hint = _other_suffix(rows_alone[0], by_name)
        raise ValueError(
            f"{table.path}, line {line}, column 1: {pictures.place} holds no {rows_alone[0]}{hint} "
            f"({_some(rows_alone)} have a row but no picture)"
        )
    pictures_alone = [name for name in by_name if name not in table.lines]
    if pictures_alone:
        raise ValueError(
            f"{table.path} has no row for {_some(pictures_alone)} of {pictures.place}; add rows or remove them"
        )


def _other_suffix(name: str, by_name: Mapping[str, object]) -> str:
    stem = Path(name).stem
    near = next((s for s in (".jpg", ".png", ".jpeg", ".webp") if stem + s in by_name), None)
    return f", but {stem}{near}: name pictures and rows alike" if near else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
