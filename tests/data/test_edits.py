"""Edits: what is written is what pandas, Hugging Face and we read, byte for byte the same each time."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegen.data.edits import EditRows, Edits, write_edits
from facegen.errors import DamagedArtifactError

NAMES = ("Male", "Smiling", "Eyeglasses")
SIDE = 8


def content(num: int = 6, *, seed: int = 0) -> EditRows:
    draw = np.random.default_rng(seed)
    known = draw.integers(0, 2, (num, 3)).astype(np.int8)
    asked = draw.integers(0, 3, num)
    states = known.copy()
    states[np.arange(num), asked] ^= 1
    return EditRows(
        photo=[f"{i // 2:06d}.jpg" for i in range(num)],
        attribute=[NAMES[k] for k in asked],
        state=states[np.arange(num), asked],
        region=["", *["eyes+mouth"] * (num - 1)],
        method=["invert", *["blend"] * (num - 1)],
        seed=draw.integers(0, 2**63 - 1, num),
        states=states,
        known=known,
        evaluations=draw.integers(0, 500, num),
        images=draw.integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8),
        raws=draw.integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8),
        masks=draw.random((num, SIDE, SIDE)) < 0.3,
        attribute_names=NAMES,
    )


def empty() -> EditRows:
    rows = content(1)
    arrays = {name: getattr(rows, name)[:0] for name in ("images", "raws", "masks", "states", "known", "state", "seed")}
    words = dict.fromkeys(("photo", "attribute", "region", "method"), ())
    return replace(rows, **arrays, **words, evaluations=rows.evaluations[:0])


def test_round_trip(tmp_path: Path) -> None:
    rows = content()
    write_edits(tmp_path / "edits.parquet", rows)
    edits = Edits.open(tmp_path / "edits.parquet")
    assert len(edits) == 6 and edits.attribute_names == NAMES and edits.resolution == SIDE
    for name in ("photo", "attribute", "region", "method"):
        assert getattr(edits, name) == getattr(rows, name)
    for name, dtype in {
        "state": np.int8,
        "seed": np.int64,
        "states": np.int8,
        "known": np.int8,
        "evaluations": np.int32,
    }.items():
        found = getattr(edits, name)
        assert found.dtype == dtype and np.array_equal(found, getattr(rows, name))
    assert np.array_equal(edits.images(), rows.images) and np.array_equal(edits.raws(), rows.raws)
    assert np.array_equal(edits.masks(), rows.masks)
    assert np.array_equal(edits.images([4, 1, 1]), rows.images[[4, 1, 1]])
    assert np.array_equal(edits.raws([5]), rows.raws[[5]]) and np.array_equal(edits.masks([2, 0]), rows.masks[[2, 0]])
    assert edits.area.dtype == np.float32 and np.allclose(edits.area, [mask.sum() / 64 for mask in rows.masks])


def test_no_edit_is_a_file_too(tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.parquet", empty())
    edits = Edits.open(tmp_path / "edits.parquet")
    assert len(edits) == 0 and edits.attribute_names == NAMES and edits.states.shape == (0, 3)
    assert edits.images().shape == (0, SIDE, SIDE, 3) and edits.masks().shape == (0, SIDE, SIDE)


def test_equal_edits_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_edits(tmp_path / name, content())
    write_edits(tmp_path / "c", content(seed=1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_pandas_and_datasets_read_it(tmp_path: Path) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    rows = content()
    write_edits(tmp_path / "edits.parquet", rows)
    frame = pandas.read_parquet(tmp_path / "edits.parquet")
    assert frame["method"].tolist() == rows.method and np.array_equal(np.stack(frame["known"]), rows.known)
    mask = Image.open(io.BytesIO(frame["mask"][3]))
    assert mask.mode == "1" and np.array_equal(np.asarray(mask), rows.masks[3])
    read = datasets.Dataset.from_parquet(str(tmp_path / "edits.parquet"), cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(read[2]["image"]), rows.images[2])
    assert np.array_equal(np.asarray(read[5]["raw"]), rows.raws[5]) and read[1]["states"] == rows.states[1].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, "images are float32"),
        ({"raws": np.zeros((6, 8, 9, 3), np.uint8)}, "raws are uint8"),
        ({"masks": np.zeros((6, 8, 8), np.uint8)}, "masks are uint8"),
        ({"masks": np.zeros((5, 8, 8), bool)}, "masks are bool"),
        ({"photo": ["a.jpg"]}, "lengths disagree"),
        ({"photo": [""] * 6}, "id of its photograph"),
        ({"seed": np.arange(5)}, "lengths disagree"),
        ({"states": np.full((6, 3), 2, np.int8)}, "-1, 0 or 1"),
        ({"known": np.zeros((6, 2), np.int8)}, r"known \(6, 2\)"),
        ({"attribute": ["Bald"] * 6}, "one of Male, Smiling, Eyeglasses"),
        ({"state": np.full(6, -1, np.int8)}, "one of Male"),
        ({"state": 1 - content().state}, "disagrees with states"),
    ],
)
def test_edits_that_disagree_are_refused_and_nothing_is_written(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_edits(tmp_path / "edits.parquet", replace(content(), **changes))
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "edits.parquet"
    with pytest.raises(FileNotFoundError, match=r"edits\.parquet is missing; run the edit stage"):
        Edits.open(path)
    write_edits(path, content())
    whole = path.read_bytes()
    for bad in (whole[:-20], whole[:100], b"", b"nothing of the kind"):
        path.write_bytes(bad)
        with pytest.raises(DamagedArtifactError, match=r"edits\.parquet is not an edits file"):
            Edits.open(path)


def test_other_files_and_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "edits.parquet"
    pq.write_table(pa.table({"photo": ["a"]}), path)
    with pytest.raises(DamagedArtifactError, match="not an edits file"):
        Edits.open(path)
    write_edits(path, content())
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["raw"]), path)
    with pytest.raises(DamagedArtifactError, match="of other types"):
        Edits.open(path)
    about = table.schema.metadata[b"facegen"].replace(b'"format":1', b'"format":9')
    assert b'"format":9' in about
    pq.write_table(table.replace_schema_metadata({b"facegen": about}), path)
    with pytest.raises(DamagedArtifactError, match="has format 9, this version reads 1"):
        Edits.open(path)


@pytest.mark.parametrize(("column", "read"), [("image", "images"), ("raw", "raws"), ("mask", "masks")])
def test_a_damaged_picture_is_named_by_its_row(tmp_path: Path, column: str, read: str) -> None:
    path = tmp_path / "edits.parquet"
    write_edits(path, content())
    edits = Edits.open(path)
    pngs = getattr(edits, f"{column}_pngs")
    pngs[3] = pngs[3][:40] + b"x" + pngs[3][41:-9]
    with pytest.raises(DamagedArtifactError, match=r"edit 3 of 000001\.jpg by blend: .*run the edit stage"):
        getattr(edits, read)()
    assert getattr(edits, read)([0, 5]).shape[0] == 2
