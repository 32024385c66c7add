"""The face finder: boxes in closed form, and its ONNX file as insightface decodes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from facegen.face_detector import FaceDetector
from facegen.models.face_finder import (
    ANCHOR_SCALES,
    STRIDES,
    FaceFinder,
    anchors,
    face_boxes,
    fitting_input_size,
    normalized,
    onnx_bytes,
)
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator

SIZE = (64, 96)
UPRIGHT = torch.tensor([[20.0, 30], [30, 30], [25, 35], [21, 40], [29, 40]])  # eyes and mouth 10 px apart


@pytest.fixture
def model() -> FaceFinder:
    """Weights and running statistics of every kind away from what they start as; about half of the scores pass."""
    made = FaceFinder(width=8, input_size=SIZE)
    generator = torch_generator(0, "face finder")
    draw_weights(made, generator)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3, generator=generator)
            layer.running_var.uniform_(0.05, 0.2, generator=generator)
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
    with torch.no_grad():
        made.head.weight.mul_(4)
        made.head.bias.view(2, -1)[:, 1:5] += 1.5  # boxes with something inside
    return made.eval()


def picture(seed: int) -> np.ndarray:
    return torch.randint(256, (*SIZE, 3), generator=torch_generator(seed, "picture"), dtype=torch.uint8).numpy()


def said_of(model: FaceFinder, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(normalized(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0].numpy()


def test_insightface_finds_what_the_network_says(model, tmp_path):
    """Every face found is decoded here anew: corners by loops, not by `anchors`."""
    (tmp_path / "detector.onnx").write_bytes(onnx_bytes(model))
    detector = FaceDetector.open(tmp_path, threads=1)
    corners = [(s, s * x, s * y) for s in STRIDES for y in range(SIZE[0] // s) for x in range(SIZE[1] // s)
               for _ in range(2)]  # fmt: skip
    for seed in range(3):
        pixels = picture(seed)
        said, faces = said_of(model, pixels), detector.detect(pixels)
        scores = 1 / (1 + np.exp(-said[:, 0]))
        assert max(face.score for face in faces) == pytest.approx(scores.max(), abs=1e-5)
        assert scores.max() > 0.5 and len(faces) <= (scores > 0.5).sum()
        for face in faces:
            row = int(np.abs(scores - face.score).argmin())
            stride, x, y = corners[row]
            left, above, right, below = stride * said[row, 1:5]
            assert np.allclose(face.box, (x - left, y - above, x + right, y + below), atol=1e-2)
            assert np.allclose(face.landmarks, (x, y) + stride * said[row, 5:].reshape(5, 2), atol=1e-2)


def test_the_file_follows_scrfds_rules(model):
    made = onnx.load_from_string(onnx_bytes(model))
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in made.graph.output}
    assert list(shapes.values()) == [(n, k) for k in (1, 4, 10) for n in (2 * 8 * 12, 2 * 4 * 6, 2 * 2 * 3)]
    (data,) = made.graph.input
    assert tuple(d.dim_value for d in data.type.tensor_type.shape.dim) == (1, 3, *SIZE)


def test_equal_weights_give_equal_bytes(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = FaceFinder.from_pretrained(tmp_path).eval()
    assert onnx_bytes(model) == onnx_bytes(again) == onnx_bytes(model.to(memory_format=torch.channels_last))
    with torch.no_grad():
        again.smooth_norm[1].bias[3] += 1e-3
    assert onnx_bytes(model) != onnx_bytes(again)


def test_anchors_are_in_the_order_of_what_is_said(model):
    corners, strides, sizes = anchors(SIZE)
    assert len(corners) == len(said_of(model, picture(0)))
    assert corners[:3].tolist() == [[0, 0], [0, 0], [8, 0]] and corners[2 * 12].tolist() == [0, 8]
    assert corners[-1].tolist() == [64, 32]
    assert strides.unique_consecutive().tolist() == [8, 16, 32]
    assert torch.allclose(sizes / strides, torch.tensor(ANCHOR_SCALES).repeat(len(sizes) // 2))


def test_it_begins_with_faces_of_the_anchors_size():
    made = FaceFinder(width=8, input_size=SIZE)
    made.start_at_usual_faces()
    nn.init.zeros_(made.head.weight)
    said = made.eval()(torch.zeros(1, 3, *SIZE))[0]
    _, strides, sizes = anchors(SIZE)
    assert torch.allclose(said[:, 0].sigmoid(), torch.tensor(0.05))
    assert torch.allclose((said[:, 1] + said[:, 3]) * strides, sizes)
    assert torch.allclose((said[:, 2] + said[:, 4]) * strides, sizes) and not said[:, 5:].any()


def test_the_box_of_a_face():
    assert torch.allclose(face_boxes(UPRIGHT), torch.tensor([25 - 10.5, 30 - 10, 25 + 10.5, 30 + 17]))
    turned = UPRIGHT.clone()
    turned[:2, 0] = torch.tensor([24.0, 26])  # eyes near each other: the face is turned, its box as large
    assert torch.allclose(face_boxes(turned), face_boxes(UPRIGHT))
    both = torch.stack([UPRIGHT, 3 * UPRIGHT + 7])
    assert torch.allclose(face_boxes(both)[1], 3 * face_boxes(UPRIGHT) + 7)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 96), (64, 96)), ((65, 96), (96, 96)), ((512, 512), (256, 256)), ((512, 700), (256, 352))],
)
def test_the_input_fits_the_pictures(size, expected):
    assert fitting_input_size(size) == expected


def test_wrong_shapes_are_refused(model):
    with pytest.raises(ValueError, match="expected \\(B, 3, 64, 96\\)"):
        model(torch.zeros(1, 3, 96, 64))
    with pytest.raises(ValueError, match="multiples of 32"):
        FaceFinder(width=8, input_size=(64, 90))
