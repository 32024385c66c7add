"""FastComposer's layout, there and back: where pixels, boxes and points land, and what is refused, naming the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facegen.data.fastcomposer import ImportRecipe, count_ids, is_fastcomposer, read_fastcomposer, write_fastcomposer
from facegen.data.scenes import Scenes
from tests.made_scenes import (
    CAPTION,
    MAN,
    PEOPLE,
    SKY,
    WOMAN,
    described,
    face_in,
    photograph,
    write_fastcomposer_folder,
    write_small_scenes,
)

# The photograph is 200 x 80; a scene of 60 x 40 px shows its middle 120 x 80 at half the density.
LEFT, SCALE = 40, 0.5


@dataclass(frozen=True)
class Found:
    score: float
    landmarks: np.ndarray


def read(root: Path, out: Path, *, detect: Any = None, num_test: int = 1, workers: int = 1, **size: int) -> dict:
    recipe = ImportRecipe(size.get("height", 40), size.get("width", 60), 25.0, detect)
    counted: list[int] = []
    report = read_fastcomposer(
        root, out, recipe=recipe, num_test=num_test, seed=0, workers=workers, on_scene=lambda: counted.append(1)
    )
    assert len(counted) == sum(report["scenes"].values())
    return report


def test_pixels_maps_boxes_and_points_land_where_they_belong(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    assert is_fastcomposer(root)
    assert count_ids(root) == 4
    report = read(root, tmp_path / "out")
    assert report["scenes"] == {"train": 3, "test": 1}
    assert report["segments"] == {"kept": 8, "cut_away": 0, "without_a_face": 0}
    scenes = Scenes.open(tmp_path / "out", "train")
    assert scenes.size == (40, 60)
    assert scenes.captions == [CAPTION] * 3 == scenes.descriptions
    man, woman = scenes.segments[0]
    assert (CAPTION[: man.end], CAPTION[: woman.end]) == ("a man", CAPTION)
    assert man.bbox == ((60 - LEFT) * SCALE, 10 * SCALE, (90 - LEFT) * SCALE, 70 * SCALE)  # x first
    assert woman.bbox == (35.0, 10.0, 55.0, 30.0)
    pixels, segmap = scenes.images([0], threads=1)[0], scenes.segmaps([0], threads=1)[0]
    for segment, colour in ((man, MAN), (woman, WOMAN)):
        x0, y0, x1, y1 = (int(edge) for edge in segment.bbox)
        inside = np.zeros((40, 60), bool)
        inside[y0:y1, x0:x1] = True
        assert np.array_equal(segmap == segment.id, inside)
        assert np.abs(pixels[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].astype(int) - colour).max() < 12
        assert (segment.identity, segment.attributes) == (-1, ())
    assert np.abs(pixels[34:, 25:34].astype(int) - SKY).max() < 12
    # A point lies at the same share of its box before and after.
    expected = face_in(man.bbox)
    assert man.landmarks == pytest.approx(expected, abs=1e-4)


def test_maps_are_never_blended(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in", train=1)
    read(root, tmp_path / "out", height=34, width=51)  # edges fall within pixels
    scenes = Scenes.open(tmp_path / "out", "train")
    segmap = scenes.segmaps([0], threads=1)[0]
    for segment in scenes.segments[0]:
        rows, columns = np.nonzero(segmap == segment.id)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert found == pytest.approx(segment.bbox, abs=1.0)
        assert len(rows) == (found[2] - found[0]) * (found[3] - found[1])


def test_the_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in", train=9)
    for workers in (1, 3):
        read(root, tmp_path / str(workers), workers=workers)
    one, three = ((tmp_path / w / "train-00000.parquet").read_bytes() for w in ("1", "3"))
    assert one == three


def test_a_portrait_scene_cuts_people_away(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    report = read(root, tmp_path / "out", height=40, width=20)  # shows x from 80 to 120
    assert report["segments"] == {"kept": 0, "cut_away": 8, "without_a_face": 0}  # no face is whole
    assert report["scenes_without_people"] == 4
    scenes = Scenes.open(tmp_path / "out", "train")
    assert scenes.segmaps([0], threads=1).max() == 0
    report = read(write_fastcomposer_folder(tmp_path / "in2", landmarks=False), tmp_path / "out2", height=40, width=20)
    assert report["segments"]["kept"] == 8  # boxes alone may be cut
    assert Scenes.open(tmp_path / "out2", "train").segments[0][0].bbox == (0.0, 5.0, 5.0, 35.0)


def test_a_detector_gives_each_person_the_best_face_that_lies_in_them(tmp_path: Path) -> None:
    boxes = {number: box for number, _, _, box in PEOPLE}
    between = face_in((80, 20, 120, 60))  # reaches over the man's edge
    weak, strong = face_in((62, 20, 80, 50)), face_in(boxes[7])

    def detect(pixels: np.ndarray) -> list[Found]:
        assert pixels.shape == (80, 200, 3)  # the photograph as it is
        return [Found(0.5, weak), Found(0.9, between), Found(0.8, strong), Found(0.7, face_in((-10, 0, 5, 20)))]

    root = write_fastcomposer_folder(tmp_path / "in", landmarks=False)
    report = read(root, tmp_path / "out", detect=detect)
    assert report["segments"] == {"kept": 4, "cut_away": 0, "without_a_face": 4}
    for own in Scenes.open(tmp_path / "out", "train").segments:
        (man,) = own
        assert CAPTION[: man.end] == "a man"
        assert man.landmarks == pytest.approx(face_in(man.bbox), abs=1e-4)


def test_landmarks_of_the_files_come_before_the_detector(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    report = read(root, tmp_path / "out", detect=lambda _: [])
    assert report["segments"] == {"kept": 8, "cut_away": 0, "without_a_face": 0}


def test_what_is_exported_is_imported(tmp_path: Path) -> None:
    made = write_small_scenes(tmp_path / "made", train=3, test=2)
    splits = {split: Scenes.open(made, split) for split in ("train", "test")}
    write_fastcomposer(tmp_path / "out", splits, on_scene=lambda: None)
    listed = [(tmp_path / "out" / f"image_ids{name}.txt").read_text().split() for name in ("", "_train", "_test")]
    assert listed == [splits["train"].ids + splits["test"].ids, splits["train"].ids, splits["test"].ids]
    name = splits["train"].ids[1]
    about = json.loads((tmp_path / "out" / name[:5] / f"{name}.json").read_text())
    assert about["caption"] == splits["train"].captions[1]
    assert [s["coco_label"] for s in about["segments"]] == ["person"] * len(splits["train"].segments[1])
    read(tmp_path / "out", tmp_path / "back", height=64, width=96)
    for split, scenes in splits.items():
        back = Scenes.open(tmp_path / "back", split)
        assert (back.ids, back.captions, back.descriptions) == (scenes.ids, scenes.captions, scenes.descriptions)
        rows = range(len(scenes))
        assert np.array_equal(back.segmaps(rows, threads=1), scenes.segmaps(rows, threads=1))
        change = np.abs(back.images(rows, threads=1).astype(int) - scenes.images(rows, threads=1))
        assert change.mean() < 2.0
        for ours, theirs in zip(scenes.segments, back.segments, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert (a.id, a.end, a.bbox, a.identity) == (b.id, b.end, b.bbox, b.identity)
                assert a.landmarks == pytest.approx(b.landmarks, abs=1e-4)


def test_without_lists_of_the_splits_some_are_drawn(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in", train=5)
    (root / "image_ids_test.txt").unlink()
    assert count_ids(root) == 6
    assert read(root, tmp_path / "out", num_test=2)["scenes"] == {"train": 4, "test": 2}
    parts = [Scenes.open(tmp_path / "out", split).ids for split in ("train", "test")]
    assert sorted(parts[0] + parts[1]) == sorted((root / "image_ids.txt").read_text().split())
    with pytest.raises(ValueError, match="has 6 ids; 6 are wanted for testing alone"):
        read(root, tmp_path / "more", num_test=6)


def broken(root: Path, suffix: str) -> Path:
    return next(path for path in sorted(root.rglob(f"*.{suffix}")))


def with_segment(**changes: Any) -> dict[str, Any]:
    about = described()
    about["segments"][0] |= changes
    return about


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (with_segment(end=22), "segment 7 ends at character 22, the caption has 21"),
        (with_segment(end=0), "segment 7 ends at character 0"),
        (with_segment(id=3), r"2 segments, ids \[3, 3\]"),
        (with_segment(id=0), "not as the layout says"),
        (with_segment(id=9), "segment 9 has no pixel"),
        (with_segment(bbox=[90, 10, 60, 70]), "expected x0 < x1"),
        (with_segment(bbox=[1, 2, 3]), "expected x0 < x1"),
        (with_segment(landmarks=[[1, 2]]), "expected five"),
        ({"caption": CAPTION}, "not as the layout says"),
        ({"caption": CAPTION, "segments": [{"id": 3}]}, "not as the layout says"),
    ],
)
def test_a_wrong_json_is_named(tmp_path: Path, about: dict, message: str) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    path = broken(root, "json")
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message) as error:
        read(root, tmp_path / "out")
    assert path.stem in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "json", "npy"])
def test_a_missing_file_and_one_that_is_none_are_named(tmp_path: Path, suffix: str) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    path = broken(root, suffix)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=rf"{path.name}"):
        read(root, tmp_path / "out")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing, but {path.stem} is listed"):
        read(root, tmp_path / "out2")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_map_of_another_size_or_of_shares_is_named(tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    path = broken(root, "npy")
    for wrong in (photograph()[1].T, photograph()[1].astype(float)):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=rf"{path.name} is .*expected whole numbers"):
            read(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_ids_train.txt", "", "it is empty"),
        ("image_ids_train.txt", "7\n7\n", "7 stands there twice"),
        ("image_ids_train.txt", "../secret\n", "'../secret' is no file name"),
        ("image_ids_test.txt", "70000000\n", "70000000 stands in image_ids_train.txt and in image_ids_test.txt"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read(root, tmp_path / "out")


def test_nothing_is_overwritten_and_no_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        write_fastcomposer(tmp_path / "full", {}, on_scene=lambda: None)
    assert not is_fastcomposer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no image_ids\.txt"):
        read(tmp_path, tmp_path / "out")
