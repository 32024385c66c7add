"""Latents: round trips through three readers, closed-form statistics, damage, and a stage that resumes by shard."""

import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from facegen.artifacts import write_json
from facegen.data.images import encode_png, to_unit
from facegen.data.latents import STATS, Latents, channel_stats, read_shards, write_shard
from facegen.data.shards import Faces, FacesWriter
from facegen.errors import DamagedArtifactError
from facegen.models.autoencoder import build_autoencoder, encode_moments
from facegen.models.initialize import draw_weights
from facegen.rng import numpy_generator, torch_generator
from pipelines import latents as stage_module

NAMES = ("Male", "Smiling")


def moments(count: int = 5, start: int = 0) -> dict:
    generator = numpy_generator(0, "moments", start)
    return {
        "ids": [f"{start + i:06d}.jpg" for i in range(count)],
        "mean": generator.normal(0.3, 2.0, (count, 2, 3, 4, 4)).astype(np.float32),
        "logvar": generator.normal(-3, 1, (count, 2, 3, 4, 4)).astype(np.float32),
        "attributes": generator.integers(-1, 2, (count, 2)),
        "identity": np.arange(start, start + count) - 1,
        "attribute_names": NAMES,
    }


def write_split(folder, split: str, shards: int = 2) -> list[dict]:
    folder.mkdir(exist_ok=True)
    parts = [moments(5 + number, start=10 * number) for number in range(shards)]
    for number, part in enumerate(parts):
        write_shard(folder / f"{split}-{number:05d}.parquet", **part)
    write_json(folder / STATS, channel_stats(parts[0]["mean"], parts[0]["logvar"]))
    return parts


def test_what_is_written_is_read(tmp_path):
    parts = write_split(tmp_path, "train")
    read = Latents.open(tmp_path, "train")
    assert len(read) == 11
    assert read.mean.shape == (11, 2, 3, 4, 4)
    assert read.mean.dtype == read.logvar.dtype == np.float16
    for name in ("mean", "logvar"):
        expected = np.concatenate([part[name] for part in parts]).astype(np.float16)
        assert np.array_equal(getattr(read, name), expected)
    assert read.ids == [*parts[0]["ids"], *parts[1]["ids"]]
    assert np.array_equal(read.attributes, np.concatenate([part["attributes"] for part in parts]))
    assert np.array_equal(read.identity, np.concatenate([part["identity"] for part in parts]))
    assert read.attributes.dtype == np.int8
    assert read.embedding is None
    assert read.attribute_names == NAMES


def test_an_embedding_column_comes_back(tmp_path):
    embedding = numpy_generator(0, "embedding").normal(size=(5, 7)).astype(np.float32)
    write_shard(tmp_path / "train-00000.parquet", **moments(), embedding=embedding)
    read = read_shards([tmp_path / "train-00000.parquet"])["embedding"]
    assert np.array_equal(read, embedding) and read.dtype == np.float32
    for other in (None, embedding[:, :3]):
        write_shard(tmp_path / "train-00001.parquet", **moments(), embedding=other)
        with pytest.raises(DamagedArtifactError, match="belong together"):
            read_shards([tmp_path / "train-00000.parquet", tmp_path / "train-00001.parquet"])


@pytest.mark.parametrize("wrong", [np.zeros((4, 7)), np.zeros(5), np.full((5, 7), np.nan)])
def test_embeddings_that_do_not_fit_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="embeddings of shape"):
        write_shard(tmp_path / "train-00000.parquet", **moments(), embedding=wrong)
    assert not list(tmp_path.iterdir())


def test_latents_without_attributes(tmp_path):
    part = moments() | {"attributes": np.empty((5, 0), np.int8), "attribute_names": ()}
    write_shard(tmp_path / "train-00000.parquet", **part)
    write_json(tmp_path / STATS, channel_stats(part["mean"], part["logvar"]))
    read = Latents.open(tmp_path, "train")
    assert read.attributes.shape == (5, 0) and read.attributes.dtype == np.int8 and read.attribute_names == ()
    assert read.identity.tolist() == part["identity"].tolist()
    assert "attributes" not in pd.read_parquet(tmp_path / "train-00000.parquet")


def test_pandas_and_datasets_read_the_same_values(tmp_path, monkeypatch):
    part = write_split(tmp_path, "train", shards=1)[0]
    path = tmp_path / "train-00000.parquet"
    table = pd.read_parquet(path)
    assert list(table.columns) == ["id", "mean", "logvar", "mean_mirror", "logvar_mirror", "attributes", "identity"]
    mirror = part["mean"][2, 1].astype(np.float16).ravel()
    assert np.array_equal(table["mean_mirror"][2], mirror)
    assert table["identity"].tolist() == part["identity"].tolist()

    from datasets import load_dataset

    loaded = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["mean"].length == 48
    assert np.array_equal(np.array(loaded.with_format("numpy")[2]["mean_mirror"], np.float16), mirror)


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, **moments())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_statistics_are_those_of_the_sampled_latents():
    part = moments(400)
    stats = channel_stats(part["mean"], part["logvar"])
    noise = numpy_generator(0, "posterior").normal(size=part["mean"].shape)
    z = part["mean"] + np.exp(0.5 * part["logvar"]) * noise
    assert np.allclose(stats["mean"], z.mean((0, 1, 3, 4)), atol=0.01)
    assert np.allclose(stats["std"], z.std((0, 1, 3, 4)), rtol=0.01)
    assert np.array_equal(channel_stats(np.full((2, 2, 1, 1, 1), 3.0), np.zeros((2, 2, 1, 1, 1)))["std"], [1.0])
    by_hand = channel_stats(np.array([0.0, 4.0]).reshape(1, 2, 1, 1, 1), np.full((1, 2, 1, 1, 1), np.log(5.0)))
    assert np.allclose([by_hand["mean"][0], by_hand["std"][0]], [2.0, 3.0])


def test_float16_overflow_and_nan_are_refused(tmp_path):
    part = moments()
    part["mean"][0, 0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="beyond float16"):
        write_shard(tmp_path / "train-00000.parquet", **part)
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the latents stage"):
        Latents.open(tmp_path, "train")
    write_split(tmp_path, "train")
    first, second = tmp_path / "train-00000.parquet", tmp_path / "train-00001.parquet"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedArtifactError, match=second.name):
        Latents.open(tmp_path, "train")
    second.rename(tmp_path / "train-00002.parquet")
    with pytest.raises(DamagedArtifactError, match=r"train-00001\.parquet is missing"):
        Latents.open(tmp_path, "train")
    (tmp_path / "train-00002.parquet").unlink()
    other = moments() | {"attribute_names": ("Male", "Young")}
    write_shard(second, **other)
    with pytest.raises(DamagedArtifactError, match="belong together"):
        Latents.open(tmp_path, "train")
    second.unlink()
    (tmp_path / STATS).write_text(json.dumps({"mean": [0.0, 0, 0], "std": [1.0, 0.0, 1.0]}))
    with pytest.raises(DamagedArtifactError, match="positive std"):
        Latents.open(tmp_path, "train")
    assert first.exists()


class FakeStage:
    """What the latents stage uses of a stage."""

    device, dtype, stop = torch.device("cpu"), torch.float32, threading.Event()

    def __init__(self, root, rows_per_shard: int) -> None:
        self.root, self.scratch, self.figures = root, root / "scratch", {}
        self.scratch.mkdir(exist_ok=True)
        self.params = SimpleNamespace(
            latents=SimpleNamespace(batch_size=3, rows_per_shard=rows_per_shard), machine=SimpleNamespace(threads=1)
        )

    @contextmanager
    def output(self, path):
        (self.root / path).mkdir(parents=True, exist_ok=True)
        yield self.root / path

    def progress(self, items, _desc):
        return items

    def metrics(self, figures):
        self.figures = figures


@pytest.fixture
def pictures(tmp_path):
    """Ten training and three validation pictures, and an autoencoder, in a root folder."""
    for split, count in (("train", 10), ("val", 3)):
        with FacesWriter(
            tmp_path / "data/faces", split, resolution=16, attribute_names=NAMES, sources={}, rows_per_shard=100
        ) as writer:
            for number in range(count):
                image = numpy_generator(0, split, number).integers(0, 256, (16, 16, 3)).astype(np.uint8)
                writer.add(f"{split}{number}", encode_png(image), np.array([1, -1]), number, np.full((5, 2), number))
    vae = build_autoencoder(architecture="kl", channels=[16, 16, 16], layers_per_block=1, latent_channels=3)
    draw_weights(vae, torch_generator(0, "weights"))
    vae.save_pretrained(tmp_path / "data/models/autoencoder")
    return vae.eval()


def test_the_stage_encodes_pictures_and_mirrors_of_both_splits(tmp_path, pictures):
    stage = FakeStage(tmp_path, rows_per_shard=4)
    stage_module.run(stage)
    faces, read = Faces.open(tmp_path / "data/faces", "train"), Latents.open(tmp_path / "data/latents", "train")
    images = to_unit(faces.images(np.arange(10), threads=1))
    with torch.no_grad():
        for side, batch in enumerate((images, images.flip(3))):
            mean, logvar = encode_moments(pictures, batch)
            assert np.allclose(read.mean[:, side], mean.numpy(), atol=2e-3)
            assert np.allclose(read.logvar[:, side], logvar.numpy(), atol=2e-3)
    assert read.ids == faces.ids
    assert np.array_equal(read.attributes, faces.attributes)
    assert np.array_equal(read.identity, faces.identity)
    assert len(list((tmp_path / "data/latents").glob("train-*.parquet"))) == 3
    assert len(Latents.open(tmp_path / "data/latents", "val")) == 3
    assert np.allclose(read.stats["std"], channel_stats(read.mean, read.logvar)["std"])


class MeanColours:
    """An embedder that looks at the pixels and at the landmarks."""

    dim = 13

    def __init__(self) -> None:
        self.sizes = []

    def embed(self, images, landmarks):
        self.sizes.append(len(images))
        assert images.dtype == np.uint8 and landmarks.shape == (len(images), 5, 2)
        vectors = np.concatenate([images.mean((1, 2)) / 255, landmarks.reshape(-1, 10)], axis=1) + 0.1
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_each_picture_gets_its_own_embedding_in_both_splits(tmp_path, pictures):
    embedder = MeanColours()
    stage_module.encode_splits(FakeStage(tmp_path, rows_per_shard=4), embedder)
    assert embedder.sizes == [3, 1, 3, 1, 2, 3]  # shards of 4, batches of 3
    for split in ("train", "val"):
        faces, read = Faces.open(tmp_path / "data/faces", split), Latents.open(tmp_path / "data/latents", split)
        expected = MeanColours().embed(faces.images(np.arange(len(faces)), threads=1), faces.landmarks)
        assert np.array_equal(read.embedding, expected)
        assert len(np.unique(read.embedding, axis=0)) == len(faces)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "data").mkdir()
    for name in ("faces", "models"):
        (plain / "data" / name).symlink_to(tmp_path / "data" / name)
    stage_module.encode_splits(FakeStage(plain, rows_per_shard=4), None)
    without = Latents.open(plain / "data/latents", "train")
    assert without.embedding is None
    assert np.array_equal(without.mean, Latents.open(tmp_path / "data/latents", "train").mean)


def test_the_stage_opens_the_recogniser_that_there_is(tmp_path, pictures, monkeypatch):
    stage_module.run(FakeStage(tmp_path, rows_per_shard=100))
    assert Latents.open(tmp_path / "data/latents", "val").embedding is None
    folder, opened = tmp_path / stage_module.RECOGNIZER, []
    folder.mkdir()
    write_json(folder / "recognizer.json", {"absent": "the data name no people"})
    stage_module.run(FakeStage(tmp_path, rows_per_shard=99))
    assert Latents.open(tmp_path / "data/latents", "val").embedding is None

    class Recogniser(MeanColours):
        @classmethod
        def load(cls, path, *, threads):
            opened.append((path, threads))
            return cls()

    write_json(folder / "recognizer.json", {"source": None})
    for path in (tmp_path / "scratch").iterdir():
        path.unlink()
    monkeypatch.setattr(stage_module, "FaceEmbedder", Recogniser)
    stage_module.run(FakeStage(tmp_path, rows_per_shard=100))
    assert opened == [(folder, 1)]
    assert Latents.open(tmp_path / "data/latents", "val").embedding.shape == (3, 13)


def test_killed_between_shards_it_goes_on_with_the_next(tmp_path, pictures, monkeypatch):
    stage = FakeStage(tmp_path, rows_per_shard=4)
    stage_module.run(stage)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "data/latents").iterdir()}
    for path in stage.scratch.iterdir():
        path.unlink()

    encode, done = stage_module.encode_shard, []

    def dies_after_two(stage, vae, embedder, faces, rows, path):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path.name)
        encode(stage, vae, embedder, faces, rows, path)

    monkeypatch.setattr(stage_module, "encode_shard", dies_after_two)
    with pytest.raises(KeyboardInterrupt):
        stage_module.run(stage)
    assert done == ["train-00000.parquet", "train-00001.parquet"]

    again = []
    monkeypatch.setattr(stage_module, "encode_shard", lambda *a: (again.append(a[-1].name), encode(*a)))
    stage_module.run(stage)
    assert again == ["train-00002.parquet", "val-00000.parquet"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "data/latents").iterdir()} == whole
