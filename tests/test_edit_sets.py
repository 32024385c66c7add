"""Which edits are asked for, that each answer stands in its row, and that the grids show it in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from facegen.data.align import canonical_landmarks
from facegen.data.edits import Edits, write_edits
from facegen.data.images import encode_png
from facegen.data.regions import region_mask, regions_of
from facegen.data.shards import Faces, FacesWriter
from facegen.edit_sets import (
    AREAS,
    SLOW,
    EditRequests,
    area_grid,
    area_requests,
    changed_states,
    edit_grids,
    edit_requests,
    possibility,
    resized,
    run_edits,
)

NAMES = ["Smiling", "Bald", "Bangs", "Black_Hair", "Gray_Hair", "Mustache"]
METHODS = ("blend", "resample", "zoom", "invert")
SIDE = 32


def people(num: int, *, seed: int) -> np.ndarray:
    """Labels of the kind that the data have: the bald have neither bangs nor a hair colour, nobody has two colours."""
    draw = np.random.default_rng(seed)
    states = (draw.random((num, 6)) < (0.5, 0.2, 0.3, 0.3, 0.3, 0.3)).astype(np.int8)
    states[:, 4] &= 1 - states[:, 3]
    states[states[:, 1] == 1, 2:5] = 0
    return states


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder, draw = tmp_path_factory.mktemp("faces"), np.random.default_rng(5)
    with FacesWriter(folder, "test", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=500) as writer:
        for row, states in enumerate(people(160, seed=1)):
            landmarks = canonical_landmarks(SIDE) + draw.normal(0, 0.5, (5, 2))
            pixels = np.full((SIDE, SIDE, 3), row, np.uint8)
            writer.add(f"{row:06d}.jpg", encode_png(pixels), states, row // 2, landmarks)
    return Faces.open(folder, "test")


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return people(2000, seed=2)


@pytest.fixture(scope="module")
def table(faces: Faces, train: np.ndarray) -> EditRequests:
    return edit_requests(faces, train, seed=0, methods=METHODS, num_photos=6, num_compared=2)


class Marker:
    """Stands in for the editor: paints what it was asked, so that a mix-up of rows shows."""

    resolution = SIDE
    attribute_names = NAMES

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def edit(self, images: np.ndarray, *, states: np.ndarray, changed: np.ndarray, masks: np.ndarray | None,
             seeds: list[int], identity: np.ndarray | None, method: str) -> Any:  # fmt: skip
        assert (masks is None) == (method == "invert") and changed.any(axis=1).all()
        self.calls.append((method, len(images)))
        used = np.ones(images.shape[:3], bool) if masks is None else masks
        raw = np.zeros_like(images)
        raw[..., 0] = images[..., 0]
        raw[..., 1] = (np.array(seeds) % 251)[:, None, None]
        raw[..., 2] = (10 * METHODS.index(method) + changed @ np.arange(6) + 100 * (states * changed).max(axis=1))[
            :, None, None
        ]
        if identity is not None:
            raw[..., 1] = identity[:, :1, None]
        return SimpleNamespace(
            images=np.where(used[..., None], raw, images), raw=raw, masks=used, evaluations=len(method)
        )


def photographs_of(faces: Faces) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: faces.images(rows, threads=1)


def answered(table: EditRequests, faces: Faces, **changes: Any) -> Any:
    settings = {"embed": None, "batch_size": 7, "on_edits": lambda *_: None} | changes
    return run_edits(Marker(), table, photographs_of(faces), **settings)


def test_each_attribute_is_asked_to_come_and_to_go(table: EditRequests, faces: Faces) -> None:
    blend = table.by("blend")
    for k, name in enumerate(NAMES):
        for state in (0, 1):
            rows = blend.rows(np.flatnonzero((blend.attribute == name) & (blend.state == state)))
            assert len(rows) == 6 and len(set(faces.identity[rows.row].tolist())) == 6
            assert (rows.known[:, k] == 1 - state).all() and (rows.states[:, k] == state).all()
            assert (rows.known == faces.attributes[rows.row]).all()
            assert rows.photo.tolist() == [faces.ids[row] for row in rows.row]
            assert set(rows.region) == {"+".join(regions_of(name))}
            for row, mask in zip(rows.row, rows.masks, strict=True):
                assert (mask == region_mask(regions_of(name), faces.landmarks[row], size=SIDE)).all()
    assert len(set(blend.seed.tolist())) == len(blend)


def test_only_changes_that_the_data_allow(table: EditRequests, train: np.ndarray) -> None:
    have = {tuple(row) for row in train.tolist()}
    assert {tuple(row) for row in table.states.tolist()} <= have
    bangs = table.rows(np.flatnonzero((table.attribute == "Bangs") & (table.state == 1)))
    assert len(bangs) and (bangs.known[:, 1] == 0).all()  # nobody bald
    black = table.rows(np.flatnonzero((table.attribute == "Black_Hair") & (table.state == 1)))
    assert (black.states[:, 4] == 0).all() and (black.known[:, 4] == 1).any()  # black instead of grey
    others = np.delete(np.arange(6), (3, 4))
    assert (black.states[:, others] == black.known[:, others]).all()


def test_a_hair_colour_takes_the_place_of_the_others() -> None:
    known = np.array([[0, 0, 0, 0, 1, 0], [1, 0, 1, 0, -1, 0]], np.int8)
    assert changed_states(known, NAMES, 3, 1).tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 1, 1, -1, 0]]
    assert changed_states(known, NAMES, 4, 0).tolist() == [[0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]]
    assert changed_states(known, NAMES, 1, 1)[:, 4].tolist() == [1, -1]


def test_possibility_is_exact_then_by_pairs() -> None:
    train = np.repeat(np.array([[0, 0, 0], [1, 0, 1], [1, 1, 0], [0, 1, 1]], np.int8), 5, axis=0)
    known = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 1, -1]], np.int8)
    wanted = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, -1]], np.int8)
    assert possibility(train, known, wanted).tolist() == [1, 2, 2, 1]
    short = (np.array([[0, 0, -1]], np.int8), np.array([[1, 0, -1]], np.int8))
    assert possibility(train[:10], *short).tolist() == [1]
    assert possibility(train[:9], *short).tolist() == [0]  # four pictures are too few for a pair
    never = np.array([[0, 0], [0, 1], [1, 0]] * 9, np.int8)
    assert possibility(never, np.array([[0, 1]]), np.array([[1, 1]])).tolist() == [0]


def test_every_method_has_the_same_requests_and_the_slow_ones_the_first(table: EditRequests) -> None:
    blend = table.by("blend")
    assert list(dict.fromkeys(table.method)) == list(METHODS)
    first = np.concatenate([
        np.flatnonzero((blend.attribute == name) & (blend.state == state))[:2] for name in NAMES for state in (1, 0)
    ])  # fmt: skip
    for method in METHODS:
        part, wanted = table.by(method), blend.rows(np.sort(first)) if method in SLOW else blend
        for name in ("row", "seed", "states", "attribute"):
            assert (getattr(part, name) == getattr(wanted, name)).all()
        if method == "invert":
            assert part.masks.all() and set(part.region) == {""}
        else:
            assert (part.masks == wanted.masks).all() and (part.region == wanted.region).all()


def test_requests_are_a_function_of_the_seed(faces: Faces, train: np.ndarray, table: EditRequests) -> None:
    again, other = (
        edit_requests(faces, train, seed=s, methods=METHODS, num_photos=6, num_compared=2) for s in (0, 1)
    )  # fmt: skip
    assert (again.row == table.row).all() and (again.seed == table.seed).all()
    assert (other.row != table.row).any() and not set(other.seed.tolist()) & set(table.seed.tolist())
    fewer = edit_requests(faces, train, seed=0, methods=["blend"], num_photos=2, num_compared=1)
    assert set(zip(fewer.row, fewer.seed, strict=True)) <= set(zip(table.row, table.seed, strict=True))


def test_without_a_possible_change_there_is_no_request(faces: Faces) -> None:
    nobody = np.full((50, 6), -1, np.int8)
    none = edit_requests(faces, nobody, seed=0, methods=METHODS, num_photos=6, num_compared=2)
    assert len(none) == 0 and none.masks.shape == (0, SIDE, SIDE)
    rows = answered(none, faces)
    assert len(rows) == 0 and edit_grids(none, rows.images, photographs_of(faces), default="zoom", num_columns=4) == {}
    swept = area_requests(none, methods=["zoom"], num_photos=2)
    assert len(swept) == 0 and area_grid(swept, rows.images, photographs_of(faces), method="zoom") == {}


def test_the_sweep_asks_the_same_at_every_share(table: EditRequests) -> None:
    sweep = area_requests(table, methods=["zoom", "blend"], num_photos=2)
    assert set(sweep.attribute) == {"Smiling", "Mustache", "Bangs"}  # hair is no small part
    assert len(sweep) == 2 * 3 * 2 * 2 * len(AREAS) and (sweep.by("zoom").masks == sweep.by("blend").masks).all()
    zoom = sweep.by("zoom")
    assert np.allclose(zoom.masks.mean(axis=(1, 2)).reshape(-1, len(AREAS)), AREAS, atol=0.5 / SIDE**2)
    groups = zoom.masks.reshape(-1, len(AREAS), SIDE, SIDE)
    assert (groups[:, 1:] >= groups[:, :-1]).all()  # each holds the smaller ones
    assert zoom.region[0] == "mouth+cheeks at 1.5%" and len(set(zoom.region[: len(AREAS)])) == len(AREAS)
    known = set(zip(table.row, table.seed, table.attribute, table.state, strict=True))
    assert set(zip(sweep.row, sweep.seed, sweep.attribute, sweep.state, strict=True)) <= known


def test_a_part_shrinks_to_its_core_and_grows_to_its_neighbours() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:21, 15:26] = True  # 121 pixels around (15, 20)
    assert (resized(mask, 121 / 1600) == mask).all()
    y, x = np.mgrid[:40, :40]
    small, large = resized(mask, 25 / 1600), resized(mask, 400 / 1600)
    assert small.sum() == 25 and (np.maximum(abs(y - 15), abs(x - 20))[small] <= 2).all()
    assert large.sum() == 400 and large[mask].all()
    reach = ndimage.distance_transform_edt(~mask)
    assert reach[large].max() <= reach[~large].min()
    assert resized(mask, 1e-9).sum() == 1


def test_answers_stand_in_the_rows_of_their_requests(table: EditRequests, faces: Faces, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    rows = answered(table, faces, on_edits=lambda *edits: seen.append(edits))
    assert sum(num for _, num in seen) == len(table) == len(rows) and max(num for _, num in seen) == 7
    for method in METHODS:
        assert sum(num for name, num in seen if name == method) == (table.method == method).sum()
    asked = (table.states != table.known) @ np.arange(6) + 100 * table.state
    marks = np.array([10 * METHODS.index(method) for method in table.method]) + asked
    assert (rows.raws[:, 5, 9, 0] == table.row).all() and (rows.raws[:, 0, 0, 1] == table.seed % 251).all()
    assert (rows.raws[:, 0, 0, 2] == marks).all()
    assert (rows.masks == table.masks).all() and rows.evaluations.tolist() == [len(m) for m in table.method]
    inside = np.where(table.masks[..., None], rows.raws, table.row[:, None, None, None].astype(np.uint8))
    assert (rows.images == inside).all()
    write_edits(tmp_path / "edits.parquet", rows)
    edits = Edits.open(tmp_path / "edits.parquet")
    assert edits.photo == table.photo.tolist() and (edits.seed == table.seed).all() and len(edits) == len(table)


def test_one_method_a_batch_and_the_people_are_told(table: EditRequests, faces: Faces) -> None:
    editor = Marker()
    rows = run_edits(
        editor, table, photographs_of(faces),
        embed=lambda pictures, rows: pictures[:, 0, 0, :1] // 2 + rows[:, None] % 2,
        batch_size=50, on_edits=lambda *_: None,
    )  # fmt: skip
    assert editor.calls == [("blend", 50), ("blend", 22), ("resample", 24), ("zoom", 50), ("zoom", 22), ("invert", 24)]
    assert (rows.raws[:, 0, 0, 1] == table.row // 2 + table.row % 2).all()


def test_an_editor_of_another_size_is_refused(table: EditRequests, faces: Faces) -> None:
    editor = Marker()
    editor.resolution = 64
    with pytest.raises(ValueError, match=r"64 px with 6 attributes; the photographs have 32 px and 6"):
        run_edits(editor, table, photographs_of(faces), embed=None, batch_size=4, on_edits=lambda *_: None)


def tiles(picture: np.ndarray, colour: list[int]) -> list[tuple[int, int]]:
    """Middles (y, x) of the areas of one colour, those above first."""
    labels, num = ndimage.label((picture == np.array(colour)).all(axis=-1))
    sizes = ndimage.sum_labels(labels > 0, labels, range(1, num + 1)) if num else []
    middles = ndimage.center_of_mass(labels > 0, labels, range(1, num + 1)) if num else []
    return sorted((round(y), round(x)) for (y, x), size in zip(middles, sizes, strict=True) if size > 400)


def test_grids_show_photographs_and_edits_in_their_places(table: EditRequests, faces: Faces) -> None:
    images = np.broadcast_to(
        np.stack([table.row, table.seed % 251, 10 * np.array([METHODS.index(m) for m in table.method])], axis=1)[
            :, None, None
        ],
        (len(table), SIDE, SIDE, 3),
    ).astype(np.uint8)
    made = edit_grids(table, images, photographs_of(faces), default="zoom", num_columns=4)
    assert set(made) == {"attributes", "methods"}
    pixels = np.asarray(made["attributes"])
    zoom = table.by("zoom")
    for state in (1, 0):
        row = np.flatnonzero((zoom.attribute == "Bald") & (zoom.state == state))[0]
        edited = tiles(pixels, [zoom.row[row], zoom.seed[row] % 251, 20])
        before = [place for place in tiles(pixels, [zoom.row[row]] * 3) if any(place[1] == x for _, x in edited)]
        assert len(edited) == 1 and any(0 < edited[0][0] - y < 200 for y, _ in before)
        assert (edited[0][1] < pixels.shape[1] * 0.6) == (state == 1)  # what comes stands left of what goes
    pixels = np.asarray(made["methods"])
    first = {m: table.by(m).rows(np.array([0])) for m in METHODS}
    places = [
        tiles(pixels, [part.row[0], part.seed[0] % 251, 10 * METHODS.index(m)])[0] for m, part in first.items()
    ]  # fmt: skip
    assert len({y for y, _ in places}) == 1 and [x for _, x in places] == sorted(x for _, x in places)


def test_the_grid_of_the_sweep_goes_from_small_to_large(table: EditRequests, faces: Faces) -> None:
    sweep = area_requests(table, methods=["zoom"], num_photos=1)
    shade = np.tile(np.arange(len(AREAS)) * 40 + 30, len(sweep) // len(AREAS))
    images = np.broadcast_to(shade[:, None, None, None], (len(sweep), SIDE, SIDE, 3)).astype(np.uint8)
    pixels = np.asarray(area_grid(sweep, images, photographs_of(faces), method="zoom")["areas"])
    columns = [tiles(pixels, [30 + 40 * i] * 3)[0][1] for i in range(len(AREAS))]
    assert columns == sorted(columns) and len(set(columns)) == len(AREAS)
