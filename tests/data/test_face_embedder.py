"""The embedder on a network whose answer is known: the mean colour of two halves of the crop."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from facegen.artifacts import sha256_file, write_json
from facegen.data.align import CANONICAL
from facegen.data.face_embedder import FaceEmbedder, available, mirrored_landmarks, open_onnx


def write_onnx(path, *, side: int = 112, outputs: int = 1, scale: float = 1.0) -> None:
    """data (N, 3, side, side) -> average over 2 x 2 cells -> (N, 12), times `scale`."""
    cell = [side // 2, side // 2]
    nodes = [
        helper.make_node("AveragePool", ["data"], ["cells"], kernel_shape=cell, strides=cell),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        *(helper.make_node("Mul", ["flat", "scale"], [f"out{k}"], name=f"scaled{k}") for k in range(outputs)),
    ]
    graph = helper.make_graph(
        nodes, "cells",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(f"out{k}", TensorProto.FLOAT, ["N", 12]) for k in range(outputs)],
        [numpy_helper.from_array(np.array(scale, dtype=np.float32), "scale")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "recognizer-judge"
    made.mkdir()
    write_onnx(made / "recognizer.onnx")
    write_json(
        made / "recognizer.json", {"mean_landmarks": CANONICAL.tolist(), "thresholds": {"1e-2": 0.5, "1e-3": 0.7}}
    )
    return made


def faces(count: int, side: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    return np.repeat(np.repeat(coarse, side // 4, axis=1), side // 4, axis=2).astype(np.uint8)


def landmarks(count: int, side: int = 64) -> np.ndarray:
    return CANONICAL * side - 0.5 + np.random.default_rng(1).normal(0, 1.5, (count, 5, 2))


def test_it_is_what_insightface_computes_with_the_same_landmarks(folder):
    from insightface.app.common import Face

    embedder = FaceEmbedder.load(folder, threads=1)
    model = open_onnx(folder / "recognizer.onnx", threads=1)
    images, points = faces(4), landmarks(4)
    mine = embedder.embed(images, points)
    for row in range(4):
        theirs = model.get(np.ascontiguousarray(images[row][..., ::-1]), Face(kps=points[row]))
        assert mine[row] @ theirs / np.linalg.norm(theirs) > 0.9995
    assert mine.dtype == np.float32 and np.allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-6)


def test_the_folder_says_what_it_is(folder):
    embedder = FaceEmbedder.load(folder, threads=1)
    assert (embedder.name, embedder.dim, embedder.input_size) == ("recognizer-judge", 12, 112)
    assert embedder.sha256 == sha256_file(folder / "recognizer.onnx")
    assert embedder.thresholds == {"1e-2": 0.5, "1e-3": 0.7}
    alone = FaceEmbedder.load(folder / "recognizer.onnx", threads=1)
    assert alone.thresholds == {} and alone.sha256 == embedder.sha256


def test_pictures_without_landmarks_have_the_mean_ones(folder):
    embedder = FaceEmbedder.load(folder, threads=1)
    images = faces(3)
    mean = np.repeat((CANONICAL * 64 - 0.5)[None], 3, axis=0)
    assert np.array_equal(embedder.embed(images, None), embedder.embed(images, mean))
    assert not np.allclose(embedder.embed(images, None), embedder.embed(images, landmarks(3)), atol=1e-3)


def test_batches_do_not_show(folder, monkeypatch):
    embedder, images = FaceEmbedder.load(folder, threads=1), faces(7)
    whole = embedder.embed(images, landmarks(7), flip=True)
    monkeypatch.setattr("facegen.data.face_embedder.BATCH", 3)
    assert np.allclose(embedder.embed(images, landmarks(7), flip=True), whole, atol=1e-6)
    assert embedder.embed(images[:0], None).shape == (0, 12)


def test_flipping_makes_a_picture_and_its_mirror_equal(folder):
    embedder, images, points = FaceEmbedder.load(folder, threads=1), faces(3), landmarks(3)
    mirror, there = images[:, :, ::-1], mirrored_landmarks(points, width=64)
    both, reverse = embedder.embed(images, points, flip=True), embedder.embed(mirror, there, flip=True)
    assert np.allclose(both, reverse, atol=1e-5)
    assert not np.allclose(embedder.embed(images, points), embedder.embed(mirror, there), atol=1e-2)


def test_the_mirror_swaps_left_and_right():
    mirrored = mirrored_landmarks(np.array([[[10, 20], [40, 21], [26, 30], [12, 50], [39, 51]]]), width=64)
    assert mirrored[0].tolist() == [[23, 21], [53, 20], [37, 30], [24, 51], [51, 50]]


def test_a_folder_without_a_recogniser_says_why(tmp_path, folder):
    assert available(folder) and not available(tmp_path / "nowhere")
    write_json(folder / "recognizer.json", {"absent": "the pictures name 0 people"})
    assert not available(folder)
    with pytest.raises(ValueError, match="name 0 people"):
        FaceEmbedder.load(folder, threads=1)
    with pytest.raises(FileNotFoundError):
        FaceEmbedder.load(tmp_path / "nowhere.onnx", threads=1)
    with pytest.raises(ValueError, match="has to end in"):
        open_onnx(folder / "recognizer.json", threads=1)


@pytest.mark.parametrize("wrong", ["not onnx", "two outputs", "96 px"])
def test_a_file_that_is_no_recogniser_is_refused(tmp_path, wrong):
    path = tmp_path / "model.onnx"
    write_onnx(path, side=96 if wrong == "96 px" else 112, outputs=2 if wrong == "two outputs" else 1)
    if wrong == "not onnx":
        path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"model\.onnx is"):
        open_onnx(path, threads=1)


def test_wrong_pictures_are_refused(folder):
    embedder = FaceEmbedder.load(folder, threads=1)
    with pytest.raises(ValueError, match="uint8"):
        embedder.embed(faces(1).astype(np.float32), None)
    with pytest.raises(ValueError, match="need landmarks"):
        embedder.embed(faces(1)[:, :48], None)
    with pytest.raises(ValueError, match="expected \\(2, 5, 2\\)"):
        embedder.embed(faces(2), landmarks(1))
    write_onnx(folder / "recognizer.onnx", scale=0.0)
    with pytest.raises(ValueError, match="damaged"):
        FaceEmbedder.load(folder, threads=1).embed(faces(1), None)
