"""From photographs to faces: equal bytes whatever the workers and the order; bad pictures and copies are told."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.data.align import canonical_landmarks, cut_face
from facegen.data.archive import list_pictures
from facegen.data.celeba import read_celeba
from facegen.data.images import decode_photo
from facegen.data.preprocess import Copies, Face, Job, LargeRecipe, Recipe, make_faces, write_faces
from facegen.data.shards import Faces
from facegen.errors import FacegenError
from pipelines.preprocess import require_few_rejects

NUMBER = 150
RECIPE = Recipe(resolution=32, crop="full", crop_size_px=40, max_megapixels=1)


def photo(seed: int) -> bytes:
    """A smooth random JPEG of 44x50 px."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((44, 50), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


PHOTOS = {f"{i:06d}.jpg": photo(i) for i in range(1, NUMBER + 1)}
POINTS = (15, 22, 29, 22, 22, 28, 16, 33, 28, 33)
POINT_NAMES = (
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
)


def make_source(root: Path, photos: dict[str, bytes], *, shuffle: int | None = None, landmarks: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    ids = sorted(photos)
    if shuffle is not None:
        ids = random.Random(shuffle).sample(ids, len(ids))
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as target:
        for id in ids:
            target.writestr(f"img_align_celeba/{id}", photos[id])
    number = {id: int(id[:6]) for id in ids}
    rows = "".join(f"{id} {1 if number[id] % 3 else -1} {1 if number[id] % 2 else -1}\n" for id in ids)
    (root / "list_attr_celeba.txt").write_text(f"{len(ids)}\nMale Smiling\n{rows}")
    (root / "identity_CelebA.txt").write_text("".join(f"{id} {(number[id] + 4) // 5}\n" for id in ids))
    parts = "".join(f"{id} {0 if number[id] <= 100 else 1 if number[id] <= 120 else 2}\n" for id in ids)
    (root / "list_eval_partition.txt").write_text(parts)
    if landmarks:
        marks = "".join(f"{id} {' '.join(str(p + number[id] % 3) for p in POINTS)}\n" for id in ids)
        (root / "list_landmarks_align_celeba.txt").write_text(f"{len(ids)}\n{POINT_NAMES}\n{marks}")
    return root


def prepare(root: Path, out: Path, *, workers: int = 0, recipe: Recipe = RECIPE, rows_per_shard: int = 60) -> dict:
    source = read_celeba(root, attributes="all", val_fraction=0.1, test_fraction=0.1, seed=0)
    return write_faces(source, out, recipe=recipe, rows_per_shard=rows_per_shard, workers=workers, on_face=lambda: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("faces")
    return folder, prepare(make_source(folder / "source", PHOTOS), folder / "out")


def test_every_photograph_becomes_a_face_with_its_labels(faces: tuple[Path, dict]) -> None:
    folder, report = faces
    assert (
        report["faces"] == {"train": 100, "val": 20, "test": 30} and report["rejects"] == [] and report["notes"] == []
    )
    assert report["identities"] == 30 and report["enlarged"] == 0 and report["copies_within_a_split"] == 0
    train = Faces.open(folder / "out", "train")
    assert train.ids == sorted(PHOTOS)[:100] and train.attribute_names == ("Male", "Smiling")
    assert set(train.sources) == {
        "img_align_celeba", "list_attr_celeba", "identity_CelebA", "list_eval_partition", "list_landmarks_align_celeba"
    }  # fmt: skip
    for row in (0, 59, 60, 99):
        marks = np.reshape(POINTS, (5, 2)) + (row + 1) % 3
        image, points, _ = cut_face(
            decode_photo(PHOTOS[train.ids[row]], max_megapixels=1),
            resolution=32, crop="full", crop_size_px=40, landmarks=marks,
        )  # fmt: skip
        assert np.array_equal(train.images([row], threads=1)[0], np.asarray(image))
        assert np.allclose(train.landmarks[row], points)
        assert train.attributes[row].tolist() == [int((row + 1) % 3 > 0), int((row + 1) % 2 > 0)]
        assert train.identity[row] == (row + 5) // 5


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(faces: tuple[Path, dict], tmp_path: Path, workers: int) -> None:
    folder, report = faces
    assert prepare(folder / "source", tmp_path, workers=workers) == report
    assert contents(tmp_path) == contents(folder / "out")


def test_the_order_of_files_and_the_place_change_no_byte(faces: tuple[Path, dict], tmp_path: Path) -> None:
    folder, report = faces
    assert prepare(make_source(tmp_path / "elsewhere", PHOTOS, shuffle=7), tmp_path / "out") == report
    assert contents(tmp_path / "out") == contents(folder / "out")


def test_hash_seed_and_locale_change_no_byte(faces: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = faces
    code = f"""
from facegen.data.celeba import read_celeba
from facegen.data.preprocess import Recipe, write_faces
source = read_celeba({str(folder / "source")!r}, attributes="all", val_fraction=0.1, test_fraction=0.1, seed=0)
recipe = Recipe(resolution=32, crop="full", crop_size_px=40, max_megapixels=1)
write_faces(source, {str(tmp_path)!r}, recipe=recipe, rows_per_shard=60, workers=0, on_face=lambda: None)
"""
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "77", "LC_ALL": "C", "PYTHONPATH": path},
        check=True,
    )
    assert contents(tmp_path) == contents(folder / "out")


def test_landmark_crops_put_every_face_in_its_canonical_place(faces: tuple[Path, dict], tmp_path: Path) -> None:
    recipe = Recipe(resolution=32, crop="landmarks", crop_size_px=40, max_megapixels=1)
    prepare(faces[0] / "source", tmp_path, recipe=recipe)
    val = Faces.open(tmp_path, "val")
    assert np.abs(val.landmarks - canonical_landmarks(32)).max() < 1.5
    assert np.allclose(val.landmarks, val.landmarks[0], atol=1e-3)


def test_landmark_crops_need_landmarks(tmp_path: Path) -> None:
    recipe = Recipe(resolution=32, crop="landmarks", crop_size_px=40, max_megapixels=1)
    root = make_source(tmp_path / "source", PHOTOS, landmarks=False)
    with pytest.raises(ValueError, match="use center or full"):
        prepare(root, tmp_path / "out", recipe=recipe)
    prepare(root, tmp_path / "out")
    assert np.array_equal(Faces.open(tmp_path / "out", "test").landmarks[3], canonical_landmarks(32))


def test_bad_pictures_are_listed_with_their_reasons_and_left_out(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 10000, 10000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(40)
    bad = {
        "000003.jpg": PHOTOS["000003.jpg"][:-200],
        "000010.jpg": b"<html>not found</html>",
        "000064.jpg": b"",
        "000105.jpg": huge,
        "000140.jpg": photo(0)[:20],
    }
    report = prepare(make_source(tmp_path / "source", PHOTOS | bad), tmp_path / "out", workers=2)
    assert [r["id"] for r in report["rejects"]] == list(bad)
    for reject, words in zip(
        report["rejects"], ("truncated", "not a JPEG", "empty", "", "does not decode|not a JPEG"), strict=True
    ):
        assert any(word in reject["reason"] for word in words.split("|")) and "\n" not in reject["reason"]
    assert report["faces"] == {"train": 97, "val": 19, "test": 29}
    train = Faces.open(tmp_path / "out", "train")
    assert len(train) == 97 and not set(bad) & set(train.ids)


def test_a_picture_in_two_splits_is_rejected_where_it_trains(tmp_path: Path) -> None:
    copies = {
        "000002.jpg": PHOTOS["000150.jpg"],
        "000110.jpg": PHOTOS["000149.jpg"],
        "000005.jpg": PHOTOS["000006.jpg"],
    }
    report = prepare(make_source(tmp_path / "source", PHOTOS | copies), tmp_path / "out")
    assert report["rejects"] == [
        {"id": "000002.jpg", "reason": "the same picture as 000150.jpg in test, but listed in train"},
        {"id": "000110.jpg", "reason": "the same picture as 000149.jpg in test, but listed in val"},
    ]
    assert report["copies_within_a_split"] == 1 and report["faces"] == {"train": 99, "val": 19, "test": 30}


def test_copies_are_found_by_pixels() -> None:
    copies = Copies()
    assert copies.of(Face("a", b"1", None, 1.0, None), "test") is None
    assert copies.of(Face("b", b"2", None, 1.0, None), "train") is None
    assert copies.of(Face("c", b"1", None, 1.0, None), "train") == "the same picture as a in test, but listed in train"


def test_the_stage_fails_above_the_allowed_number() -> None:
    rejects = [{"id": f"{i}.jpg", "reason": "the file is empty"} for i in range(7)]
    require_few_rejects(rejects, 7)
    require_few_rejects([], 0)
    with pytest.raises(
        ValueError, match=r"7 photographs .* allows 6\. 0\.jpg: the file is empty; .*4\.jpg.*eval/preprocess"
    ):
        require_few_rejects(rejects, 6)


def test_enlarged_pictures_are_counted(faces: tuple[Path, dict], tmp_path: Path) -> None:
    recipe = Recipe(resolution=64, crop="center", crop_size_px=40, max_megapixels=1)
    assert prepare(faces[0] / "source", tmp_path, recipe=recipe)["enlarged"] == NUMBER


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source", PHOTOS)
    script = tmp_path / "endless.py"
    script.write_text(f"""
import multiprocessing
from facegen.data.archive import list_pictures
from facegen.data.preprocess import Job, Recipe, make_faces
if __name__ == "__main__":
    pictures = list_pictures({str(root / "img_align_celeba.zip")!r})
    jobs = [Job(p, None) for p in pictures.by_name.values()] * 10000
    recipe = Recipe(resolution=32, crop="full", crop_size_px=40, max_megapixels=1)
    for number, _ in enumerate(make_faces(pictures.place, jobs, recipe, workers=2)):
        if number == 0:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
""")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]


def test_a_dead_worker_is_one_clear_error(faces: tuple[Path, dict]) -> None:
    place = faces[0] / "source/img_align_celeba.zip"
    jobs = [Job(picture, None) for picture in list_pictures(place).by_name.values()] * 20
    work = make_faces(place, jobs, RECIPE, workers=1)
    next(work)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(FacegenError, match="a worker process died"):
        list(work)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def prepare_large(root: Path, out: Path, *, resolution: int, num_images: int, seed: int = 0, workers: int = 0) -> dict:
    source = read_celeba(root, attributes="all", val_fraction=0.1, test_fraction=0.1, seed=0)
    return write_faces(
        source, out / "faces", recipe=RECIPE, rows_per_shard=60, workers=workers, on_face=lambda: None,
        large=LargeRecipe(out / "large", resolution, num_images, seed),
    )  # fmt: skip


def test_some_faces_are_cut_larger_too(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source", PHOTOS)
    report = prepare_large(root, tmp_path / "a", resolution=40, num_images=60)
    assert sum(report["large"]["faces"].values()) == 60
    assert report["large"]["resolution"] == 40
    found = 0
    for split in ("train", "val", "test"):
        small, large = Faces.open(tmp_path / "a/faces", split), Faces.open(tmp_path / "a/large", split)
        assert (large.resolution, len(large)) == (40, report["large"]["faces"][split])
        rows = [small.ids.index(id) for id in large.ids]
        assert np.array_equal(small.attributes[rows], large.attributes)
        assert np.array_equal(small.identity[rows], large.identity)
        for row, id in enumerate(large.ids):
            photo = decode_photo(PHOTOS[id], max_megapixels=1)
            marks = np.array(POINTS, dtype=float).reshape(5, 2) + int(id[:6]) % 3
            image, points, _ = cut_face(photo, resolution=40, crop="full", crop_size_px=40, landmarks=marks)
            assert np.array_equal(large.images(np.array([row]), threads=1)[0], np.asarray(image))
            assert np.allclose(large.landmarks[row], points)
            found += 1
    assert found == 60


def test_which_faces_are_large_depends_on_the_seed_alone(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source", PHOTOS)
    for name, options in {"a": {}, "b": {"workers": 2}, "c": {"seed": 1}}.items():
        prepare_large(root, tmp_path / name, resolution=40, num_images=60, **options)
    assert contents(tmp_path / "a/large") == contents(tmp_path / "b/large")
    ids = [set(Faces.open(tmp_path / name / "large", "train").ids) for name in ("a", "c")]
    assert ids[0] != ids[1]


def test_photographs_with_too_few_pixels_are_not_enlarged_for_it(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source", PHOTOS)  # 44 x 50 px
    assert sum(prepare_large(root, tmp_path / "a", resolution=44, num_images=999)["large"]["faces"].values()) == NUMBER
    report = prepare_large(root, tmp_path / "b", resolution=45, num_images=999)
    assert report["large"]["faces"] == {"train": 0, "val": 0, "test": 0}
    assert sum(report["faces"].values()) == NUMBER
    assert len(Faces.open(tmp_path / "b/large", "train")) == 0
