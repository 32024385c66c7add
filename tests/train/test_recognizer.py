"""Training a recogniser: margins in closed form, exact resume, and its stage, on people it has never seen."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.artifacts import read_json, sha256_file
from facegen.config import load_params
from facegen.data.align import CANONICAL
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.models.initialize import draw_weights
from facegen.models.recognizer import FaceRecognizer
from facegen.rng import numpy_generator, torch_generator
from facegen.train.faces import FaceSet
from facegen.train.loop import make_accelerator, train
from facegen.train.recognizer import (
    MarginClassifier,
    RecognizerLearner,
    RecognizerRecipe,
    arcface,
    cosface,
    known_people,
    mean_landmarks,
    vary,
)
from pipelines.recognizer import run
from pipelines.stage import Stage

CPU = torch.device("cpu")
SIDE = 32


def write_faces(folder, split: str, people: range, pictures: int, *, known: bool = True) -> FaceSet:
    """People are four colours in four corners; pictures of one differ by noise, light and landmarks."""
    with FacesWriter(folder, split, resolution=SIDE, attribute_names=["A"], sources={}, rows_per_shard=999) as writer:
        for person in people:
            corners = numpy_generator(0, "person", person).integers(40, 216, (2, 2, 3))
            for picture in range(pictures):
                rng = numpy_generator(0, "picture", person, picture)
                image = np.repeat(np.repeat(corners, SIDE // 2, axis=0), SIDE // 2, axis=1) + rng.integers(-15, 16)
                image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
                points = CANONICAL * SIDE - 0.5 + rng.normal(0, 0.7, (5, 2))
                identity = 3 * person if known else -1
                writer.add(f"{person}-{picture}", encode_png(image), np.zeros(1), identity, points)
    return FaceSet(Faces.open(folder, split), device=CPU, threads=1)


def recipe(total_images: int, margin: str = "cosface") -> RecognizerRecipe:
    return RecognizerRecipe(
        seed=0, name="judge", margin=margin, margin_size=0.3, scale=16.0, total_images=total_images,
        learning_rate=3e-3, weight_decay=0.01,
    )  # fmt: skip


def recognizer() -> FaceRecognizer:
    made = FaceRecognizer(width=8, depths=[1, 1, 1, 1], stem_stride=2, embedding_size=16)
    draw_weights(made, torch_generator(0, "weights"))
    return made


def train_on(learner, scratch, *, stop_at: int | None = None) -> None:
    stop = threading.Event()

    def on_log(record, _):
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        learner, total_images=learner.recipe.total_images, batch_size=16, scratch=scratch, identity={}, log_images=16,
        checkpoint_images=10**6, checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32),
        on_log=on_log, stop=stop,
    )  # fmt: skip


def test_arcface_is_the_cosine_of_a_larger_angle_with_its_gradient():
    theta = torch.linspace(0.05, math.pi - 0.55, 50, dtype=torch.float64)
    cosines = theta.cos().requires_grad_(True)
    moved = arcface(cosines, 0.5)
    moved.sum().backward()
    assert torch.allclose(moved, (theta + 0.5).cos())
    assert torch.allclose(cosines.grad, (theta + 0.5).sin() / theta.sin())  # d cos(theta + m) / d cos(theta)
    assert torch.equal(cosface(cosines, 0.5), cosines - 0.5)


def test_arcface_falls_in_theta_everywhere_and_has_no_jump():
    theta = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    moved = arcface(theta.cos(), 0.5)
    steps = moved.diff()
    assert (steps <= 0).all() and steps.min() > -1e-3
    extremes = torch.tensor([-1.0, 1.0], requires_grad=True)
    arcface(extremes, 0.5).sum().backward()
    assert torch.isfinite(extremes.grad).all()


@pytest.mark.parametrize("margin", ["arcface", "cosface"])
def test_only_ones_own_logit_has_the_margin(margin):
    made = MarginClassifier(
        recognizer().eval(), num_people=4, margin=margin, margin_size=0.3, scale=16.0,
        generator=torch_generator(0, "centres"),
    ).eval()  # fmt: skip
    images = torch.rand(3, 3, 112, 112, generator=torch_generator(0, "images")) * 2 - 1
    logits, plain = made(images, torch.tensor([2, 0, 2]))
    vectors = torch.nn.functional.normalize(made.recognizer(images))
    cosines = vectors @ torch.nn.functional.normalize(made.centres).T
    assert torch.allclose(plain, 16 * cosines, atol=1e-5)
    moved = torch.isclose(logits, plain, atol=1e-6).logical_not()
    assert moved.nonzero().tolist() == [[0, 2], [1, 0], [2, 2]]
    expected = (cosines.acos() + 0.3).cos() if margin == "arcface" else cosines - 0.3
    assert torch.allclose(logits[moved], 16 * expected[moved], atol=1e-4)


def test_only_known_people_count_and_are_renumbered():
    rows, people = known_people(np.array([7, -1, 3, 7, -1, 12]))
    assert rows.tolist() == [0, 2, 3, 5] and people.tolist() == [1, 0, 1, 2]
    for few in (np.array([-1, -1]), np.array([4, 4, -1])):
        with pytest.raises(ValueError, match="at least 2"):
            known_people(few)


def test_mean_landmarks_are_fractions_of_the_side():
    points = np.stack([CANONICAL * 64 - 0.5 + 1, CANONICAL * 64 - 0.5 - 1])
    assert np.allclose(mean_landmarks(points, resolution=64), CANONICAL, atol=1e-6)


def test_the_mirror_is_that_of_the_crop():
    matrices = torch.tensor([[[1.5, 0.2, 3], [-0.2, 1.5, 9]]], dtype=torch.float64).repeat(2, 1, 1)
    varied = [
        vary(matrices, torch.tensor([True, flag]), torch_generator(0, "same")) for flag in (False, True)
    ]  # the same zoom and shift twice
    points = torch.tensor([[4.0, 30.0, 1.0], [50.0, 2.0, 1.0]], dtype=torch.float64).T
    plain, mirrored = varied[0][1] @ points, varied[1][1] @ points
    assert torch.allclose(mirrored[0], 111 - plain[0]) and torch.allclose(mirrored[1], plain[1])
    assert torch.equal(varied[0][0], varied[1][0])
    shift = (plain - matrices[0] @ points).abs().max()
    assert 0 < shift < 3 + 0.06 * 112


def test_batches_hold_both_alignments_and_depend_on_the_position_alone(tmp_path):
    data = write_faces(tmp_path, "train", range(4), 4)
    one, two = (RecognizerLearner(recognizer(), data, recipe(64)) for _ in range(2))
    two.batch(48, 16)
    for a, b in zip(one.batch(16, 16), two.batch(16, 16), strict=True):
        assert torch.equal(a, b)
    images, people = one.batch(0, 16)  # an epoch: every picture once
    assert images.shape == (16, 3, 112, 112) and images.min() >= -1 and images.max() <= 1
    assert torch.bincount(people).tolist() == [4, 4, 4, 4]
    own, of_mean = one.matrices
    assert torch.equal(of_mean[0], of_mean[9]) and not torch.allclose(own[0], own[9], atol=1e-3)


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    data = write_faces(tmp_path, "train", range(6), 4)
    whole = RecognizerLearner(recognizer(), data, recipe(192))
    train_on(whole, tmp_path / "whole")
    killed = RecognizerLearner(recognizer(), data, recipe(192))
    with pytest.raises(Exception, match="goes on from there"):
        train_on(killed, tmp_path / "killed", stop_at=80)
    again = RecognizerLearner(recognizer(), data, recipe(192))
    train_on(again, tmp_path / "killed")
    for (name, a), (_, b) in zip(
        whole.classifier.state_dict().items(), again.classifier.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert torch.equal(whole.classifier.recognizer.embed_norm.weight, torch.ones(16))  # frozen
    assert not torch.equal(whole.classifier.recognizer.stem.weight, recognizer().stem.weight)


def tiny_stage(folder, **changes) -> Stage:
    """The stage of `recognizer@judge` in a folder whose faces are written, outside DVC."""
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    small = dict(width=8, embedding_size=16, total_images=768, batch_size=16, learning_rate=5e-3, scale=16.0)
    judge = params.recognizer.judge.model_copy(update={**small, **changes})
    recognizers = params.recognizer.model_copy(update={"judge": judge})
    machine = params.machine.model_copy(update={"threads": 1, "device": "cpu"})
    base = params.base.model_copy(update={"precision": "fp32"})
    params = params.model_copy(update={"recognizer": recognizers, "machine": machine, "base": base})
    return Stage(
        name="recognizer@judge", params=params, root=folder, home=folder, key="k", scratch=folder / "scratch",
        parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


def test_the_stage_writes_a_recogniser_that_verifies(tmp_path, capfd):
    for split, people in {"train": range(40), "val": range(40, 48), "test": range(50, 66)}.items():
        write_faces(tmp_path / "data/faces", split, people, 6)
    run(tiny_stage(tmp_path))
    folder = tmp_path / "data/models/recognizer-judge"
    about, accuracy = read_json(folder / "recognizer.json"), read_json(folder / "accuracy.json")
    assert (about["input_size"], about["embedding_size"], about["source"]) == (112, 16, None)
    assert np.allclose(about["mean_landmarks"], CANONICAL, atol=0.02)
    assert about["threshold_from"] == {"1e-2": "val", "1e-3": "val"}
    assert about["thresholds"]["1e-2"] < about["thresholds"]["1e-3"] < 1
    assert accuracy["people"] == 16 and accuracy["pictures"] == 96
    assert accuracy["accuracy"]["value"] > 0.85 and accuracy["auc"]["value"] > 0.93  # untrained: about 0.7 and 0.75
    assert accuracy["aligned_by_landmarks"]["auc"]["value"] > 0.93
    embedder = FaceEmbedder.load(folder, threads=1)
    assert embedder.thresholds == about["thresholds"]
    published(tmp_path, folder, embedder, capfd)


def published(folder, trained, embedder: FaceEmbedder, capfd) -> None:
    """The trained network stands for a published one: copied as it is, verified with the same figures."""
    accuracy = read_json(trained / "accuracy.json")
    source = folder / "published.onnx"
    source.write_bytes((trained / "recognizer.onnx").read_bytes())
    run(tiny_stage(folder, source=str(source)))
    assert sha256_file(trained / "recognizer.onnx") == embedder.sha256 == sha256_file(source)
    assert read_json(trained / "recognizer.json")["source"] == str(source)
    assert read_json(trained / "accuracy.json") == accuracy
    assert capfd.readouterr().err.count("non-commercial research only") == 1


def test_without_people_there_is_no_recogniser_and_one_note(tmp_path, capfd):
    for split in ("train", "val", "test"):
        write_faces(tmp_path / "data/faces", split, range(3), 2, known=False)
    run(tiny_stage(tmp_path))
    folder = tmp_path / "data/models/recognizer-judge"
    assert "name 0 people" in read_json(folder / "recognizer.json")["absent"]
    assert "name 0 people" in read_json(folder / "accuracy.json")["absent"]
    assert not available(folder)
    assert len([line for line in capfd.readouterr().err.splitlines() if "no recogniser" in line]) == 1
