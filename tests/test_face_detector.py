"""The detector: insightface's own SCRFD code on a network whose answers are known, and landmarks from files."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from facegen.face_detector import FaceDetector, read_points

STRIDES = (8, 16, 32)
CORNER = np.array([72, 40])  # px, of the cell (9, 5)
BOX = (24.0, 32.0, 40.0, 48.0)  # px left of, above, right of and below the cell's corner
POINTS = np.array([[-10, -12], [14, -11], [3, 2], [-8, 20], [12, 21]], np.float32)  # px from the cell's corner


def write_scrfd(path, *, with_points: bool = True, size: int | str = "side") -> None:
    """An SCRFD network that finds a face at each cell of stride 8 whose red is full, of a known box and points.

    Its outputs are SCRFD's: scores, boxes and points of strides 8, 16 and 32, two anchors a cell, in strides.
    """
    nodes, constants, outputs = [], [], []

    def constant(name, values, dtype=np.float32):
        constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    constant("column", [-1, 1], np.int64)
    nodes.append(helper.make_node("Gather", ["data", constant("red", [0], np.int64)], ["grey"], axis=1))
    for level, stride in enumerate(STRIDES):
        names = {kind: f"{kind}{level}" for kind in ("mean", "cells", "off", "sharp", "first", "none", "score")}
        nodes += [
            helper.make_node("AveragePool", ["grey"], [names["mean"]], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Reshape", [names["mean"], "column"], [names["cells"]]),
            # white is 1 after insightface's scaling: sigmoid(200 (x - 0.97)); other strides never fire
            helper.make_node(
                "Sub", [names["cells"], constant(f"edge{level}", 0.97 if level == 0 else 9.0)], [names["off"]]
            ),
            helper.make_node("Mul", [names["off"], constant(f"slope{level}", 200.0)], [names["sharp"]]),
            helper.make_node("Sigmoid", [names["sharp"]], [names["first"]]),
            helper.make_node("Mul", [names["first"], constant(f"zero{level}", 0.0)], [names["none"]]),
            helper.make_node("Concat", [names["first"], names["none"]], [f"pair{level}"], axis=1),
            helper.make_node("Reshape", [f"pair{level}", "column"], [names["score"]]),
        ]
    for kind, values in (("box", BOX), ("points", POINTS.ravel())) if with_points else (("box", BOX),):
        for level, stride in enumerate(STRIDES):
            constant(f"{kind}-zero{level}", np.zeros((1, len(values))))
            constant(f"{kind}-value{level}", np.reshape(np.asarray(values) / stride, (1, -1)))
            nodes += [
                helper.make_node("MatMul", [f"score{level}", f"{kind}-zero{level}"], [f"{kind}-rows{level}"]),
                helper.make_node("Add", [f"{kind}-rows{level}", f"{kind}-value{level}"], [f"{kind}{level}"]),
            ]
    for kind, width in (("score", 1), ("box", 4), ("points", 10))[: 3 if with_points else 2]:
        outputs += [helper.make_tensor_value_info(f"{kind}{n}", TensorProto.FLOAT, ["n", width]) for n in range(3)]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, size, size])
    graph = helper.make_graph(nodes, "scrfd", [data], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def photograph(*cells: tuple[int, int], side: int = 128) -> np.ndarray:
    """Grey, with white squares of 8 px at these cells (column, row)."""
    pixels = np.full((side, side, 3), 90, np.uint8)
    for column, row in cells:
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    return pixels


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A folder as insightface's model packs are: a detector beside networks of other kinds."""
    folder = tmp_path_factory.mktemp("pack")
    write_scrfd(folder / "det_tiny.onnx", size=128)
    (folder / "a.onnx").write_bytes(b"no network")
    identity = helper.make_node("Identity", ["data"], ["out"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 112, 112]) for name in ("data", "out")]
    graph = helper.make_graph([identity], "other", values[:1], values[1:])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "w600k.onnx").write_bytes(other.SerializeToString())
    return folder


def test_a_face_is_found_where_it_is(pack):
    detector = FaceDetector.open(pack, threads=1)
    assert detector.name == "det_tiny"
    (face,) = detector.detect(photograph((9, 5)))
    assert np.allclose(face.box, (72 - 24, 40 - 32, 72 + 40, 40 + 48), atol=1e-3)
    assert np.allclose(face.landmarks, POINTS + CORNER, atol=1e-3) and face.landmarks.dtype == np.float32
    assert face.score > 0.9 and face.area == pytest.approx(64 * 80, abs=0.1)


def test_in_a_larger_photograph_of_another_shape(pack):
    detector = FaceDetector.open(pack / "det_tiny.onnx", threads=1)
    large = np.repeat(np.repeat(photograph((9, 5)), 3, axis=0), 3, axis=1)
    (face,) = detector.detect(large[:240])  # 384 x 240
    assert np.allclose(face.landmarks, 3 * (POINTS + CORNER), atol=0.01)


def test_colours_arrive_in_their_order(pack):
    detector = FaceDetector.open(pack, threads=1)
    for channel, found in ((0, 1), (1, 0), (2, 0)):
        pixels = photograph()
        pixels[40:48, 72:80, channel] = 255
        assert len(detector.detect(pixels)) == found


def test_several_faces_the_largest_first(tmp_path):
    write_scrfd(tmp_path / "det.onnx")  # any size: insightface looks at 128 and at 640 px
    detector = FaceDetector.open(tmp_path, threads=1)
    faces = detector.detect(photograph((1, 1), (12, 12)))
    assert len(faces) >= 2 and [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    assert np.array_equal(detector.landmarks(photograph((1, 1), (12, 12)), face=None), faces[0].landmarks)
    assert np.array_equal(detector.landmarks(photograph((1, 1), (12, 12)), face=2), faces[1].landmarks)
    with pytest.raises(ValueError, match=r"face 99: the photograph has \d+, counted from 1"):
        detector.landmarks(photograph((1, 1), (12, 12)), face=99)


def test_no_face(pack):
    with pytest.raises(ValueError, match="no face found") as caught:
        FaceDetector.open(pack, threads=1).landmarks(photograph(), face=None)
    assert "\n" not in str(caught.value)


def test_what_is_no_detector(pack, tmp_path):
    for place in (tmp_path, pack / "w600k.onnx", pack / "a.onnx"):
        with pytest.raises(ValueError, match="no face detection network with landmarks"):
            FaceDetector.open(place, threads=1)
    for place in (tmp_path / "none.onnx", "buffalo_l"):  # a name alone would have insightface look in the home folder
        with pytest.raises(FileNotFoundError, match="does not exist"):
            FaceDetector.open(place, threads=1)
    write_scrfd(tmp_path / "det_500m.onnx", with_points=False)
    with pytest.raises(ValueError, match="no face detection network with landmarks"):
        FaceDetector.open(tmp_path, threads=1)
    with pytest.raises(ValueError, match="expected uint8"):
        FaceDetector.open(pack, threads=1).detect(np.zeros((64, 64), np.uint8))


FIVE = [[10.5, 20], [30, 20], [20, 30], [12, 40], [28, 40]]


@pytest.mark.parametrize("text", ["10.5 20\n30 20\n\n20 30\n12 40\n28 40\n", json.dumps(FIVE)])
def test_points_of_one_photograph(text, tmp_path):
    (tmp_path / "points.txt").write_text(text)
    points = read_points(tmp_path / "points.txt")
    assert points.dtype == np.float32 and np.array_equal(points, np.array(FIVE, np.float32))


def test_points_of_many(tmp_path):
    row = " ".join(str(v) for pair in FIVE for v in pair)
    header = " ".join(
        f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
    )
    for name, text in (
        ("bare.txt", f"a.png {row}\nb.jpg {row}\n"),
        ("celeba.txt", f"2\n{header}\na.png {row}\nb.jpg {row}\n"),
        (
            "kaggle.csv",
            f"image_id,{header.replace(' ', ',')}\na.png,{row.replace(' ', ',')}\nb.jpg,{row.replace(' ', ',')}\n",
        ),
        ("points.json", json.dumps({"a.png": FIVE, "b.jpg": FIVE})),
    ):
        (tmp_path / name).write_text(text)
        points = read_points(tmp_path / name)
        assert list(points) == ["a.png", "b.jpg"], name
        assert np.array_equal(points["b.jpg"], np.array(FIVE, np.float32)), name


@pytest.mark.parametrize(
    "text", ["", "1 2\n3 4\n", "1 2\n3 4\n5 6\n7 8\n9 x\n", "[[1, 2]]", "[1", "1 2\n3 4\n5 6\n7 8\n9 nan\n"]
)
def test_points_that_are_none(text, tmp_path):
    (tmp_path / "points.txt").write_text(text)
    with pytest.raises(ValueError, match=r"points\.txt"):
        read_points(tmp_path / "points.txt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_points(tmp_path / "other.txt")
