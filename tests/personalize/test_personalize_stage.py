"""The personalize stage on toy networks: what it writes, which mapper draws what, resuming, and nothing to draw with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegen.artifacts import check_manifest, read_json, write_json
from facegen.config import load_params
from facegen.data.align import face_crops
from facegen.data.images import encode_png
from facegen.data.shards import Faces, FacesWriter
from facegen.models.msid import load_msid
from facegen.personalize.opening import open_personalizer
from facegen.personalize.pictures import PictureSet
from facegen.personalize.references import person_features
from pipelines import personalize as stage_module
from pipelines.stage import Stage
from tests.made_mappers import write_personalizer

SIDE = 16
FACE = np.array([[5.0, 6], [10, 6], [8, 8], [6, 11], [10, 11]])
ONE, TWO = "<id:0> smiling", "<id:0> and <id:1>"
TOY: dict[str, Any] = dict(
    base=None, scheduler="euler", num_steps=4, guidance_scale=2.0, alpha=0.5, negative="", prompts_one=(ONE,),
    prompts_two=(TWO,), num_people=2, images_per_prompt=1, alphas=(0.25,), alpha_people=1, batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_personalizer(root / "data/models")
    g = np.random.default_rng(0)
    with FacesWriter(
        root / "data/faces", "test", resolution=SIDE, attribute_names=[], sources={}, rows_per_shard=99
    ) as writer:
        for i in range(8):
            image = encode_png(g.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
            writer.add(str(i), image, np.empty(0), i % 4, FACE + g.normal(0, 0.3, (5, 2)))
    return root


def stage_of(root: Path, inputs: Path, **changes: Any) -> Stage:
    """The real stage in a folder of its own, with the inputs of all tests."""
    (root / "scratch").mkdir(parents=True, exist_ok=True)
    if not (root / "data").exists():
        (root / "data").symlink_to(inputs / "data")
    params = load_params(Path(__file__).resolve().parents[2] / "params.yaml")
    updates: dict[str, Any] = {
        "personalize": params.personalize.model_copy(update={**TOY, **changes}),
        "machine": params.machine.model_copy(update={"device": "cpu", "threads": 1}),
        "base": params.base.model_copy(update={"precision": "fp32"}),
    }
    return Stage(
        name="personalize", params=params.model_copy(update=updates), root=root, home=root, key="k",
        scratch=root / "scratch", parameters={}, inputs={}, tracker=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    stage_module.run(stage_of(root, inputs))
    return root / "eval/personalize"


def test_what_it_writes(whole: Path) -> None:
    check_manifest(whole)
    assert {path.name for path in whole.iterdir()} == {
        "alphas.png", "manifest.json", "one.png", "personalize.json", "pictures.parquet", "two.png",
    }  # fmt: skip
    found, about = PictureSet.open(whole / "pictures.parquet"), read_json(whole / "personalize.json")
    assert found.methods == ["class_word", "single_plain", "single", "naive", "mf2d_unlocalized", "mf2d"]
    assert len(found) == about["pictures"] == 3 * 2 + 4 * 2 + 1
    assert (about["people"], about["pairs"], about["alpha"]) == (2, 2, 0.5)
    assert found.about["class_word"] == "a person"
    pixels = found.images()
    assert pixels.shape[1:] == (32, 32, 3)
    assert len({image.tobytes() for image in pixels}) == len(pixels)  # no two methods drew the same


@pytest.mark.parametrize(
    ("method", "mapper", "alpha"),
    [("single", "single", 1.0), ("naive", "single", 1.0), ("mf2d", "mf2d", 0.5), ("mf2d", "mf2d", 0.25),
     ("mf2d_unlocalized", "mf2d_unlocalized", 0.5), ("single_plain", "single_plain", 1.0)],
)  # fmt: skip
def test_each_picture_is_of_its_people_by_its_mapper(
    whole: Path, inputs: Path, method: str, mapper: str, alpha: float
) -> None:
    found, models = PictureSet.open(whole / "pictures.parquet"), inputs / "data/models"
    number = next(i for i, row in enumerate(found.rows) if (row.method, row.alpha) == (method, alpha))
    row, faces, msid = found.rows[number], Faces.open(inputs / "data/faces", "test"), load_msid(models / "msid")
    features = []
    for person, own in zip(row.subjects, row.references, strict=True):
        assert faces.identity[list(own)].tolist() == [person]
        crops = face_crops(faces.images(own, threads=1), faces.landmarks[list(own)], size=112)
        features.append(person_features(msid.eval(), [crops]))
    drawer = open_personalizer(models / "text-to-image", msid=None, mapper=models / "mapper" / mapper, device="cpu")
    expected = drawer.generate(
        torch.stack(features), row.prompt, seeds=[row.seed], num_steps=4, guidance_scale=2.0, alpha=alpha, negative="",
        scheduler="euler",
    )  # fmt: skip
    assert np.abs(found.images([number]).astype(int) - expected).max() <= 1


def test_stopped_in_the_middle_it_keeps_the_methods_that_were_done(
    whole: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str | None] = []
    real = stage_module.personalizer

    def stops(stage: Stage, base: Any, mapper: str | None) -> Any:
        if len(opened) == 3:
            raise KeyboardInterrupt
        opened.append(mapper)
        return real(stage, base, mapper)

    monkeypatch.setattr(stage_module, "personalizer", stops)
    with pytest.raises(KeyboardInterrupt):
        stage_module.run(stage_of(tmp_path, inputs))
    assert opened == [None, "single_plain", "single"]
    assert not (tmp_path / "eval/personalize").exists()
    again: list[str | None] = []

    def counted(stage: Stage, base: Any, mapper: str | None) -> Any:
        again.append(mapper)
        return real(stage, base, mapper)

    monkeypatch.setattr(stage_module, "personalizer", counted)
    stage_module.run(stage_of(tmp_path, inputs))
    assert again == ["single", "mf2d_unlocalized", "mf2d", "mf2d"]
    for name in ("pictures.parquet", "two.png"):
        assert (tmp_path / "eval/personalize" / name).read_bytes() == (whole / name).read_bytes()


def test_without_a_mapper_or_people_the_folder_says_so(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Faces.open(inputs / "data/faces", "test")
    nobody.identity[:] = -1
    monkeypatch.setattr(Faces, "open", lambda *_: nobody)
    stage_module.run(stage_of(tmp_path / "nobody", inputs))
    about = read_json(tmp_path / "nobody/eval/personalize/personalize.json")
    assert about == {"absent": "no two people of the test split have two pictures each"}
    write_json(tmp_path / "data/models/mapper/mapper.json", {"absent": "no scenes"})
    stage_module.run(stage_of(tmp_path, inputs))
    assert read_json(tmp_path / "eval/personalize/personalize.json") == {"absent": "no scenes"}
    assert "no pictures of given people: no scenes" in capsys.readouterr().err


def test_a_prompt_without_its_people_is_an_error(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not name <id:1>"):
        stage_module.run(stage_of(tmp_path, inputs, prompts_two=("<id:0> smiling",)))
