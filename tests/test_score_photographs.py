"""From the folders of edits and of the upscaler to their parts of eval/metrics.json, with tiny untrained networks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from facegen.artifacts import write_json
from facegen.data.edits import EditRows, write_edits
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.metrics.judge_features import JudgeFeatures
from facegen.models.initialize import draw_weights
from facegen.models.judges import build_judge
from facegen.models.upscaler import ResidualUpscaler, draw_upscaler_weights
from facegen.rng import torch_generator
from facegen.score_photographs import score_edits, score_upscaling

NAMES, SIDE, NUM = ("Bald", "Hat"), 32, 10


def judge() -> JudgeFeatures:
    model = build_judge("convnext", attribute_names=list(NAMES), width=8)
    draw_weights(model, torch_generator(0, "judge"))
    model.register_to_config(thresholds=[0.5] * 2, temperatures=[1.0] * 2, resolution=SIDE)
    return JudgeFeatures(model.eval(), name="b", digest="0", resolution=SIDE, device=torch.device("cpu"))


def write_faces(folder: Path, *, num: int = NUM, side: int = SIDE) -> Faces:
    rng = np.random.default_rng(0)
    with FacesWriter(folder, "test", resolution=side, attribute_names=NAMES, sources={}, rows_per_shard=100) as writer:
        for i in range(num):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            writer.add(f"{i}.png", encode_png(pixels), np.array([i % 2, 0]), i // 2, np.full((5, 2), 8.0))
    return Faces.open(folder, "test")


def rows_of(faces: Faces, num: int, *, region: str) -> EditRows:
    """Each photograph edited by both methods, which answer Bald the other way round; nothing is changed in it."""
    photo = np.repeat(np.arange(num), 2)
    known = faces.attributes[photo]
    states = known.copy()
    states[:, 0] = 1 - known[:, 0]
    images = faces.images(photo, threads=1)
    masks = np.zeros(images.shape[:3], bool)
    masks[:, 4:8, 4:12] = True  # 3 %
    return EditRows(
        [faces.ids[i] for i in photo], ["Bald"] * len(photo), states[:, 0], [region] * len(photo),
        ["blend", "zoom"] * num, np.arange(len(photo)), states, known, np.full(len(photo), 7), images, images, masks,
        NAMES,
    )  # fmt: skip


def progress(_: Any, label: str) -> Any:
    assert label
    return SimpleNamespace(update=lambda count: None, close=lambda: None)


def write_both(folder: Path, faces: Faces, *, num: int, swept: int) -> Path:
    write_edits(folder / "edits.parquet", rows_of(faces, num, region="hair"))
    write_edits(folder / "areas.parquet", rows_of(faces, swept, region="hair at 3.1%"))
    return folder


GIVEN: dict[str, Any] = {"seed": 0, "threads": 1, "progress": progress}


def test_edits_that_change_nothing_keep_everything_and_answer_nothing(tmp_path: Path) -> None:
    faces, witness = write_faces(tmp_path / "faces"), judge()
    folder = write_both(tmp_path, faces, num=NUM, swept=4)
    found = score_edits(folder, faces, witness, None, lambda images: images, default="zoom", **GIVEN)
    assert set(found) == {"blend", "zoom", "default", "sweep", "small", "identity"} and found["identity"] is None
    zoom = found["default"]
    assert zoom["other_change"]["value"] == pytest.approx(0, abs=1e-6)  # batches differ in their last digits
    assert zoom["perceptual"]["value"] == pytest.approx(0, abs=1e-6)
    assert zoom["outside_identical"]["value"] == 1 and zoom["seam"]["value"] == 1 and zoom["evaluations"] == 7
    said = witness.both(faces.images(np.arange(NUM), threads=1))[1][:, 0] > 0.5
    right = float((said == (faces.attributes[:, 0] == 1)).mean())
    assert zoom["judge_accuracy"]["value"] == pytest.approx(right) == pytest.approx(1 - zoom["success"]["value"])
    assert found["small"]["difference"]["value"] == 0 and found["small"]["difference"]["n"] == NUM + 4
    assert [row["success"]["n"] for row in found["sweep"]["blend"]] == [4]
    again = score_edits(folder, faces, witness, None, lambda images: images, default="zoom", **GIVEN)
    assert again == found


def test_no_edits_are_absent_with_a_reason(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces")
    folder = write_both(tmp_path, faces, num=0, swept=0)
    found = score_edits(folder, faces, judge(), None, lambda images: images, default="zoom", **GIVEN)
    assert found == {"absent": "no edit was asked for"}


def test_an_upscaler_that_is_not_there_is_absent_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model/upscaler.json", {"absent": "no picture is large enough"})
    write_faces(tmp_path / "large", num=0)
    settings = GIVEN | {"resolution": 16, "num": 5}
    found = score_upscaling(tmp_path / "model", tmp_path / "large", judge(), None, lambda x: x, **settings)
    assert found == ({"absent": "no picture is large enough"}, None)


def test_an_untrained_upscaler_is_measured_on_the_large_faces(tmp_path: Path) -> None:
    network = ResidualUpscaler(scale=4, width=8, growth=4, layers_per_block=1, num_blocks=1, resolution=16)
    draw_upscaler_weights(network, torch_generator(0, "upscaler"))
    network.save_pretrained(tmp_path / "model")
    write_faces(tmp_path / "large", num=NUM, side=64)
    settings = GIVEN | {"resolution": 32, "num": 6}
    found, strip = score_upscaling(tmp_path / "model", tmp_path / "large", judge(), None, lambda x: x, **settings)
    assert found["images"] == 6 and found["truth_resolution"] == 64 and "no truth at 128 px" in found["assumption"]
    assert found["psnr_db"]["value"] == found["clean"]["psnr_db"]["value"]  # this round trip loses nothing
    assert found["difference"]["psnr_db"]["value"] == pytest.approx(0, abs=1)  # bicubic against Lanczos
    assert strip is not None and strip.shape == (4, 6, 64, 64, 3)
    write_faces(tmp_path / "none", num=0, side=64)
    found, strip = score_upscaling(tmp_path / "model", tmp_path / "none", judge(), None, lambda x: x, **settings)
    assert found == {"absent": "no test photograph has 64 px to compare with"} and strip is None
