"""The stage of verification at toy size, and what it trains on: pictures without landmarks, as many real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.artifacts import read_json, sha256_file, write_json
from facegen.config import load_params
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.images import encode_png
from facegen.data.pair_bins import write_pair_bin
from facegen.data.people_set import PeopleRows, PeopleSet, write_people
from facegen.data.shards import Faces
from facegen.errors import StoppedError
from facegen.metrics.verification import verification_report
from facegen.rng import numpy_generator
from facegen.train.recognizer import (
    RecognizerLearner,
    UnmarkedPictures,
    as_many_pictures,
    mean_landmarks,
)
from pipelines.stage import Stage
from pipelines.verify import run
from tests.train.test_recognizer import CPU, SIDE, recipe, recognizer, write_faces

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def write_synthetic(folder, people: range, pictures: int) -> None:
    """Synthetic people of the toy kind: pictures of `write_faces`, under other labels."""
    write_faces(folder / "made", "train", people, pictures)
    made = Faces.open(folder / "made", "train")
    n = len(made)
    zeros = np.zeros(n, np.int64)
    rows = PeopleRows(
        np.arange(n) // pictures, np.arange(n) % pictures, zeros, np.arange(n), zeros.astype(np.float32), zeros,
        [made.png(i) for i in range(n)],
    )  # fmt: skip
    (folder / "eval/identities").mkdir(parents=True)
    write_people(folder / "eval/identities/people.parquet", rows, resolution=SIDE)


def toy_stage(folder, **changes) -> Stage:
    params = load_params(PARAMS)
    small = dict(width=8, embedding_size=16, total_images=128, batch_size=16, learning_rate=5e-3, scale=16.0)
    verify = params.verify.model_copy(update={**small, **changes})
    machine = params.machine.model_copy(update={"threads": 1, "device": "cpu"})
    base = params.base.model_copy(update={"precision": "fp32"})
    params = params.model_copy(update={"verify": verify, "machine": machine, "base": base})
    return Stage(
        name="verify", params=params, root=folder, home=folder, key="k", scratch=folder / "scratch", parameters={},
        inputs={}, tracker=None,
    )  # fmt: skip


def test_as_many_pictures_of_as_many_people():
    rng = np.random.default_rng(0)
    identity = rng.permutation(np.repeat([3, 5, 8, 9, 11, -1], [6, 6, 2, 9, 4, 7]))
    rows = as_many_pictures(identity, np.array([4, 4, 4]), rng=np.random.default_rng(1))
    people, counts = np.unique(identity[rows], return_counts=True)
    assert counts.tolist() == [4, 4, 4] and set(people) <= {3, 5, 9, 11} and (np.diff(rows) > 0).all()
    drawn = {
        tuple(np.unique(identity[as_many_pictures(identity, np.array([4, 4]), rng=np.random.default_rng(s))]))
        for s in range(40)
    }
    assert len(drawn) == 6  # every two of the four that have enough
    mixed = as_many_pictures(identity, np.array([2, 9, 4]), rng=np.random.default_rng(1))
    assert sorted(np.unique(identity[mixed], return_counts=True)[1].tolist()) == [2, 4, 9]
    assert (identity[mixed] == 9).sum() == 9  # the only one that has so many
    few = as_many_pictures(identity, np.array([8] * 9), rng=np.random.default_rng(1))
    assert sorted(np.unique(identity[few], return_counts=True)[1].tolist()) == [
        2,
        4,
        6,
        6,
        8,
    ]  # all five, what they have
    assert len(as_many_pictures(np.array([-1, -1]), np.array([2]), rng=rng)) == 0


def test_pictures_without_landmarks_are_trained_on_by_the_mean_ones(tmp_path):
    marked = write_faces(tmp_path, "train", range(5), 4)
    mean = mean_landmarks(marked.faces.landmarks, resolution=SIDE)
    rows = np.array([1, 4, 5, 12, 13, 19])
    data = UnmarkedPictures(marked.faces, rows, mean=mean, device=CPU, threads=1)
    learner = RecognizerLearner(recognizer(), data, recipe(64))
    assert np.array_equal(learner.mean_landmarks, mean)
    assert torch.equal(learner.matrices[0], learner.matrices[1])  # both kinds of alignment are the mean one
    reference = RecognizerLearner(recognizer(), marked, recipe(64))
    assert torch.allclose(learner.matrices[0, 0], reference.matrices[1, 0], atol=1e-6)
    assert learner.people.tolist() == [0, 1, 1, 2, 2, 3]
    flags = torch.tensor([False, True, True])
    chosen = torch.tensor([5, 0, 3])
    assert torch.equal(data.images(chosen, flags), marked.images(torch.from_numpy(rows)[chosen], flags))
    data.resident = None  # a set that is too large for memory is decoded batch by batch
    assert torch.equal(data.images(chosen, flags), marked.images(torch.from_numpy(rows)[chosen], flags))


def test_synthetic_people_and_faces_train_alike(tmp_path):
    """The same pictures under both kinds of label give the same batches."""
    write_synthetic(tmp_path, range(4), 4)
    faces = Faces.open(tmp_path / "made", "train")
    people = PeopleSet.open(tmp_path / "eval/identities/people.parquet")
    mean = mean_landmarks(faces.landmarks, resolution=SIDE)
    one, two = (
        RecognizerLearner(
            recognizer(), UnmarkedPictures(source, np.arange(16), mean=mean, device=CPU, threads=1), recipe(64)
        ).batch(16, 16)
        for source in (faces, people)
    )
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.fixture(scope="module")
def verified_folder(tmp_path_factory):
    """A project in which the stage has run: 24 synthetic people, 30 real ones, benchmarks."""
    folder = tmp_path_factory.mktemp("project")
    for split, people in {"train": range(30), "val": range(40, 46), "test": range(50, 66)}.items():
        write_faces(folder / "data/faces", split, people, 6)
    write_synthetic(folder, range(100, 124), 5)
    test = Faces.open(folder / "data/faces", "test")
    large = test.images(range(96), threads=1).repeat(4, axis=1).repeat(4, axis=2)[:, 8:120, 8:120]
    pngs = [encode_png(image) for image in large]
    same = np.arange(40) % 2 == 0
    second = np.where(same, np.arange(40) * 2 // 6 * 6 + 5, (np.arange(40) * 2 + 48) % 96)
    (folder / "pairs").mkdir()
    pairs = [pngs[i] for i in np.stack([np.arange(40) * 2 % 96, second % 96], axis=1).ravel()]
    write_pair_bin(folder / "pairs/toy.bin", pairs, same)
    run(toy_stage(folder, benchmarks="pairs"))
    return folder


def test_the_stage_trains_two_recognisers_that_verify(verified_folder):
    report = read_json(verified_folder / "eval/verification.json")
    assert report["synthetic"]["trained_on"] == {"people": 24, "pictures": 120}
    assert report["real"]["trained_on"] == {"people": 24, "pictures": 120}
    accuracy = {name: report[name]["accuracy"]["value"] for name in ("synthetic", "real", "untrained")}
    test = Faces.open(verified_folder / "data/faces", "test")
    for name in ("synthetic", "real"):  # judged again from what is on disk
        embedder = FaceEmbedder.load(verified_folder / f"data/models/recognizer-{name}", threads=1)
        vectors = embedder.embed(test.images(range(96), threads=1), None, flip=True)
        again = verification_report(vectors, test.identity, rng=numpy_generator(0, "recognizer pairs"))
        assert {key: report[name][key] for key in again} == again
    assert len(set(accuracy.values())) == 3 and min(accuracy.values()) > 0.7
    for name in accuracy:
        assert report[name]["people"] == 16 and report[name]["pictures"] == 96 and report[name]["folds"] == 8
    ratio = report["above_chance_ratio"]
    assert ratio["value"] == pytest.approx((accuracy["synthetic"] - 0.5) / (accuracy["real"] - 0.5), abs=0.02)
    assert ratio["low"] < ratio["value"] < ratio["high"] and ratio["n"] == 16
    assert set(report["benchmarks"]) == {"toy"} and set(report["benchmarks"]["toy"]) == set(accuracy)
    assert report["benchmarks"]["toy"]["real"]["sha256"] == sha256_file(verified_folder / "pairs/toy.bin")
    assert report["benchmarks"]["toy"]["real"]["pairs"] == 40


def test_the_same_pictures_give_the_same_recogniser(tmp_path):
    """Nothing but the pictures differs: weights, order, variation and schedule are those of both."""
    for split, people in (("train", range(6)), ("val", range(10, 12)), ("test", range(20, 26))):
        write_faces(tmp_path / "data/faces", split, people, 4)
    write_synthetic(tmp_path, range(6), 4)
    run(toy_stage(tmp_path, total_images=32))
    files = [tmp_path / f"data/models/recognizer-{name}/recognizer.onnx" for name in ("synthetic", "real")]
    assert sha256_file(files[0]) == sha256_file(files[1])
    report = read_json(tmp_path / "eval/verification.json")
    assert report["synthetic"] == report["real"] != report["untrained"]
    assert report["above_chance_ratio"] in (None, {"value": 1.0, "low": 1.0, "high": 1.0, "n": 6})


def test_their_folders_are_those_of_recognisers(verified_folder):
    digests = set()
    for name in ("synthetic", "real"):
        folder = verified_folder / f"data/models/recognizer-{name}"
        embedder = FaceEmbedder.load(folder, threads=1)
        about = read_json(folder / "recognizer.json")
        assert available(folder) and (embedder.dim, embedder.input_size) == (16, 112)
        assert embedder.thresholds["1e-2"] <= 1 and about["threshold_from"]["1e-2"] == "val"
        report = read_json(verified_folder / "eval/verification.json")[name]
        assert read_json(folder / "accuracy.json") == {k: v for k, v in report.items() if k != "trained_on"}
        assert {"config.json", "diffusion_pytorch_model.safetensors", "log.csv"} <= {p.name for p in folder.iterdir()}
        digests.add(embedder.sha256)
    assert len(digests) == 2


def test_equal_inputs_give_equal_bytes_even_when_stopped(verified_folder, tmp_path):
    before = {
        path.relative_to(verified_folder): sha256_file(path)
        for path in [*verified_folder.glob("data/models/*/*.onnx"), verified_folder / "eval/verification.json"]
    }
    again = tmp_path / "again"
    again.mkdir()
    for name in ("data/faces", "eval/identities", "pairs"):
        (again / name).parent.mkdir(parents=True, exist_ok=True)
        (again / name).symlink_to(verified_folder / name)
    stopped = toy_stage(again, benchmarks="pairs")
    logged = []

    def stop_in_the_second_training(metrics, *, step):
        logged.append(set(metrics))
        if "real/loss" in metrics and step > 60:
            stopped.stop.set()

    stopped.log = stop_in_the_second_training
    with pytest.raises(StoppedError):
        run(stopped)
    assert {"synthetic/loss", "real/loss"} <= set().union(*logged)
    run(toy_stage(again, benchmarks="pairs"))
    assert {path: sha256_file(again / path) for path in before} == before


def test_without_people_the_stage_says_so(tmp_path, capfd):
    for split in ("train", "val", "test"):
        write_faces(tmp_path / "data/faces", split, range(3), 2, known=False)
    (tmp_path / "eval/identities").mkdir(parents=True)
    write_json(tmp_path / "eval/identities/people.json", {"absent": "there is no recogniser"})
    run(toy_stage(tmp_path))
    assert read_json(tmp_path / "eval/verification.json") == {"absent": "there is no recogniser"}
    for name in ("synthetic", "real"):
        assert not available(tmp_path / f"data/models/recognizer-{name}")
    assert capfd.readouterr().err.count("nothing to verify") == 1


def test_wrong_benchmarks_cost_no_training(tmp_path):
    write_faces(tmp_path / "data/faces", "train", range(3), 2)
    write_synthetic(tmp_path, range(100, 103), 2)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/lfw.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"lfw\.bin.*os\.system"):
        run(toy_stage(tmp_path, benchmarks="pairs"))
    assert not (tmp_path / "scratch").exists()


def test_a_test_split_without_pairs_is_said_and_the_models_stay(tmp_path, capfd):
    for split, people, pictures in (("train", range(6), 4), ("val", range(10, 12), 2), ("test", range(20, 24), 1)):
        write_faces(tmp_path / "data/faces", split, people, pictures)
    write_synthetic(tmp_path, range(100, 108), 5)
    run(toy_stage(tmp_path, total_images=32))
    report = read_json(tmp_path / "eval/verification.json")
    assert report["synthetic"]["trained_on"] == {"people": 8, "pictures": 40}
    assert report["real"]["trained_on"] == {"people": 6, "pictures": 24}
    assert "no person has two pictures" in report["real"]["absent"] and report["above_chance_ratio"] is None
    assert available(tmp_path / "data/models/recognizer-real")
    said = capfd.readouterr().err
    assert (
        "not verified" in said and "8 synthetic people with 40 pictures are compared with 6 real ones with 24" in said
    )
