"""The detector's stage: what it trains finds faces it has never seen; a published network is copied; no scenes, none."""

from __future__ import annotations

import numpy as np
import pytest

from facegen.artifacts import read_json, sha256_file, write_json
from facegen.config import load_params
from facegen.data.images import encode_png
from facegen.data.scenes import ScenesWriter, Segment
from facegen.face_detector import FaceDetector
from facegen.rng import numpy_generator
from pipelines.detector import ONNX, OUT, figures, run, softened
from pipelines.stage import Stage

FACE = np.array([[-7, -7], [7, -7], [0, 1], [-5, 8], [5, 8]], dtype=np.float32)  # px about its middle
SIDE = 64


def draw(number: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc with dark eyes, nose and mouth, in front of a darker backdrop; its landmarks, px."""
    rng = numpy_generator(0, f"detector {split}", number)
    middle = rng.integers(22, SIDE - 22, 2)
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:] = rng.integers(20, 90, 3)
    pixels[(x - middle[0]) ** 2 + (y - middle[1] - 2) ** 2 < 17**2] = rng.integers(150, 240, 3)
    points = FACE + middle.astype(np.float32)
    for left, top in points.astype(int):
        pixels[top - 1 : top + 2, left - 2 : left + 3] = 15
    return pixels, points


def write_scenes(folder, split: str, count: int) -> None:
    with ScenesWriter(folder, split, height=SIDE, width=SIDE, attribute_names=[], source="drawn here") as writer:
        for number in range(count):
            pixels, points = draw(number, split)
            segment = Segment(1, "person", 8, (0.0, 0.0, float(SIDE), float(SIDE)), points, number, ())
            mask = encode_png(np.ones((SIDE, SIDE), np.uint8))
            writer.add(f"{split}-{number}", encode_png(pixels), mask, "a person", "a person", [segment])


def tiny_stage(root, home, **changes) -> Stage:
    params = load_params(home / "params.yaml")
    base = params.base.model_copy(update={"precision": "fp32"})
    machine = params.machine.model_copy(update={"device": "cpu", "threads": 1})
    detector = params.detector.model_copy(
        update={"source": None, "width": 8, "total_images": 448, "batch_size": 8, "learning_rate": 8e-3, **changes}
    )
    return Stage(
        name="detector", params=params.model_copy(update={"base": base, "detector": detector, "machine": machine}),
        root=root, home=root, key="0" * 8, scratch=root / ".runs/detector", parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("detector")
    for split, count in (("train", 60), ("test", 12)):
        write_scenes(folder / "data/scenes", split, count)
    (folder / ".runs/detector").mkdir(parents=True)
    run(tiny_stage(folder, root))
    return folder


def test_what_is_trained_finds_unseen_faces(trained):
    detector = FaceDetector.open(trained / OUT, threads=1)
    about = read_json(trained / OUT / "detector.json")
    assert about["source"] is None and (trained / OUT / "log.csv").is_file()
    drawn = [draw(number, "test") for number in range(12)]
    again = figures(detector, np.stack([pixels for pixels, _ in drawn]), [[points] for _, points in drawn])
    assert again == about["test"]
    assert about["test"]["recall"]["value"] > 0.8 and about["test"]["landmark_error"]["value"] < 0.2
    assert about["test"]["pictures"] == about["test_soft"]["pictures"] == 12
    assert about["test_soft"]["landmark_error"] != about["test"]["landmark_error"]


def test_a_published_network_is_copied_and_measured(trained, tmp_path, root, capfd):
    write_scenes(tmp_path / "data/scenes", "test", 12)
    source = trained / OUT / ONNX
    run(tiny_stage(tmp_path, root, source=str(source)))
    assert sha256_file(tmp_path / OUT / ONNX) == sha256_file(source)
    about = read_json(tmp_path / OUT / "detector.json")
    assert about["source"] == str(source) and about["test"] == read_json(trained / OUT / "detector.json")["test"]
    assert capfd.readouterr().err.count("non-commercial research only") == 1
    with pytest.raises(FileNotFoundError, match=r"none\.onnx is no file"):
        run(tiny_stage(tmp_path, root, source="none.onnx"))


def test_without_scenes_there_is_no_detector_and_one_note(trained, tmp_path, root, capfd):
    write_json(tmp_path / "data/scenes/scenes.json", {"absent": "no scenes here"})
    run(tiny_stage(tmp_path, root))
    assert read_json(tmp_path / OUT / "detector.json") == {"absent": "no scenes here"}
    assert not (tmp_path / OUT / ONNX).exists()
    assert len([line for line in capfd.readouterr().err.splitlines() if "no detector" in line]) == 1
    run(tiny_stage(tmp_path, root, source=str(trained / OUT / ONNX)))  # one may be brought along all the same
    about = read_json(tmp_path / OUT / "detector.json")
    assert about["test"] == {"absent": "no scenes here"} and (tmp_path / OUT / ONNX).is_file()


def test_faces_are_counted_over_pictures_with_none_too():
    class Detector:
        def detect(self, pixels):
            return []

    nothing = figures(Detector(), np.zeros((3, 8, 8, 3), np.uint8), [[], [FACE], [FACE, FACE + 20]])
    assert nothing["recall"]["value"] == 0 and nothing["recall"]["n"] == 3 and nothing["pictures"] == 3


def test_soft_pictures_keep_their_brightness_and_lose_detail():
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    pixels[:, :, ::2] = 200
    assert softened(pixels).shape == pixels.shape
    assert abs(float(softened(pixels).mean()) - 100) < 3 and softened(pixels).std() < 40
