"""A folder per person: who is who, splits by people, what is refused; and the faces that come of it."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.data.align import canonical_landmarks, cut_face
from facegen.data.celeba import Source
from facegen.data.images import decode_photo
from facegen.data.people import is_folder_per_person, read_people, split_people
from facegen.data.preprocess import Recipe, write_faces
from facegen.data.shards import Faces

PEOPLE = [f"s{i:02d}" for i in range(1, 13)]
PICTURES = ("1.png", "2.png", "3.jpg")
RECIPE = Recipe(resolution=32, crop="full", crop_size_px=40, max_megapixels=1)


def photo(seed: int, name: str) -> bytes:
    """A smooth random picture of 44x50 px; PNG ones are grey."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((44, 50), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if name.endswith("png"):
        image.convert("L").save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


FILES = {
    f"{person}/{name}": photo(10 * i + j, name) for i, person in enumerate(PEOPLE) for j, name in enumerate(PICTURES)
}


def make_source(root: Path, files: dict[str, bytes], *, shuffle: int | None = None) -> Path:
    names = list(files) if shuffle is None else random.Random(shuffle).sample(sorted(files), len(files))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files[name])
    return root


def read(root: Path, *, attributes: object = "all", seed: int = 0, share: float = 0.2) -> Source:
    return read_people(root, attributes=attributes, val_fraction=share, test_fraction=share, seed=seed)  # type: ignore[arg-type]


def test_each_folder_is_a_person(tmp_path: Path) -> None:
    source = read(make_source(tmp_path, FILES))
    assert source.ids == tuple(sorted(FILES))
    assert source.identity.tolist() == [i for i in range(12) for _ in PICTURES] and source.identity.dtype == np.int32
    assert source.attribute_names == () and source.attributes.shape == (36, 0)
    assert source.landmarks is None
    people = [{int(n) for n in source.identity[source.split == s]} for s in range(3)]
    assert [len(p) for p in people] == [8, 2, 2] and sum(map(len, people)) == len(set().union(*people))
    assert source.notes == [
        "a folder per person: 36 pictures of 12 people, without attributes",
        "no landmarks: canonical positions stand in for them",
        "splits drawn by seed 0 (identity-disjoint)",
    ]
    assert not np.array_equal(source.split, read(tmp_path, seed=1).split)


def test_order_and_place_change_nothing_and_digests_follow_the_content(tmp_path: Path) -> None:
    first = read(make_source(tmp_path / "a", FILES))
    second = read(make_source(tmp_path / "b", FILES, shuffle=3))
    assert first.ids == second.ids and first.digests == second.digests and first.notes == second.notes
    assert np.array_equal(first.split, second.split) and np.array_equal(first.identity, second.identity)
    (tmp_path / "b/s03/2.png").rename(tmp_path / "b/s04/9.png")
    assert read(tmp_path / "b").digests != first.digests


def test_configured_attributes_are_passed_over_loudly(tmp_path: Path) -> None:
    source = read(make_source(tmp_path, FILES), attributes=("Male", "Young"))
    assert source.attribute_names == ()
    assert [n for n in source.notes if "IGNORED" in n] == [
        "data.attributes is IGNORED: this source has no attributes (Male, Young)"
    ]


@pytest.mark.parametrize(
    ("people", "shares", "sizes"),
    [
        (1, (0.1, 0.1), [1, 0, 0]),
        (2, (0.1, 0.1), [1, 0, 1]),
        (2, (0.1, 0.0), [1, 1, 0]),
        (3, (0.1, 0.1), [1, 1, 1]),
        (3, (0.1, 0.8), [1, 1, 1]),
        (3, (0.7, 0.1), [1, 1, 1]),
        (4, (0.0, 0.9), [1, 0, 3]),
        (40, (0.1, 0.1), [32, 4, 4]),
        (600, (0.05, 0.2), [450, 30, 120]),
    ],
)
def test_splits_have_the_wanted_shares_and_someone_each(
    people: int, shares: tuple[float, float], sizes: list[int]
) -> None:
    split = split_people(people, val_fraction=shares[0], test_fraction=shares[1], seed=0)
    assert [int((split == s).sum()) for s in range(3)] == sizes
    assert np.array_equal(split, split_people(people, val_fraction=shares[0], test_fraction=shares[1], seed=0))


def test_shares_that_leave_no_one_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="left to train on"):
        split_people(9, val_fraction=0.5, test_fraction=0.5, seed=0)


def test_who_is_drawn_depends_on_the_seed_and_reaches_everyone() -> None:
    tested = np.sum([split_people(10, val_fraction=0.1, test_fraction=0.2, seed=s) == 2 for s in range(500)], axis=0)
    assert tested.sum() == 1000 and tested.min() > 60


def test_what_is_no_picture_is_noted(tmp_path: Path) -> None:
    extra = {"README.md": b"x", "s01/notes.txt": b"x", ".cache/1.png": b"x", "s02/.DS_Store": b"x"}
    source = read(make_source(tmp_path / "people", FILES | extra))
    (tmp_path / "people/zz").mkdir()
    again = read(tmp_path / "people")
    assert source.ids == again.ids == tuple(sorted(FILES))
    told = "\n".join(again.notes)
    assert "people: passed over 2 files that are no pictures (first: README.md)" in told
    assert "passed over 1 pictures in hidden folders" in told
    assert "passed over 1 folders without pictures (first: zz)" in told


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("loose.png", "'loose.png' lies in no folder"),
        ("s01/more/4.png", "'s01/more/4.png' lies too deep"),
        ("s01/a\\b.png", "has a backslash"),
        ("s01/a\nb.png", "has control characters"),
        ("s01/\udcff.png", "is not UTF-8"),
    ],
)
def test_pictures_elsewhere_and_unsafe_names_are_refused(tmp_path: Path, name: str, problem: str) -> None:
    make_source(tmp_path, FILES | {name: b"x"})
    with pytest.raises(ValueError, match="is refused") as error:
        read(tmp_path)
    assert problem in str(error.value) and "expected a folder per person" in str(error.value)


def test_links_to_folders_are_refused_and_missing_folders_named(tmp_path: Path) -> None:
    make_source(tmp_path / "people", FILES)
    make_source(tmp_path / "elsewhere", {"1.png": photo(0, "1.png")})
    (tmp_path / "people/s99").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="s99: links to folders are not followed"):
        read(tmp_path / "people")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read(tmp_path / "nowhere")


def test_the_layout_is_told_from_celebas(tmp_path: Path) -> None:
    assert is_folder_per_person(make_source(tmp_path / "people", FILES))
    assert not is_folder_per_person(tmp_path / "people/s01")  # pictures, but no folders
    assert not is_folder_per_person(tmp_path / "nowhere")
    assert not is_folder_per_person(make_source(tmp_path / "texts", {"a/readme.txt": b"x", ".git/1.png": b"x"}))
    for name in ("img_align_celeba/1.jpg", "img_align_celeba.zip", "list_attr_celeba.txt", "list_attr_celeba.csv"):
        root = make_source(tmp_path / name.replace("/", " "), FILES | {name: b"x"})
        assert not is_folder_per_person(root), name


def prepare(root: Path, out: Path, *, recipe: Recipe = RECIPE, workers: int = 0) -> dict:
    return write_faces(
        read(root), out, recipe=recipe, rows_per_shard=5, workers=workers, on_face=lambda: None
    )  # fmt: skip


def test_faces_come_of_it_whatever_the_workers(tmp_path: Path) -> None:
    root = make_source(tmp_path / "people", FILES)
    report = prepare(root, tmp_path / "out")
    assert report["faces"] == {"train": 24, "val": 6, "test": 6} and report["rejects"] == []
    assert report["identities"] == 12 and report["attribute_names"] == []
    source, seen = read(root), []
    for number, split in enumerate(("train", "val", "test")):
        faces = Faces.open(tmp_path / "out", split)
        rows = np.flatnonzero(source.split == number)
        assert faces.ids == [source.ids[r] for r in rows] and faces.identity.tolist() == source.identity[rows].tolist()
        assert faces.attributes.shape == (len(rows), 0)
        assert np.allclose(faces.landmarks, canonical_landmarks(32))
        for row, id in enumerate(faces.ids):
            image, _, _ = cut_face(
                decode_photo(FILES[id], max_megapixels=1), resolution=32, crop="full", crop_size_px=40, landmarks=None
            )
            pixels = faces.images([row], threads=1)[0]
            assert np.array_equal(pixels, np.asarray(image))
            assert (np.ptp(pixels, axis=2) == 0).all() == id.endswith("png")  # grey stays grey, in three channels
            seen.append(id)
    assert sorted(seen) == sorted(FILES)
    assert prepare(root, tmp_path / "parallel", workers=1) == report
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "parallel" / path.name).read_bytes() == path.read_bytes()


def test_pictures_are_checked_and_landmark_crops_refused(tmp_path: Path) -> None:
    copy = next(id for id in FILES if id.startswith("s07"))
    bad = {"s01/1.png": FILES["s01/1.png"][:-200], "s02/2.png": b"", "s03/3.jpg": b"<html>"}
    root = make_source(tmp_path / "people", FILES | bad | {f"{p}/copy.png": FILES[copy] for p in PEOPLE})
    report = prepare(root, tmp_path / "out")
    reasons = {r["id"]: r["reason"] for r in report["rejects"]}
    assert set(bad) <= set(reasons)
    assert any("the same picture as" in reason for reason in reasons.values())  # in two splits
    with pytest.raises(ValueError, match="no landmark list; use center or full"):
        prepare(root, tmp_path / "marks", recipe=Recipe(32, "landmarks", 40, 1))
