"""The source as a folder per person: `root/PERSON/PICTURE`, as identity-labelled sets are laid out.

A picture's id is "PERSON/PICTURE"; a person's number is the place of the folder's name in sorted order. There are no
attributes and no landmarks, and the split is by people. The order in which files are found and the folder's place
change nothing. Shapes: N pictures, P people.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from facegen.data.archive import LITTER, SUFFIXES, Pictures, list_pictures, unsafe_name
from facegen.data.celeba import ATTRIBUTES, IDENTITIES, LANDMARKS, PARTITION, PICTURES, Source
from facegen.data.shards import SPLITS
from facegen.rng import numpy_generator

_LISTS = (ATTRIBUTES, IDENTITIES, LANDMARKS, PARTITION)
_CELEBA = (PICTURES, f"{PICTURES}.zip", *(f"{stem}{suffix}" for stem in _LISTS for suffix in (".txt", ".csv")))
_NO_PERSON = "__MACOSX"  # nor is a folder whose name begins with a dot
_FAULTS_SHOWN = 8


def is_folder_per_person(root: str | Path) -> bool:
    """Whether `root` holds nothing of CelebA's layout, and at least one folder with a picture in it."""
    root = Path(root)
    if not root.is_dir() or any((root / name).exists() for name in _CELEBA):
        return False
    folders = (folder for folder in root.iterdir() if folder.is_dir() and not _hidden(folder.name))
    return any(_is_picture(path.name) for folder in folders for path in folder.iterdir())


def read_people(
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
        attributes: `data.attributes`; this layout has none, so names are passed over with a note.
        val_fraction: share of the people for validation.
        test_fraction: the same for testing.
        seed: of that split.

    Raises:
        FileNotFoundError: if the folder is missing.
        ValueError: listing every picture that lies elsewhere than in a person's folder or has an unsafe name, and every
            link to a folder; or if there is no picture, or the shares leave nothing to train on.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: {root} is not a folder")
    _require_no_links(root)
    found = list_pictures(root, known_by="path")
    _require_layout(root, found)
    pictures = Pictures(root, {n: p for n, p in found.by_name.items() if not _hidden(n.split("/")[0])}, found.notes)
    notes = list(pictures.notes)
    if passed_over := len(found.by_name) - len(pictures.by_name):
        notes.append(f"passed over {passed_over} pictures in hidden folders")

    ids = tuple(pictures.by_name)
    if not ids:
        raise ValueError(f"{root} holds no picture but in hidden folders")
    people = sorted({id.split("/")[0] for id in ids})
    number = {person: i for i, person in enumerate(people)}
    identity = np.array([number[id.split("/")[0]] for id in ids], dtype=np.int32)
    by_person = split_people(len(people), val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)

    notes.append(f"a folder per person: {len(ids)} pictures of {len(people)} people, without attributes")
    if attributes != "all":
        notes.append(f"data.attributes is IGNORED: this source has no attributes ({', '.join(attributes)})")
    notes.append("no landmarks: canonical positions stand in for them")
    notes.append(f"splits drawn by seed {seed} (identity-disjoint)")
    notes += [f"the {name} split is empty" for i, name in enumerate(SPLITS) if not (by_person == i).any()]
    if empty := sorted(f.name for f in root.iterdir() if f.is_dir() and not _hidden(f.name) and f.name not in number):
        notes.append(f"passed over {len(empty)} folders without pictures (first: {empty[0]})")
    states = np.empty((len(ids), 0), dtype=np.int8)
    return Source(pictures, (), ids, states, identity, None, by_person[identity], {"people": pictures.digest()}, notes)


def split_people(num_people: int, *, val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """Assign people to splits: the wanted shares of them, but at least one each where there are people enough.

    Args:
        num_people: P.
        val_fraction: share of the people wanted for validation; 0 for none at all.
        test_fraction: the same for testing.
        seed: of the draw.

    Returns:
        (P,) int8, 0 train, 1 val, 2 test. Training comes first, then testing, then validation.

    Raises:
        ValueError: if the shares leave nothing to train on.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction {val_fraction}, test_fraction {test_fraction}; a share must be left to train on"
        )
    wanted_test, wanted_val = (max(1, round(f * num_people)) if f else 0 for f in (test_fraction, val_fraction))
    left = num_people - 1  # one is trained on
    num_test = min(wanted_test, max(left - min(wanted_val, 1), min(left, 1)))
    num_val = min(wanted_val, left - num_test)
    order = numpy_generator(seed, "people split").permutation(num_people)
    split = np.full(num_people, SPLITS.index("train"), dtype=np.int8)
    split[order[:num_test]] = SPLITS.index("test")
    split[order[num_test : num_test + num_val]] = SPLITS.index("val")
    return split


def _require_no_links(root: Path) -> None:
    """Links to folders are not followed; a person behind one would be missing without a word."""
    links = sorted(entry.name for entry in root.iterdir() if entry.is_symlink() and entry.is_dir())
    if links:
        raise ValueError(f"{root} is refused: {_some(links)}: links to folders are not followed; put the folders there")


def _require_layout(root: Path, pictures: Pictures) -> None:
    """Every picture lies in a person's folder, under a name that can be an id."""
    faults = []
    for name in pictures.by_name:
        depth = name.count("/")
        problem = unsafe_name(name) or ("is not UTF-8" if any(unicodedata.category(c) == "Cs" for c in name) else None)
        if problem:
            faults.append(f"{name!r} {problem}")
        elif depth != 1 and not _hidden(name.split("/")[0]):
            faults.append(f"{name!r} lies {'in no folder' if depth == 0 else 'too deep'}")
    if faults:
        raise ValueError(f"{root} is refused: {_some(faults)}; expected a folder per person, pictures right inside it")


def _hidden(folder: str) -> bool:
    return folder.startswith(".") or folder == _NO_PERSON


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and name not in LITTER and not name.startswith("._")


def _some(faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    return "; ".join(faults[:_FAULTS_SHOWN]) + more
