"""`facegen scenes`: a grid, the layout there and back, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from facegen.cli import OneLineErrors
from facegen.cli_scenes import scenes_app
from facegen.data.scenes import Scenes
from tests.made_scenes import write_fastcomposer_folder, write_small_scenes

app = typer.Typer(cls=OneLineErrors)
app.callback()(lambda: None)
app.add_typer(scenes_app, name="scenes")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_scenes(tmp_path_factory.mktemp("scenes"), train=3, test=2)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    values["scenes"]["num_test"] = 1
    yaml.dump(values, path)
    return path


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["scenes", *map(str, args)])


def test_a_grid_is_written(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    result = call("show", made, "-n", 2, "--first", 1, "--split", "train", "--out", out)
    assert result.exit_code == 0, result.output
    assert "2 scenes of train" in result.output
    assert np.asarray(Image.open(out)).std() > 20
    more = call("show", made, "--split", "test", "--descriptions", "--out", out)
    assert "2 scenes of test" in more.output


def test_scenes_go_out_and_come_back(made: Path, params: Path, tmp_path: Path) -> None:
    result = call("export", made, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "5 scenes" in result.output
    result = call("import", tmp_path / "out", tmp_path / "back", "--params", params)
    assert result.exit_code == 0, result.output
    assert "3 scenes of train and 2 of test" in result.output
    assert "0 cut away by the crop, 0 without a face" in result.output
    assert Scenes.open(tmp_path / "back", "test").captions == Scenes.open(made, "test").captions
    again = call("export", made, tmp_path / "out")
    assert again.exit_code == 2
    assert "is not empty" in again.output


def test_sizes_can_be_named(params: Path, tmp_path: Path) -> None:
    root = write_fastcomposer_folder(tmp_path / "in")
    result = call("import", root, tmp_path / "out", "--params", params, "--height", 40, "--width", 60)
    assert result.exit_code == 0, result.output
    assert Scenes.open(tmp_path / "out", "train").size == (40, 60)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "{made}", "--first", 3), "scene 3: "),
        (("show", "{here}"), "run the scenes stage"),
        (("import", "{here}", "{here}/out"), "image_ids.txt"),
        (("import", "{own}", "{made}"), "is not empty"),
        (("import", "{own}", "{here}/out", "--detector", "{here}/no.onnx"), "no.onnx does not exist"),
    ],
)
def test_mistakes_are_one_line(made: Path, params: Path, tmp_path: Path, args: tuple, message: str) -> None:
    places = {"made": made, "here": tmp_path / "here", "own": write_fastcomposer_folder(tmp_path / "own")}
    places["here"].mkdir()
    more = ("--params", params) if args[0] == "import" else ()
    result = call(*(str(arg).format(**places) for arg in args), *more)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
