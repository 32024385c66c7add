"""Faces shards: what is written is read back, by us, by pandas and by Hugging Face; equal rows give equal bytes."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.errors import DamagedArtifactError

NAMES = ("Male", "Smiling", "Bald")
SIDE = 16


def make_rows(number: int, seed: int = 0) -> list[tuple[str, np.ndarray, np.ndarray, int, np.ndarray]]:
    draw = np.random.default_rng(seed)
    return [
        (
            f"{i:06d}.jpg",
            draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
            draw.integers(-1, 2, 3).astype(np.int8),
            int(draw.integers(-1, 50)),
            draw.uniform(0, SIDE, (5, 2)).astype(np.float32),
        )
        for i in range(number)
    ]


def write(folder: Path, rows: list, *, split: str = "train", rows_per_shard: int = 400) -> Path:
    writer = FacesWriter(
        folder,
        split,
        resolution=SIDE,
        attribute_names=NAMES,
        sources={"pictures": "ab" * 32},
        rows_per_shard=rows_per_shard,
    )
    with writer:
        for id, pixels, states, identity, points in rows:
            writer.add(id, encode_png(pixels), states, identity, points)
    return folder


@pytest.fixture(scope="module")
def rows() -> list:
    return make_rows(1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: list) -> Path:
    return write(tmp_path_factory.mktemp("faces"), rows)


def test_everything_written_is_read_back(folder: Path, rows: list) -> None:
    faces = Faces.open(folder, "train")
    assert len(faces) == 1000 and faces.resolution == SIDE and faces.attribute_names == NAMES
    assert faces.sources == {"pictures": "ab" * 32}
    assert faces.ids == [row[0] for row in rows]
    assert faces.attributes.dtype == np.int8 and np.array_equal(faces.attributes, np.stack([r[2] for r in rows]))
    assert faces.identity.dtype == np.int32 and faces.identity.tolist() == [row[3] for row in rows]
    assert faces.landmarks.dtype == np.float32 and np.array_equal(faces.landmarks, np.stack([r[4] for r in rows]))
    assert np.array_equal(faces.images(np.arange(1000), threads=2), np.stack([row[1] for row in rows]))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_pictures_come_in_the_order_asked_for(folder: Path, rows: list, threads: int) -> None:
    wanted = [999, 0, 255, 256, 399, 400, 401, 0, 655, 656]  # around the ends of row groups and shards
    pictures = Faces.open(folder, "train").images(wanted, threads=threads)
    assert np.array_equal(pictures, np.stack([rows[i][1] for i in wanted]))


def test_shards_and_row_groups_have_the_sizes_of_the_contract(folder: Path) -> None:
    files = sorted(folder.glob("*"))
    assert [f.name for f in files] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    groups = [[m.row_group(i).num_rows for i in range(m.num_row_groups)] for m in map(pq.read_metadata, files)]
    assert groups == [[256, 144], [256, 144], [200]]
    meta = pq.read_metadata(files[0]).row_group(0)
    codecs = {meta.column(i).path_in_schema: meta.column(i).compression for i in range(meta.num_columns)}
    assert codecs.pop("image.bytes") == "UNCOMPRESSED" and set(codecs.values()) == {"ZSTD"}


def test_pandas_reads_the_columns(folder: Path, rows: list) -> None:
    frame = pd.read_parquet(folder / "train-00001.parquet")
    assert list(frame.columns) == ["id", "image", "attributes", "identity", "landmarks"]
    row = frame.iloc[3]
    assert row["id"] == rows[403][0] and row["identity"] == rows[403][3]
    assert row["attributes"].tolist() == rows[403][2].tolist()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), rows[403][1])
    assert row["image"]["path"] == "000403.png"


def test_hugging_face_reads_images(folder: Path, rows: list, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted(str(f) for f in folder.glob("*.parquet"))
    loaded = datasets.load_dataset("parquet", data_files={"train": files}, cache_dir=str(tmp_path))["train"]
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["attributes"].length == 3 and loaded.features["landmarks"].length == 10
    assert len(loaded) == 1000
    assert np.array_equal(np.asarray(loaded[700]["image"]), rows[700][1])
    assert loaded[700]["attributes"] == rows[700][2].tolist()


def test_equal_rows_give_equal_bytes(folder: Path, tmp_path: Path, rows: list) -> None:
    write(tmp_path, rows)
    for name in ("train-00000.parquet", "train-00002.parquet"):
        first, second = (hashlib.sha256((f / name).read_bytes()).digest() for f in (folder, tmp_path))
        assert first == second


def test_pictures_are_read_without_their_row_group(folder: Path) -> None:
    faces = Faces.open(folder, "train")
    faces.png(300)
    assert [offsets is not None for offsets in faces._offsets] == [False, True, False, False, False]


def test_an_empty_split_is_a_shard_without_rows(tmp_path: Path) -> None:
    faces = Faces.open(write(tmp_path, [], split="val"), "val")
    assert len(faces) == 0 and faces.attributes.shape == (0, 3) and faces.landmarks.shape == (0, 5, 2)
    assert faces.images([], threads=1).shape == (0, SIDE, SIDE, 3)


def test_faces_without_attributes(tmp_path: Path, rows: list) -> None:
    about = dict(resolution=SIDE, attribute_names=(), sources={}, rows_per_shard=400)
    with FacesWriter(tmp_path, "train", **about) as writer:  # type: ignore[arg-type]
        for id, pixels, _, identity, points in rows[:500]:
            writer.add(f"s{identity % 3}/{id}", encode_png(pixels), np.empty(0, np.int8), identity, points)
        with pytest.raises(ValueError, match="expected 0 of"):
            writer.add("x.png", encode_png(pixels), np.array([1]), 0, points)
    FacesWriter(tmp_path, "val", **about).close()  # type: ignore[arg-type]
    faces = Faces.open(tmp_path, "train")
    assert faces.attributes.shape == (500, 0) and faces.attributes.dtype == np.int8 and faces.attribute_names == ()
    assert faces.identity.tolist() == [row[3] for row in rows[:500]]
    assert np.array_equal(faces.landmarks, np.stack([r[4] for r in rows[:500]]))
    assert np.array_equal(faces.images([499, 3], threads=1), np.stack([rows[499][1], rows[3][1]]))
    assert Faces.open(tmp_path, "val").attributes.shape == (0, 0)
    frame = pd.read_parquet(tmp_path / "train-00000.parquet")
    assert list(frame.columns) == ["id", "image", "identity", "landmarks"]
    assert frame["image"][7]["path"] == f"s{rows[7][3] % 3}/000007.png"
    datasets = pytest.importorskip("datasets")
    files = str(tmp_path / "train-00000.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(loaded[7]["image"]), rows[7][1])


def test_a_missing_split_and_a_missing_shard_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val-NNNNN\.parquet; run the preprocess stage"):
        Faces.open(folder, "val")
    for name in ("train-00000.parquet", "train-00002.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DamagedArtifactError, match=r"train-00001\.parquet is missing"):
        Faces.open(tmp_path, "train")


def test_shards_of_other_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, make_rows(3))
    (tmp_path / "train-00001.parquet").write_bytes((tmp_path / "train-00000.parquet").read_bytes())
    assert len(Faces.open(tmp_path, "train")) == 6
    (tmp_path / "train-00001.parquet").write_bytes((folder / "train-00001.parquet").read_bytes())
    assert len(Faces.open(tmp_path, "train")) == 403
    other = FacesWriter(tmp_path / "x", "train", resolution=SIDE, attribute_names=("A",), sources={}, rows_per_shard=9)
    other.close()
    (tmp_path / "x/train-00000.parquet").rename(tmp_path / "train-00001.parquet")
    with pytest.raises(DamagedArtifactError, match="other settings"):
        Faces.open(tmp_path, "train")


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign"])
def test_damaged_shards_are_refused(tmp_path: Path, damage: str) -> None:
    shard = write(tmp_path, make_rows(20)) / "train-00000.parquet"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "text":
        shard.write_text("<html>")
    else:
        pd.DataFrame({"a": [1]}).to_parquet(shard)
    with pytest.raises(DamagedArtifactError, match=r"train-00000\.parquet"):
        Faces.open(tmp_path, "train")


def test_a_recompressed_shard_and_a_flipped_length_are_refused(tmp_path: Path) -> None:
    shard = write(tmp_path, make_rows(20)) / "train-00000.parquet"
    whole = shard.read_bytes()
    pq.write_table(pq.read_table(shard), shard, compression="gzip")
    with pytest.raises(DamagedArtifactError, match="not laid out"):
        Faces.open(tmp_path, "train").images([0], threads=1)
    at = whole.find(b"\x89PNG") - 4
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
    with pytest.raises(DamagedArtifactError, match="not laid out"):
        Faces.open(tmp_path, "train").images([3], threads=1)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    shard = write(tmp_path, make_rows(20)) / "train-00000.parquet"
    data = bytearray(shard.read_bytes())
    second = data.find(b"\x89PNG", data.find(b"\x89PNG") + 1)
    data[second + 60 : second + 70] = bytes(10)
    shard.write_bytes(data)
    with pytest.raises(DamagedArtifactError, match=r"000001\.jpg.*run preprocess again"):
        Faces.open(tmp_path, "train").images(range(20), threads=2)


@pytest.mark.parametrize("index", [-1, 1000])
def test_a_row_that_is_not_there_is_an_error(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match="there are 1000"):
        Faces.open(folder, "train").png(index)


def test_a_full_disk_is_said_and_leaves_no_half_shard(tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
import numpy as np
from facegen.data.images import encode_png
from facegen.data.shards import FacesWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
about = dict(resolution=64, attribute_names=["A"], sources={{}}, rows_per_shard=9999)
with FacesWriter({str(tmp_path)!r}, "train", **about) as writer:
    for i in range(600):
        writer.add(str(i), encode_png(noise), np.array([1]), -1, np.zeros((5, 2)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "OSError" in done.stderr and "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


PNG = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))
GOOD = {
    "id": "a",
    "png_bytes": PNG,
    "attributes": np.array([1, 0, -1]),
    "identity": -1,
    "landmarks": np.zeros((5, 2)),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": ""}, "empty or given twice"),
        ({"png_bytes": b"\xff\xd8\xff"}, "not a PNG"),
        ({"png_bytes": encode_png(np.zeros((SIDE, 8, 3), np.uint8))}, "expected 16 square"),
        ({"attributes": np.array([1, 0])}, "expected 3 of"),
        ({"attributes": np.array([1, 0, 2])}, "of -1, 0, 1"),
        ({"identity": -2}, "identity -2"),
        ({"landmarks": np.zeros((4, 2))}, "5 finite"),
        ({"landmarks": np.full((5, 2), np.nan)}, "5 finite"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path: Path, wrong: dict, message: str) -> None:
    with (
        pytest.raises(ValueError, match=message),
        FacesWriter(tmp_path, "test", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=9) as writer,
    ):
        writer.add(**(GOOD | wrong))
    assert not list(tmp_path.iterdir())


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    writer = FacesWriter(tmp_path, "test", resolution=SIDE, attribute_names=NAMES, sources={}, rows_per_shard=1)
    writer.add(**GOOD)
    with pytest.raises(ValueError, match="given twice"):
        writer.add(**GOOD)
