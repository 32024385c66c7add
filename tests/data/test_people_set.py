"""Sets of synthetic people: what is written is what we, pandas, Hugging Face and preprocess read, byte for byte."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from facegen.data import people_set
from facegen.data.people import is_folder_per_person, read_people
from facegen.data.people_set import PeopleRows, PeopleSet, encoded, people_writer, write_image_folder, write_people
from facegen.data.preprocess import Recipe, write_faces
from facegen.data.shards import Faces
from facegen.errors import DamagedArtifactError

SIDE = 16


def _pictures(num: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, SIDE, SIDE, 3), dtype=np.uint8)


def _rows(people: int = 3, each: int = 4, *, method: list[str] | None = None) -> PeopleRows:
    num = people * each
    return PeopleRows(
        identity=np.repeat(np.arange(people), each),
        number=np.tile(np.arange(each), people),
        candidate=np.repeat(np.arange(people) * 2, each),
        seeds=np.arange(num) * (1 << 58),
        switch=np.linspace(0.1, 1, num),
        evaluations=np.arange(num) + 50,
        pngs=encoded(_pictures(num)),
        method=method,
    )


def _part(rows: PeopleRows, start: int, stop: int) -> PeopleRows:
    cut = slice(start, stop)
    return PeopleRows(
        rows.identity[cut], rows.number[cut], rows.candidate[cut], rows.seeds[cut], rows.switch[cut],
        rows.evaluations[cut], rows.pngs[cut],
    )  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    rows = _rows()
    write_people(tmp_path / "people.parquet", rows, resolution=SIDE, about={"plan": "x"})
    people = PeopleSet.open(tmp_path / "people.parquet")
    assert len(people) == 12 and people.resolution == SIDE and people.about["plan"] == "x"
    assert people.ids[5] == "000001/0001" and people.number.tolist() == [0, 1, 2, 3] * 3
    assert people.identity.tolist() == np.repeat([0, 1, 2], 4).tolist() and people.identity.dtype == np.int32
    assert people.candidate.tolist() == np.repeat([0, 2, 4], 4).tolist()
    assert people.seeds.tolist() == rows.seeds.tolist() and people.evaluations.tolist() == rows.evaluations.tolist()
    assert np.array_equal(people.switch, rows.switch.astype(np.float32))
    assert people.methods == [] and set(people.method) == {""}
    assert np.array_equal(people.images(), _pictures(12))


def test_pictures_in_any_order_across_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_set, "ROW_GROUP", 5)
    write_people(tmp_path / "p.parquet", _rows(), resolution=SIDE)
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    people, wanted = PeopleSet.open(tmp_path / "p.parquet"), [11, 0, 4, 5, 5, 10]
    assert np.array_equal(people.images(wanted, threads=3), _pictures(12)[wanted])
    some = people.take([9, 2, 6])
    assert some.ids == ["000002/0001", "000000/0002", "000001/0002"]
    assert np.array_equal(some.images([2, 0]), _pictures(12)[[6, 9]])
    for row in (12, -1):
        with pytest.raises(IndexError, match="there are 12"):
            people.images([row])


def test_methods_are_blocks_of_one_file(tmp_path: Path) -> None:
    one, two = (_rows(2, 2, method=[name] * 4) for name in ("one_stage", "adaptive"))
    two = replace(two, pngs=encoded(_pictures(4, seed=9)))
    with people_writer(tmp_path / "a.parquet", resolution=SIDE, methods=True) as writer:
        writer.add(one)
        writer.add(two)
    both = PeopleSet.open(tmp_path / "a.parquet")
    assert both.methods == ["one_stage", "adaptive"] and len(both) == 8
    assert np.array_equal(both.of("adaptive").images(), _pictures(4, seed=9))
    assert both.of("one_stage").ids == both.of("adaptive").ids
    with pytest.raises(ValueError, match="no method 'fixed'; there are one_stage, adaptive"):
        both.of("fixed")
    with pytest.raises(ValueError, match="holds 2 methods"):
        write_image_folder(tmp_path / "images", both)


def test_bytes_do_not_depend_on_how_many_come_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_set, "ROW_GROUP", 5)
    rows = _rows()
    write_people(tmp_path / "a.parquet", rows, resolution=SIDE)
    with people_writer(tmp_path / "b.parquet", resolution=SIDE) as writer:
        for start, stop in ((0, 1), (1, 7), (7, 12)):
            writer.add(_part(rows, start, stop))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="power"),
        people_writer(tmp_path / "a.parquet", resolution=SIDE) as writer,
    ):
        writer.add(_rows())
        raise RuntimeError("power")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": np.arange(3)}, "lengths disagree"),
        ({"identity": np.full(12, -1)}, "identity from -1"),
        ({"number": np.zeros(12, int)}, "given twice"),
        ({"switch": np.full(12, np.nan)}, "finite"),
        ({"pngs": encoded(np.zeros((12, 8, 8, 3), np.uint8))}, "8, 8"),
        ({"method": ["adaptive"] * 11 + [""]}, "neither has any"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_people(tmp_path / "a.parquet", replace(_rows(), **change), resolution=SIDE)
    assert not (tmp_path / "a.parquet").exists()


def test_pandas_and_datasets_read_it(tmp_path: Path) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    write_people(tmp_path / "a.parquet", _rows(), resolution=SIDE)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert frame["identity"].tolist() == np.repeat([0, 1, 2], 4).tolist()
    png = Image.open(io.BytesIO(frame["image"][3]["bytes"]))
    assert np.array_equal(np.asarray(png), _pictures(12)[3])
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(loaded[7]["image"]), _pictures(12)[7]) and loaded[7]["id"] == "000001/0003"


def test_damaged_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the identities stage"):
        PeopleSet.open(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not so")
    with pytest.raises(DamagedArtifactError, match="not a file of synthetic people"):
        PeopleSet.open(tmp_path / "bad.parquet")
    write_people(tmp_path / "a.parquet", _rows(), resolution=SIDE)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    place = data.find(_rows().pngs[6]) + 60  # inside the compressed pixels of the picture
    data[place] ^= 0xFF
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    people = PeopleSet.open(tmp_path / "a.parquet")
    with pytest.raises(DamagedArtifactError, match="000001/0002"):
        people.images([6])
    table = pq.read_table(tmp_path / "a.parquet").drop_columns(["switch"])
    pq.write_table(table, tmp_path / "other.parquet")
    with pytest.raises(DamagedArtifactError, match="columns"):
        PeopleSet.open(tmp_path / "other.parquet")


def test_preprocess_reads_the_folder_as_people(tmp_path: Path) -> None:
    write_people(tmp_path / "p.parquet", _rows(), resolution=SIDE)
    people, folder = PeopleSet.open(tmp_path / "p.parquet"), tmp_path / "images"
    assert write_image_folder(folder, people, threads=2) == 12
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png")) == [f"{id}.png" for id in people.ids]
    assert is_folder_per_person(folder)
    source = read_people(folder, attributes="all", val_fraction=0, test_fraction=0, seed=0)
    write_faces(
        source, tmp_path / "faces", recipe=Recipe(SIDE, "full", SIDE, 1.0), rows_per_shard=100, workers=0,
        on_face=lambda: None,
    )  # fmt: skip
    faces = Faces.open(tmp_path / "faces", "train")
    assert faces.identity.tolist() == people.identity.tolist()
    assert np.array_equal(faces.images(range(12), threads=1), people.images())


def test_the_folder_is_mended_and_not_rewritten(tmp_path: Path) -> None:
    write_people(tmp_path / "p.parquet", _rows(), resolution=SIDE)
    people, folder = PeopleSet.open(tmp_path / "p.parquet"), tmp_path / "images"
    write_image_folder(folder, people)
    whole, spoilt = folder / "000000/0000.png", folder / "000001/0001.png"
    before = whole.stat().st_mtime_ns
    spoilt.write_bytes(b"")
    write_image_folder(folder, people)
    assert whole.stat().st_mtime_ns == before and spoilt.read_bytes() == people.pngs([5])[0]
