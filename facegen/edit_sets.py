"""The edits that the edit stage makes for scoring, and the grids that show them.

Each request takes a test photograph with an attribute absent (or present) by its labels and asks for the other state,
all else as it is, inside the parts of the face that the attribute changes. Every method answers the same requests with
the same seeds; the slow ones the first of each kind. Beside them stands a sweep: the same requests with the part shrunk
or grown to fixed shares of the picture.

Only changes are asked for that the data allow: nobody bald gets bangs. A change is possible if training pictures have
the labels that it leads to; where too few photographs offer that, if each pair of those labels that holds a changed one
is in the training set. Shapes: N requests, A attributes, S side in px, F test photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from PIL import Image
from scipy import ndimage

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.data.edits import EditRows
from facegen.data.interventions import MIN_PAIR_SUPPORT
from facegen.data.regions import mask_share, region_mask, regions_of
from facegen.data.shards import Faces
from facegen.edit import Edited
from facegen.grids import image_grid
from facegen.rng import derive_seed, numpy_generator

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")  # one present makes the others absent
SLOW = ("resample", "invert")  # methods that answer fewer requests
UNMASKED = ("invert",)  # methods that take the whole picture
LOCAL = 0.25  # share of the picture below which a part is small enough for the sweep
AREAS = (0.015, 0.035, 0.075, 0.17, 0.40)  # shares of the sweep
TILE_PX = 128  # side of an image in a grid, at least
_WORDS = {ABSENT: "without", PRESENT: "with"}

Photographs = Callable[[np.ndarray], np.ndarray]  # rows (B,) of the split -> uint8 (B, S, S, 3)


class Editor(Protocol):
    """What runs the requests: facegen.edit.FaceEditor."""

    @property
    def resolution(self) -> int: ...

    @property
    def attribute_names(self) -> list[str]: ...

    def edit(self, images: np.ndarray, *, states: np.ndarray, changed: np.ndarray, masks: np.ndarray | None,
             seeds: Sequence[int], identity: np.ndarray | None, method: str) -> Edited: ...  # fmt: skip


@dataclass(frozen=True)
class EditRequests:
    """N requests, row by row."""

    row: np.ndarray  # (N,) int64, of the photograph in the split
    photo: np.ndarray  # (N,) its id
    attribute: np.ndarray  # (N,) what it is about
    state: np.ndarray  # (N,) int8: 0 or 1, asked for
    states: np.ndarray  # (N, A) int8, the whole request
    known: np.ndarray  # (N, A) int8, the labels
    region: np.ndarray  # (N,) texts; empty: no mask
    method: np.ndarray  # (N,)
    seed: np.ndarray  # (N,) int64
    masks: np.ndarray  # bool (N, S, S); all True without a mask

    def __len__(self) -> int:
        return len(self.row)

    def rows(self, index: np.ndarray) -> EditRequests:
        """Return these rows."""
        return EditRequests(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def by(self, method: str) -> EditRequests:
        """Return the rows of one method, in order."""
        return self.rows(np.flatnonzero(self.method == method))


def edit_requests(
    faces: Faces, train_attributes: np.ndarray, *, seed: int, methods: Sequence[str], num_photos: int, num_compared: int
) -> EditRequests:
    """Return every method's requests, one method after the other.

    Args:
        faces: the test split.
        train_attributes: (T, A) states of the training set, same attributes.
        seed: the user's; choices and the seed of each request derive from it.
        methods: the methods' names.
        num_photos: photographs of each attribute and direction, of different people; fewer where the data have no more.
        num_compared: how many of them the SLOW methods answer.
    """
    names, parts = list(faces.attribute_names), []
    for k, name in enumerate(names):
        for state in (PRESENT, ABSENT):
            generator = numpy_generator(seed, "edit photographs", k, state)
            states = changed_states(faces.attributes, names, k, state)
            rows, masks = _chosen(faces, train_attributes, states, k, num=num_photos, generator=generator)
            for place, (row, mask) in enumerate(zip(rows, masks, strict=True)):
                parts.append((row, name, state, states[row], place, derive_seed(seed, "edit", k, state, place), mask))
    if not parts:
        return _no_requests(faces)
    photos, attributes, asked, requested, places, seeds, marked = (np.array(part) for part in zip(*parts, strict=True))
    base = EditRequests(
        photos, np.array(faces.ids, dtype=object)[photos], attributes.astype(object), asked.astype(np.int8), requested,
        faces.attributes[photos], np.array(["+".join(regions_of(name)) for name in attributes], dtype=object),
        np.full(len(photos), "", dtype=object), seeds, marked,
    )  # fmt: skip
    return _joined([_of_method(base, method, places < num_compared) for method in methods])


def changed_states(known: np.ndarray, names: Sequence[str], k: int, state: int) -> np.ndarray:  # (F, A)
    """Return labels with attribute k in a state; a hair colour that comes takes the place of the others."""
    states = known.copy()
    if state == PRESENT and names[k] in HAIR_COLOURS:
        others = [i for i, name in enumerate(names) if name in HAIR_COLOURS]
        states[:, others] = np.where(states[:, others] == UNKNOWN, UNKNOWN, ABSENT)
    states[:, k] = state
    return states


def possibility(train_attributes: np.ndarray, known: np.ndarray, states: np.ndarray) -> np.ndarray:  # (F,)
    """Return 2 where training pictures have exactly these states, 1 where they have every changed pair, 0 else.

    Pairs with an unknown state always count as there.
    """
    have = {row.tobytes() for row in np.unique(train_attributes.astype(np.int8), axis=0)}
    exact = np.array([row.tobytes() in have for row in states.astype(np.int8)], dtype=bool)
    is_state = np.stack([train_attributes == ABSENT, train_attributes == PRESENT]).astype(np.float64)
    counts = np.einsum("ati,btj->abij", is_state, is_state, optimize=True)
    everything = np.arange(states.shape[1])
    paired = np.ones(len(states), bool)
    for i in np.flatnonzero((states != known).any(axis=0)):
        rows = np.flatnonzero(states[:, i] != known[:, i])
        support = counts[states[rows, i][:, None], np.maximum(states[rows], 0), i, everything]
        paired[rows] &= ((support >= MIN_PAIR_SUPPORT) | (states[rows] == UNKNOWN)).all(axis=1)
    return np.where(exact, 2, np.where(paired, 1, 0))


def _chosen(
    faces: Faces, train_attributes: np.ndarray, states: np.ndarray, k: int, *, num: int, generator: np.random.Generator
) -> tuple[list[int], list[np.ndarray]]:
    """Return rows and masks of up to `num` photographs of different people whose label k can change to states[:, k]."""
    candidates = np.flatnonzero((faces.attributes[:, k] != states[:, k]) & (faces.attributes[:, k] != UNKNOWN))
    candidates = generator.permutation(candidates)
    level = possibility(train_attributes, faces.attributes[candidates], states[candidates])
    order = candidates[np.argsort(-level, kind="stable")][: np.count_nonzero(level)]
    rows: list[int] = []
    masks: list[np.ndarray] = []
    people: set[int] = set()
    for row in order.tolist():
        if len(rows) == num:
            break
        person = int(faces.identity[row])
        mask = region_mask(regions_of(faces.attribute_names[k]), faces.landmarks[row], size=faces.resolution)
        if person in people or not 0 < np.count_nonzero(mask) < mask.size:
            continue
        rows.append(row)
        masks.append(mask)
        if person >= 0:
            people.add(person)
    return rows, masks


def _of_method(base: EditRequests, method: str, compared: np.ndarray) -> EditRequests:
    """Return the requests under a method's name: a slow one gets the compared ones, an unmasked one no mask."""
    part = base.rows(np.flatnonzero(compared)) if method in SLOW else base
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    values["method"] = np.full(len(part), method, dtype=object)
    if method in UNMASKED:
        values |= {"region": np.full(len(part), "", dtype=object), "masks": np.ones_like(part.masks)}
    return EditRequests(**values)


def _joined(parts: Sequence[EditRequests]) -> EditRequests:
    names = [field.name for field in fields(EditRequests)]
    return EditRequests(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _no_requests(faces: Faces) -> EditRequests:
    words, numbers = np.empty(0, dtype=object), np.empty(0, np.int64)
    states = np.empty((0, len(faces.attribute_names)), np.int8)
    masks = np.empty((0, faces.resolution, faces.resolution), bool)
    return EditRequests(
        numbers, words, words, numbers.astype(np.int8), states, states, words, words, numbers, masks
    )  # fmt: skip


def area_requests(requests: EditRequests, *, methods: Sequence[str], num_photos: int) -> EditRequests:
    """Return the sweep: requests about small parts, each with the part at every share of AREAS.

    Args:
        requests: what `edit_requests` returned for these methods and perhaps others.
        methods: those that answer the sweep; they take a mask.
        num_photos: photographs of each attribute and direction, the first ones.
    """
    base = requests.by(methods[0])
    parts = []
    for name in dict.fromkeys(base.attribute):
        if mask_share(base.masks[base.attribute == name]) >= LOCAL:
            continue
        about = (np.flatnonzero((base.attribute == name) & (base.state == state)) for state in (PRESENT, ABSENT))
        parts += [rows[:num_photos] for rows in about]
    chosen = base.rows(np.concatenate([*parts, np.empty(0, np.int64)]))
    values = {field.name: np.repeat(getattr(chosen, field.name), len(AREAS), axis=0) for field in fields(chosen)}
    shares = np.tile(AREAS, len(chosen))
    for row, share in enumerate(shares):
        values["masks"][row] = resized(values["masks"][row], share)
        values["region"][row] = f"{values['region'][row]} at {share:.1%}"
    sweep = EditRequests(**values)
    return _joined([_of_method(sweep, method, np.ones(len(sweep), bool)) for method in methods])


def resized(mask: np.ndarray, share: float) -> np.ndarray:  # (S, S)
    """Return a mask of a share of the picture: the part's innermost pixels, or the part and the pixels nearest to it.

    Args:
        mask: bool (S, S), some True, some False.
        share: above 0, below 1; at least a pixel is marked.
    """
    outwards = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    num = max(1, round(share * mask.size))
    result = np.zeros(mask.size, bool)
    result[np.argsort(outwards, axis=None, kind="stable")[:num]] = True
    return result.reshape(mask.shape)


def run_edits(
    editor: Editor,
    requests: EditRequests,
    photographs: Photographs,
    *,
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
    batch_size: int,
    on_edits: Callable[[str, int], object],
) -> EditRows:
    """Answer the requests, in their order.

    Args:
        editor: edits pictures of the photographs' size, with the same attributes.
        requests: N of them.
        photographs: returns pictures by their rows in the split.
        embed: (pictures, their rows) -> identity embeddings (B, E); None: the editor is told nothing of the people.
        batch_size: photographs at once, of one method.
        on_edits: called with a method and the number of its edits that were just made.

    Raises:
        ValueError: if the editor's pictures or attributes are others.
    """
    side, num = requests.masks.shape[1], len(requests)
    if editor.resolution != side or len(editor.attribute_names) != requests.states.shape[1]:
        raise ValueError(
            f"the editor makes {editor.resolution} px with {len(editor.attribute_names)} attributes; the photographs "
            f"have {side} px and {requests.states.shape[1]}: run the stages again"
        )
    images, raws = np.empty((num, side, side, 3), np.uint8), np.empty((num, side, side, 3), np.uint8)
    masks, evaluations = requests.masks.copy(), np.zeros(num, np.int64)
    for method, rows in _batches(requests.method, batch_size):
        part = requests.rows(rows)
        pictures = photographs(part.row)
        made = editor.edit(
            pictures, states=part.states, changed=part.states != part.known,
            masks=None if method in UNMASKED else part.masks, seeds=part.seed.tolist(),
            identity=None if embed is None else embed(pictures, part.row), method=method,
        )  # fmt: skip
        images[rows], raws[rows], masks[rows], evaluations[rows] = made.images, made.raw, made.masks, made.evaluations
        on_edits(method, len(rows))
    return EditRows(
        requests.photo.tolist(), requests.attribute.tolist(), requests.state, requests.region.tolist(),
        requests.method.tolist(), requests.seed, requests.states, requests.known, evaluations, images, raws, masks,
        tuple(editor.attribute_names),
    )  # fmt: skip


def _batches(method: np.ndarray, size: int) -> Iterator[tuple[str, np.ndarray]]:
    for name in dict.fromkeys(method):
        rows = np.flatnonzero(method == name)
        for start in range(0, len(rows), size):
            yield str(name), rows[start : start + size]


def edit_grids(
    requests: EditRequests, images: np.ndarray, photographs: Photographs, *, default: str, num_columns: int
) -> dict[str, Image.Image]:
    """Return the pictures by file name: attributes (before and after), methods (side by side).

    Args:
        requests: what `edit_requests` returned; images: uint8 (N, S, S, 3), the answers.
        photographs: returns pictures by their rows in the split.
        default: the method that `attributes` shows.
        num_columns: photographs of each attribute there; half of them are asked for it, half to lose it.
    """
    half, pairs, labels = max(1, num_columns // 2), [], []
    for name in dict.fromkeys(requests.attribute):
        shown = (requests.attribute == name) & (requests.method == default)
        sides = [np.flatnonzero(shown & (requests.state == state))[:half] for state in (PRESENT, ABSENT)]
        pairs.append(_strip([photographs(requests.row[side]) for side in sides], half))
        pairs.append(_strip([images[side] for side in sides], half))
        labels += [str(name), "edited"]
    strips, seen = [], []
    methods = list(dict.fromkeys(requests.method))
    for rows in _compared(requests, methods):
        first = rows[methods.index(default)]
        before, mask = photographs(requests.row[[first]])[0], requests.masks[first]
        strips.append([before, _faded(before, mask), *(images[row] for row in rows)])
        seen.append(f"{_WORDS[int(requests.state[first])]}\n{requests.attribute[first]}")
    made: dict[str, Any] = {}
    if pairs:
        asked = [*["asked for"] * half, *["asked without"] * half]
        made["attributes"] = _grid(
            pairs, labels, asked, f"Photographs, and below them edits by {default}", group_rows=2
        )
    if strips:
        made["methods"] = _grid(strips, seen, ["photograph", "mask", *methods], "The same request, by every method")
    return made


def area_grid(
    requests: EditRequests, images: np.ndarray, photographs: Photographs, *, method: str
) -> dict[str, Image.Image]:
    """Return the picture of the sweep by one method, `areas`: the first photograph of each attribute at every share."""
    strips, labels = [], []
    for name in dict.fromkeys(requests.attribute):
        rows = np.flatnonzero((requests.attribute == name) & (requests.method == method))[: len(AREAS)]
        strips.append([photographs(requests.row[rows[:1]])[0], *images[rows]])
        labels.append(f"{_WORDS[int(requests.state[rows[0]])]}\n{name}")
    if not strips:
        return {}
    shares = [f"{share:.1%} of the picture" for share in AREAS]
    return {"areas": _grid(strips, labels, ["photograph", *shares], f"Masks of different sizes, by {method}")}


def _compared(requests: EditRequests, methods: Sequence[str]) -> Iterator[list[int]]:
    """Yield, for each attribute, the rows of the first request that every method has answered, in order of methods."""
    for name in dict.fromkeys(requests.attribute):
        about = np.flatnonzero(requests.attribute == name)
        for seed in dict.fromkeys(requests.seed[about].tolist()):
            row_of = {requests.method[row]: int(row) for row in about if requests.seed[row] == seed}
            if len(row_of) == len(methods):
                yield [row_of[method] for method in methods]
                break


def _strip(parts: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Return the parts beside each other, each filled up with white to a width: uint8 (len(parts) * width, S, S, 3)."""
    filled = [np.concatenate([part, np.full((width - len(part), *part.shape[1:]), 255, np.uint8)]) for part in parts]
    return np.concatenate(filled)


def _faded(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the picture with what is kept faded to white."""
    return np.asarray(np.where(mask[..., None], image, 255 - (255 - image) // 4))


def _grid(
    rows: Sequence[Any], labels: list[str], columns: list[str], title: str, *, group_rows: int = 1
) -> Image.Image:
    images = np.stack([np.stack(list(row)) for row in rows])
    scale = max(1, TILE_PX // images.shape[2])
    return image_grid(
        images, row_labels=labels, column_labels=columns, title=title, scale=scale, group_rows=group_rows
    )  # fmt: skip
