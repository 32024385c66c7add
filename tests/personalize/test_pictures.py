"""The file of pictures of given people: what goes in comes out, equal rows give equal bytes, and damage is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facegen.errors import DamagedArtifactError
from facegen.personalize.pictures import Drawn, PictureSet, write_pictures

ROWS = [
    Drawn("class_word", 0.0, "<id:0> smiling", (7,), ((3,),), 11),
    Drawn("mf2d", 0.6, "<id:0> and <id:1>", (7, 9), ((3, 4), (5,)), 2**40),
    Drawn("mf2d", 0.3, "<id:0> and <id:1>", (7, 9), ((3, 4), (5,)), 2**40),
]


def pixels(num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 16, 24, 3), dtype=np.uint8)


def test_a_round_trip(tmp_path: Path) -> None:
    write_pictures(tmp_path / "p.parquet", ROWS, pixels(), about={"alpha": 0.6, "class_word": "a person"})
    found = PictureSet.open(tmp_path / "p.parquet")
    assert found.rows == ROWS
    assert (len(found), found.size, found.methods) == (3, (16, 24), ["class_word", "mf2d"])
    assert (found.about["alpha"], found.about["class_word"]) == (0.6, "a person")
    assert (found.images(threads=2) == pixels()).all()
    assert (found.images([2, 0, 2]) == pixels()[[2, 0, 2]]).all()
    assert pq.read_table(tmp_path / "p.parquet")["references"].to_pylist()[1] == [[3, 4], [5]]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pictures(tmp_path / name, ROWS, pixels())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_that_cannot_be(tmp_path: Path) -> None:
    def write(rows: list[Drawn], images: np.ndarray | None = None) -> None:
        write_pictures(tmp_path / "p.parquet", rows, pixels(len(rows)) if images is None else images)

    with pytest.raises(ValueError, match="1 of 3 rows"):
        write([ROWS[0], ROWS[1], ROWS[0]])
    with pytest.raises(ValueError, match=r"expected uint8 \(1, H, W, 3\)"):
        write(ROWS[:1], pixels(2))
    with pytest.raises(ValueError, match="each needs one"):
        write([Drawn("mf2d", 0.5, "x", (1, 2), ((3,), ()), 0)])
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        write([Drawn("mf2d", 1.5, "x", (1,), ((3,),), 0)])
    assert not (tmp_path / "p.parquet").exists()


def test_a_missing_or_other_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the personalize stage"):
        PictureSet.open(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DamagedArtifactError, match="no file of pictures"):
        PictureSet.open(tmp_path / "p.parquet")
    write_pictures(tmp_path / "p.parquet", ROWS, pixels())
    found = PictureSet.open(tmp_path / "p.parquet")
    with pytest.raises(IndexError, match="there are 3"):
        found.images([3])
