"""Scenes as Parquet: what is written is read, what is wrong is refused, and where masks of faces lie."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegen.data.images import encode_png
from facegen.data.scenes import Scenes, ScenesWriter, Segment, face_masks
from facegen.errors import DamagedArtifactError

HEIGHT, WIDTH = 20, 30
CAPTION = "a man next to a woman"
# Eyes 8 px apart, the mouth 8 px below them; the middle of the eyes is (0, 0).
FACE = np.array([[-4, 0], [4, 0], [0, 4], [-3, 8], [3, 8]], dtype=np.float32)
AT = np.array([60, 50], dtype=np.float32)


def segment(number: int = 1, end: int = 5, *, landmarks: np.ndarray | None = FACE, **changes: object) -> Segment:
    made = Segment(number, "person", end, (1.0, 2.0, 9.5, 12.0), landmarks, 17, (1, 0, -1))
    return replace(made, **changes)  # type: ignore[arg-type]


def pictures(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return (
        rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        rng.integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8),
    )


def write(folder: Path, count: int, *, rows_per_shard: int = 8192, split: str = "train", source: str = "test") -> None:
    with ScenesWriter(
        folder, split, height=HEIGHT, width=WIDTH, attribute_names=("A", "B", "C"), source=source,
        rows_per_shard=rows_per_shard,
    ) as writer:  # fmt: skip
        for number in range(count):
            pixels, segmap = pictures(number)
            people = [segment(2, 21, landmarks=None, identity=-1), segment(3)][: number % 3]
            writer.add(str(number), encode_png(pixels), encode_png(segmap), CAPTION, f"long {number}", people)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 600, rows_per_shard=270)  # three shards, and more than one row group in a shard
    scenes = Scenes.open(tmp_path, "train")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"train-0000{n}.parquet" for n in range(3)]
    assert len(scenes) == 600
    assert (scenes.size, scenes.attribute_names, scenes.source) == ((HEIGHT, WIDTH), ("A", "B", "C"), "test")
    assert scenes.ids == [str(n) for n in range(600)]
    assert scenes.descriptions[599] == "long 599"
    assert set(scenes.captions) == {CAPTION}
    rows = [599, 0, 258, 258, 300]
    for threads in (1, 3):
        assert np.array_equal(scenes.images(rows, threads=threads), np.stack([pictures(n)[0] for n in rows]))
        assert np.array_equal(scenes.segmaps(rows, threads=threads), np.stack([pictures(n)[1] for n in rows]))
    assert [len(own) for own in scenes.segments[:6]] == [0, 1, 2, 0, 1, 2]
    first, second = scenes.segments[2]  # sorted by where the noun phrases end
    assert (first.id, first.end, first.identity, first.attributes) == (3, 5, 17, (1, 0, -1))
    assert first.bbox == (1.0, 2.0, 9.5, 12.0)
    assert first.landmarks is not None
    assert np.array_equal(first.landmarks, FACE)
    assert (second.id, second.end, second.identity, second.landmarks) == (2, 21, -1, None)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, 5)
    files = [(tmp_path / name / "train-00000.parquet").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    write(tmp_path, 3)
    rows = pq.read_table(tmp_path / "train-00000.parquet").to_pylist()
    assert list(rows[0]) == ["id", "image", "caption", "description", "segments", "segmap"]
    assert rows[1]["image"]["path"] == "1.png"
    assert list(rows[2]["segments"][0]) == ["id", "label", "end", "bbox", "landmarks", "identity", "attributes"]
    assert np.isnan(rows[2]["segments"][1]["landmarks"]).all()


def test_an_empty_split_opens(tmp_path: Path) -> None:
    write(tmp_path, 0, split="test")
    scenes = Scenes.open(tmp_path, "test")
    assert len(scenes) == 0
    assert scenes.images([], threads=1).shape == (0, HEIGHT, WIDTH, 3)
    with pytest.raises(IndexError, match="picture 0; there are 0"):
        scenes.images([0], threads=1)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([segment(), segment(1, 21)], r"segment ids \[1, 1\]"),
        ([segment(0)], r"segment ids \[0\]"),
        ([segment(256)], r"segment ids \[256\]"),
        ([segment(end=22)], "segment 1 ends at 22, the caption has 21 characters"),
        ([segment(end=0)], "ends at 0"),
        ([segment(attributes=(1, 0))], "expected 3 of -1, 0, 1"),
        ([segment(attributes=(1, 0, 2))], "expected 3 of -1, 0, 1"),
        ([segment(landmarks=np.full((5, 2), np.nan))], "expected 5 finite"),
        ([segment(landmarks=np.zeros((4, 2)))], "expected 5 finite"),
    ],
)
def test_segments_that_cannot_be_are_refused(tmp_path: Path, people: list[Segment], message: str) -> None:
    pixels, segmap = (encode_png(each) for each in pictures(0))
    with (
        pytest.raises(ValueError, match=message),
        ScenesWriter(tmp_path, "train", height=HEIGHT, width=WIDTH, attribute_names="ABC", source="") as writer,
    ):
        writer.add("x", pixels, segmap, CAPTION, "", people)
    assert not list(tmp_path.iterdir())


def test_pictures_of_another_size_and_ids_given_twice_are_refused(tmp_path: Path) -> None:
    pixels, segmap = (encode_png(each) for each in pictures(0))
    with ScenesWriter(tmp_path, "train", height=HEIGHT, width=WIDTH, attribute_names=(), source="") as writer:
        with pytest.raises(ValueError, match=r"the segmap is \(20, 30\) px; expected \(30, 20\)"):
            writer.add("x", pixels, encode_png(np.zeros((WIDTH, HEIGHT), np.uint8)), CAPTION, "", [])
        writer.add("x", pixels, segmap, CAPTION, "", [])
        with pytest.raises(ValueError, match="'x' is empty or given twice"):
            writer.add("x", pixels, segmap, CAPTION, "", [])
    with pytest.raises(ValueError, match="split 'val'"):
        ScenesWriter(tmp_path, "val", height=HEIGHT, width=WIDTH, attribute_names=(), source="")


def test_a_grey_picture_for_a_coloured_one_is_found_when_read(tmp_path: Path) -> None:
    _, segmap = (encode_png(each) for each in pictures(0))
    with ScenesWriter(tmp_path, "train", height=HEIGHT, width=WIDTH, attribute_names=(), source="") as writer:
        writer.add("x", segmap, segmap, CAPTION, "", [])
    with pytest.raises(DamagedArtifactError, match=r"image\.bytes of row 0: .*mode L"):
        Scenes.open(tmp_path, "train").images([0], threads=1)


def test_missing_and_strange_shards_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the scenes stage"):
        Scenes.open(tmp_path, "train")
    write(tmp_path, 6, rows_per_shard=2)
    (tmp_path / "train-00001.parquet").unlink()
    with pytest.raises(DamagedArtifactError, match=r"train-00001\.parquet is missing"):
        Scenes.open(tmp_path, "train")
    write(tmp_path / "other", 2, source="other")
    (tmp_path / "other/train-00000.parquet").rename(tmp_path / "train-00001.parquet")
    with pytest.raises(DamagedArtifactError, match="other settings"):
        Scenes.open(tmp_path, "train")
    (tmp_path / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedArtifactError, match="is not a scenes shard"):
        Scenes.open(tmp_path, "train")


def mask_of(landmarks: np.ndarray | None, kind: Literal["face", "head"] = "face") -> np.ndarray:
    return face_masks([segment(landmarks=landmarks)], (96, 128), kind=kind)[0].astype(np.float64)


def moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) and the lengths of the half axes of an ellipse, the longer first."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    points = np.stack([x, y], axis=-1)
    centre = (points * mask[..., None]).sum(axis=(0, 1)) / mask.sum()
    off = (points - centre).reshape(-1, 2)
    covariance = (off * mask.reshape(-1, 1)).T @ off / mask.sum()
    return centre, 2.0 * np.sqrt(np.linalg.eigvalsh(covariance)[::-1])


@pytest.mark.parametrize(("kind", "below", "across", "along"), [("face", 0.55, 1.2, 1.55), ("head", 0.15, 1.75, 2.35)])
def test_a_mask_is_the_ellipse_it_is_said_to_be(
    kind: Literal["face", "head"], below: float, across: float, along: float
) -> None:
    mask = mask_of(FACE + AT, kind)
    centre, axes = moments(mask)
    assert centre == pytest.approx([60, 50 + below * 8], abs=0.05)
    assert axes == pytest.approx([along * 8, across * 8], rel=0.01)
    assert mask.sum() == pytest.approx(math.pi * across * along * 64, rel=0.01)
    assert (mask.min(), mask.max()) == (0.0, 1.0)


def test_a_mask_turns_with_the_face() -> None:
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # a quarter: what is below lies at the left
    centre, axes = moments(mask_of((FACE @ turn + [60, 50]).astype(np.float32)))
    assert centre == pytest.approx([60 - 0.55 * 8, 50], abs=0.05)
    assert axes == pytest.approx([1.55 * 8, 1.2 * 8], rel=0.01)


def test_a_face_seen_from_the_side_keeps_its_height() -> None:
    narrow = FACE * np.array([0.3, 1.0], dtype=np.float32)
    _, axes = moments(mask_of(narrow + AT))
    assert axes[0] == pytest.approx(1.55 * 8 / 1.2, rel=0.02)


def test_the_face_lies_in_the_head_and_unknown_faces_have_no_mask() -> None:
    face, head = (mask_of(FACE + AT, "face"), mask_of(FACE + AT, "head"))
    assert (face <= head).all()
    assert mask_of(None).max() == 0.0
    assert face_masks([], (4, 6), kind="face").shape == (0, 4, 6)
