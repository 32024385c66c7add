"""The scenes stage: drawn for the embedded data set, read from a folder, and absent where there is neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from facegen.artifacts import read_json
from facegen.config import load_params
from facegen.data.scenes import Scenes
from pipelines import scenes as stage_module
from tests.made_scenes import small_population, write_fastcomposer_folder, write_small_scenes

ROOT = Path(__file__).resolve().parents[2]


class FakeStage:
    """What the scenes stage uses of a stage."""

    name = "scenes"

    def __init__(self, folder: Path, *, data_root: str = "data/procedural", **changes: Any) -> None:
        params = load_params(ROOT / "params.yaml")
        render = params.render.model_copy(update={"num_identities": 40, "images_per_identity": 3, "val_fraction": 0.1})
        self.root, self.pictures, self.figures = folder, [], {}
        self.params = SimpleNamespace(
            scenes=params.scenes.model_copy(update={"num_scenes": 4, "num_test": 2, **changes}),
            render=render.model_copy(update={"test_fraction": 0.2}), base=params.base, preprocess=params.preprocess,
            machine=params.machine.model_copy(update={"workers": 1}), data=SimpleNamespace(root=data_root),
        )  # fmt: skip

    @contextmanager
    def output(self, path: str) -> Iterator[Path]:
        (self.root / path).mkdir(parents=True)
        yield self.root / path

    @contextmanager
    def progress(self, items: int, desc: str) -> Iterator[SimpleNamespace]:
        done: list[int] = []
        yield SimpleNamespace(update=lambda count=1: done.append(count))
        assert sum(done) == items

    def metrics(self, figures: dict[str, Any]) -> None:
        self.figures = figures

    def picture(self, path: Path) -> None:
        assert path.is_file()
        self.pictures.append(path.name)


def test_scenes_of_the_people_of_render_are_drawn(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path)
    stage_module.run(stage)  # type: ignore[arg-type]
    expected = write_small_scenes(tmp_path / "expected", train=4, test=2)
    for split, count in (("train", 4), ("test", 2)):
        name = f"{split}-00000.parquet"
        assert len(Scenes.open(tmp_path / "data/scenes", split)) == count
        assert (tmp_path / "data/scenes" / name).read_bytes() == (expected / name).read_bytes()
    assert small_population().seed == stage.params.base.seed
    assert read_json(tmp_path / "data/scenes/scenes.json")["scenes"] == {"train": 4, "test": 2}
    assert stage.figures == {"scenes": {"train": 4, "test": 2}}
    assert stage.pictures == ["preview.png"]
    preview = np.asarray(Image.open(tmp_path / "data/scenes/preview.png"))
    assert preview.std() > 20


def test_other_data_without_scenes_of_their_own_have_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stage_module.run(FakeStage(tmp_path, data_root="photos"))  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "data/scenes").iterdir()] == ["scenes.json"]
    assert "data.root is photos" in read_json(tmp_path / "data/scenes/scenes.json")["absent"]
    assert "no scenes" in capsys.readouterr().err


def test_a_folder_is_imported_whatever_the_faces_are(tmp_path: Path) -> None:
    write_fastcomposer_folder(tmp_path / "own")
    stage = FakeStage(tmp_path, data_root="photos", root="own")
    stage_module.run(stage)  # type: ignore[arg-type]
    about = read_json(tmp_path / "data/scenes/scenes.json")
    assert about["scenes"] == {"train": 3, "test": 1}
    assert about["segments"] == {"kept": 8, "cut_away": 0, "without_a_face": 0}
    scenes = Scenes.open(tmp_path / "data/scenes", "train")
    assert scenes.size == (stage.params.scenes.height, stage.params.scenes.width)
    assert (tmp_path / "data/scenes/preview.png").is_file()


def test_a_folder_of_something_else_and_one_of_nobody_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"scenes\.root: .*image_ids\.txt"):
        stage_module.run(FakeStage(tmp_path / "a", root=str(tmp_path / "empty")))  # type: ignore[arg-type]
    write_fastcomposer_folder(tmp_path / "own")
    narrow = FakeStage(tmp_path / "b", root=str(tmp_path / "own"), height=40, width=16)
    with pytest.raises(ValueError, match="not one person is left"):
        stage_module.run(narrow)  # type: ignore[arg-type]


def test_a_detector_that_is_none_is_refused(tmp_path: Path) -> None:
    write_fastcomposer_folder(tmp_path / "own")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("x", "y")]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="no face detection network"):
        stage_module.run(FakeStage(tmp_path, root="own", detector="x.onnx"))  # type: ignore[arg-type]
