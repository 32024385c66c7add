"""Samples: what is written is what pandas, Hugging Face and we read, byte for byte the same each time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facegen.data.samples import read_samples, write_samples
from facegen.errors import DamagedArtifactError

NAMES = ["Male", "Smiling"]


def _content(n: int = 6, *, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "seeds": np.arange(n) // 2,
        "attributes": rng.integers(-1, 2, (n, 2)).astype(np.int8),
        "images_uint8": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
        "sets": ["flip/Smiling"] * (n - 2) + ["prior"] * 2,
        "attribute_names": NAMES,
    }


def test_round_trip_by_set(tmp_path: Path) -> None:
    content = _content()
    write_samples(tmp_path / "a.parquet", **content)
    samples = read_samples(tmp_path / "a.parquet")
    assert samples.attribute_names == tuple(NAMES) and samples.resolution == 8 and len(samples) == 6
    assert np.array_equal(samples.images(), content["images_uint8"])
    assert samples.set_names == ["flip/Smiling", "prior"]
    flip = samples.of("flip/Smiling")
    assert np.array_equal(flip.images(), content["images_uint8"][:4])
    assert np.array_equal(flip.attributes, content["attributes"][:4]) and flip.seeds.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"no set 'flip/Male'; there are flip/Smiling, prior"):
        samples.of("flip/Male")


def test_a_folder_is_read_in_order_of_name(tmp_path: Path) -> None:
    first, second = _content(seed=1), _content(4, seed=2)
    write_samples(tmp_path / "b.parquet", **second)
    write_samples(tmp_path / "a.parquet", **first)
    both = np.concatenate([first["images_uint8"], second["images_uint8"]])
    assert np.array_equal(read_samples(tmp_path).images(), both)


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.parquet", **_content())
    write_samples(tmp_path / "b.parquet", **_content())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_pandas_and_datasets_read_it(tmp_path: Path) -> None:
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    content = _content()
    write_samples(tmp_path / "a.parquet", **content)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert frame["seed"].tolist() == [0, 0, 1, 1, 2, 2] and frame["set"][5] == "prior"
    assert np.array_equal(np.stack(frame["attributes"]), content["attributes"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(frame["image"][3]["bytes"]))), content["images_uint8"][3])
    rows = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert np.array_equal(np.asarray(rows[2]["image"]), content["images_uint8"][2])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images_uint8", np.zeros((6, 8, 8, 3), np.float32), "uint8"),
        ("images_uint8", np.zeros((6, 8, 9, 3), np.uint8), "uint8"),
        ("seeds", [1, 2], "disagree"),
        ("sets", ["prior"], "disagree"),
        ("attribute_names", ["Male"], "disagree"),
        ("attributes", np.full((6, 2), 2), "-1, 0 or 1"),
        ("sets", [""] * 6, "name of its set"),
    ],
)
def test_samples_that_disagree_are_refused_and_nothing_is_written(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_samples(tmp_path / "a.parquet", **{**_content(), key: value})
    assert not list(tmp_path.iterdir())


def test_missing_damaged_and_mixed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the sample stage"):
        read_samples(tmp_path)
    write_samples(tmp_path / "a.parquet", **_content())
    write_samples(tmp_path / "b.parquet", **{**_content(), "attribute_names": ["Male", "Young"]})
    with pytest.raises(DamagedArtifactError, match=r"b\.parquet has other attributes"):
        read_samples(tmp_path)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DamagedArtifactError, match=r"b\.parquet is not a samples file"):
        read_samples(tmp_path)
