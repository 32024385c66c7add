"""The stage of MSID: an encoder that verifies people it has never seen, its probes, published weights, and absence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.artifacts import read_json
from facegen.attributes import UNKNOWN
from facegen.config import load_params
from facegen.data.align import CANONICAL, face_crops
from facegen.data.face_embedder import FaceEmbedder, available
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.metrics.leakage_probe import probe_report
from facegen.metrics.pose import yaw_pitch
from facegen.models.msid import MSID, load_msid, save_msid_pt
from facegen.rng import numpy_generator, torch_generator
from pipelines.msid import run, told_by
from pipelines.stage import Stage

SIDE = 32
SMALL = dict(
    patch_size=28, width=16, depth=2, num_heads=2, depths=(0, 1), total_images=1024, batch_size=32, learning_rate=5e-3,
    scale=16.0,
)  # fmt: skip


def write_faces(folder, split: str, people: range, *, known: bool = True) -> None:
    """People are four colours in four corners; the nose moves, and a bright bar below is the smile."""
    with FacesWriter(
        folder, split, resolution=SIDE, attribute_names=["Smiling"], sources={}, rows_per_shard=999
    ) as writer:
        for person in people:
            corners = numpy_generator(0, "person", person).integers(40, 216, (2, 2, 3))
            for picture in range(6):
                rng = numpy_generator(0, "picture", person, picture)
                smiling, points = picture % 2, CANONICAL * SIDE - 0.5
                points[2, 0] += rng.normal(0, 1)
                image = np.repeat(np.repeat(corners, SIDE // 2, axis=0), SIDE // 2, axis=1) + rng.integers(-15, 16)
                image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255)
                image[22:26, 12:20] = 255 * smiling
                state = np.array([UNKNOWN if picture == 5 and not person % 7 else smiling])
                identity = 3 * person if known else -1
                writer.add(f"{person}-{picture}", encode_png(image.astype(np.uint8)), state, identity, points)


def tiny_stage(folder, **changes) -> Stage:
    """The stage `msid` in a folder whose faces are written, outside DVC."""
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    params = params.model_copy(
        update={
            "msid": params.msid.model_copy(update={**SMALL, **changes}),
            "machine": params.machine.model_copy(update={"threads": 1, "device": "cpu"}),
            "base": params.base.model_copy(update={"precision": "fp32"}),
        }
    )
    return Stage(
        name="msid", params=params, root=folder, home=folder, key="k", scratch=folder / "scratch",
        parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


@pytest.fixture
def faces(tmp_path) -> Path:
    for split, people in {"train": range(40), "val": range(40, 48), "test": range(50, 66)}.items():
        write_faces(tmp_path / "data/faces", split, people)
    (tmp_path / "eval").mkdir()
    (tmp_path / "scratch").mkdir()
    return tmp_path


def test_the_stage_writes_an_encoder_that_verifies_and_its_probes(faces):
    run(tiny_stage(faces, compare_plain=True))
    folder = faces / "data/models/msid"
    about, accuracy = read_json(folder / "recognizer.json"), read_json(folder / "accuracy.json")
    assert (about["input_size"], about["embedding_size"], about["source"]) == (112, 32, None)
    assert accuracy["people"] == 16 and accuracy["auc"]["value"] > 0.93  # untrained: 0.89
    model, embedder = load_msid(folder), FaceEmbedder.load(folder, threads=1)
    test = Faces.open(faces / "data/faces", "test")
    images = test.images(np.arange(4), threads=1)
    expected = model(face_crops(images, test.landmarks[:4], size=112))
    expected = torch.nn.functional.normalize(expected).numpy()
    assert np.abs(embedder.embed(images, test.landmarks[:4]) - expected).max() < 1e-4
    report = read_json(faces / "eval/msid.json")
    assert (report["depths"], report["people"], report["pictures"]) == ([0, 1], 16, 94)  # two smiles are unknown
    sizes = {"depth_0": 16, "depth_1": 16, "joined": 32, "output": 32}
    assert {name: told["size"] for name, told in report["msid"].items()} == sizes
    assert {name: told["size"] for name, told in report["plain"].items()} == {**sizes, "output": 16}
    assert report["msid"]["output"]["identity_auc"] > 0.93  # untrained: 0.92
    assert set(report["msid"]["joined"]) == {"size", "identity_auc", "yaw_r2", "pitch_r2", "smiling_auc"}
    rows = np.array([i for i in range(96) if not (i % 6 == 5 and (50 + i // 6) % 7 == 0)])  # as they were drawn
    yaw, pitch = (
        np.concatenate([angle[rows // 6 == person] - angle[rows // 6 == person].mean() for person in range(16)])
        for angle in yaw_pitch(test.landmarks[rows]).T
    )
    again = probe_report(
        {"joined": told_by(model, test, rows, depths=[0, 1], threads=1)["joined"]}, {"yaw": yaw, "pitch": pitch},
        {"smiling": rows % 6 % 2}, rows // 6, rng=lambda: numpy_generator(0, "msid probes"),
    )  # fmt: skip
    for key, figure in again["joined"].items():
        assert report["msid"]["joined"][key] == pytest.approx(figure, abs=0.02), key
    assert len((folder / "log.csv").read_text().splitlines()) > 10


def test_published_weights_are_taken_as_they_are(faces, capfd):
    made = MSID(patch_size=28, width=16, depth=2, num_heads=2, depths=[1])
    made.initialize(torch_generator(0, "published"))
    save_msid_pt(made.eval(), faces / "published.pt")
    run(tiny_stage(faces, source="published.pt", compare_plain=True))
    found = load_msid(faces / "data/models/msid")
    assert all(torch.equal(found.state_dict()[name], value) for name, value in made.state_dict().items())
    assert found.config["num_heads"] == 2
    report = read_json(faces / "eval/msid.json")
    assert report["plain"] is None and report["depths"] == [1]
    assert capfd.readouterr().err.count("non-commercial use only") == 1
    assert read_json(faces / "data/models/msid/recognizer.json")["source"] == "published.pt"


def test_features_are_those_of_the_blocks(faces):
    made = MSID(patch_size=28, width=16, depth=3, num_heads=2, depths=[1, 2])
    made.initialize(torch_generator(0, "features"))
    caught: list[torch.Tensor] = []
    for block in made.eval().blocks:
        block.register_forward_hook(lambda _, __, out: caught.append(out[:, 0]))
    test = Faces.open(faces / "data/faces", "test")
    rows = np.array([5, 0, 7])
    told = told_by(made, test, rows, depths=[0, 2], threads=1)
    assert list(told) == ["depth_0", "depth_2", "joined", "output"]
    assert np.array_equal(told["depth_0"], caught[0].detach().numpy())
    assert np.array_equal(told["depth_2"], caught[2].detach().numpy())
    assert np.array_equal(told["joined"], np.concatenate([told["depth_0"], told["depth_2"]], axis=1))
    crops = face_crops(test.images(rows, threads=1), test.landmarks[rows], size=112)
    assert np.allclose(told["output"], made(crops).detach().numpy(), atol=1e-5)


def test_without_people_there_is_no_encoder_and_one_note(tmp_path, capfd):
    for split in ("train", "val", "test"):
        write_faces(tmp_path / "data/faces", split, range(3), known=False)
    (tmp_path / "eval").mkdir()
    run(tiny_stage(tmp_path))
    folder = tmp_path / "data/models/msid"
    for name in ("recognizer.json", "accuracy.json"):
        assert "name 0 people" in read_json(folder / name)["absent"]
    assert "name 0 people" in read_json(tmp_path / "eval/msid.json")["absent"]
    assert not available(folder)
    assert len([line for line in capfd.readouterr().err.splitlines() if "no encoder" in line]) == 1
