"""`facegen personalize` on tiny networks: pictures and grids, people from folders, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from facegen import cli_personalize
from facegen.cli import OneLineErrors
from facegen.models.initialize import draw_weights
from facegen.models.msid import MSID
from facegen.personalize.mapping import load_mapper
from facegen.rng import torch_generator
from tests.made_mappers import write_personalizer
from tests.test_face_detector import CORNER, POINTS, photograph, write_scrfd

app = typer.Typer(cls=OneLineErrors)
app.callback()(lambda: None)
for command in cli_personalize.COMMANDS:
    app.command()(command)
ONE, TWO = "<id:0> smiling", "<id:0> and <id:1> wearing hats"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A model's folder with the mappers of one person and of two, photographs, and a parameter file."""
    folder = tmp_path_factory.mktemp("inputs")
    write_personalizer(folder / "models", variants=("single", "mf2d"))
    load_mapper(folder / "models/mapper/mf2d").save(folder / "mf2d.pt")
    (folder / "many").mkdir()
    for number, name in enumerate(("a.png", "b.png", "many/c.png", "many/d.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "wide.png")
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    values["personalize"] |= {"num_steps": 2, "scheduler": "euler"}
    yaml.dump(values, folder / "params.yaml")
    return folder


def facegen(inputs: Path, out: Path, *arguments: object, code: int = 0) -> str:
    common = ["--model", inputs / "models", "--params", inputs / "params.yaml", "--device", "cpu", "-o", out]
    found = CliRunner().invoke(app, ["personalize", *map(str, [*common, *arguments])])
    assert found.exit_code == code, found.output
    return found.output


def note(path: Path) -> dict[str, Any]:
    return dict(json.loads(Image.open(path).text["facegen"]))  # type: ignore[attr-defined]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_one_person_in_single_pictures(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = facegen(inputs, out, "--ref", inputs / "a.png", "--prompt", ONE, "-n", 2, "--seed", 7, "--aligned")
    assert str(out) in said
    assert sorted(path.name for path in out.iterdir()) == ["000007.png", "000008.png"]
    told = note(out / "000008.png")
    assert (told["seed"], told["method"], told["references"], told["alpha"]) == (8, "single", [["a.png"]], 1.0)
    first, second = (np.asarray(Image.open(path)) for path in sorted(out.iterdir()))
    assert first.shape == (32, 32, 3)
    assert (first != second).any()
    alone = tmp_path / "alone.png"
    facegen(inputs, alone, "--ref", inputs / "a.png", "--prompt", ONE, "-n", 1, "--seed", 8, "--aligned")
    assert np.abs(np.asarray(Image.open(alone)).astype(int) - second).max() <= 1


def test_two_people_late_in_a_grid(inputs: Path, tmp_path: Path) -> None:
    refs = ["--ref", inputs / "a.png", "--ref", inputs / "many", "--aligned", "--prompt", TWO]
    facegen(inputs, tmp_path / "grid.png", *refs, "-n", 3, "--alpha", 0.5)
    told = note(tmp_path / "grid.png")
    assert (told["method"], told["alpha"], told["seeds"]) == ("mf2d", 0.5, [0, 1, 2])
    assert told["references"] == [["a.png"], ["c.png", "d.png"]]
    assert Image.open(tmp_path / "grid.png").width > 2 * 32
    pictures = {}
    changes: dict[str, list[object]] = {
        "late": ["--alpha", 0.5], "naive": ["--method", "naive"],
        "file": ["--mapper", inputs / "mf2d.pt", "--alpha", 0.5], "added": ["--fusion", "add_output"],
        "rest": ["--cfg", 9, "--alpha", 0.5, "--steps", 3, "--negative", "a hat"],
    }  # fmt: skip
    for name, options in changes.items():
        facegen(inputs, tmp_path / f"{name}.png", *refs, "-n", 1, *options)
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int)
    assert (pictures.pop("file") == pictures["late"]).all()
    assert note(tmp_path / "naive.png")["alpha"] == 1.0
    rest = note(tmp_path / "rest.png")
    assert (rest["guidance_scale"], rest["num_steps"], rest["negative"]) == (9.0, 3, "a hat")
    names = list(pictures)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (pictures[one] != pictures[other]).any(), f"{one} and {other} are the same"


def test_landmarks_say_where_the_faces_are(inputs: Path, tmp_path: Path) -> None:
    points = {"wide.png": [[20, 15], [30, 15], [25, 20], [21, 25], [29, 25]]}
    (tmp_path / "points.json").write_text(json.dumps(points))
    where = ["--prompt", ONE, "-n", 1, "--landmarks", tmp_path / "points.json"]
    facegen(inputs, tmp_path / "x.png", "--ref", inputs / "wide.png", *where)
    said = facegen(inputs, tmp_path / "y.png", "--ref", inputs / "a.png", *where, code=2)
    assert "a.png: the list of landmarks does not name it" in said
    said = facegen(inputs, tmp_path / "y.png", "--ref", inputs / "wide.png", "--prompt", ONE, code=2)
    assert "taking each photograph as --aligned" in said
    assert "wide.png: 60x40 px; without landmarks or a detector" in said


def test_the_detector_beside_the_model_finds_the_faces(inputs: Path, tmp_path: Path) -> None:
    for name in ("text-to-image", "msid", "mapper"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).symlink_to(inputs / "models" / name)
    (tmp_path / "models/detector").mkdir()
    write_scrfd(tmp_path / "models/detector/detector.onnx", size=128)
    Image.fromarray(photograph((9, 5))).save(tmp_path / "one.png")
    Image.fromarray(photograph((9, 5), (3, 9))).save(tmp_path / "two.png")
    (tmp_path / "points.json").write_text(json.dumps((POINTS + CORNER).tolist()))
    drawn = ["--prompt", ONE, "-n", 1, "--model", tmp_path / "models"]
    facegen(inputs, tmp_path / "found.png", "--ref", tmp_path / "one.png", *drawn)
    given = ["--landmarks", tmp_path / "points.json"]
    facegen(inputs, tmp_path / "given.png", "--ref", tmp_path / "one.png", *drawn, *given)
    assert (pixels(tmp_path / "found.png") == pixels(tmp_path / "given.png")).all()
    facegen(inputs, tmp_path / "aligned.png", "--ref", tmp_path / "one.png", *drawn, "--aligned")
    assert (pixels(tmp_path / "found.png") != pixels(tmp_path / "aligned.png")).any()
    said = facegen(inputs, tmp_path / "x.png", "--ref", tmp_path / "two.png", *drawn)
    assert "two.png: 2 faces found; the largest one is taken" in said
    said = facegen(inputs, tmp_path / "y.png", "--ref", inputs / "a.png", *drawn, code=2)
    assert "a.png: no face found; name its landmarks" in said


def test_nobody_in_particular(inputs: Path, tmp_path: Path) -> None:
    facegen(inputs, tmp_path / "x.png", "--method", "class_word", "--prompt", "a man smiling", "-n", 1)
    assert note(tmp_path / "x.png")["references"] == []


def test_a_mapper_of_another_encoder_is_refused(inputs: Path, tmp_path: Path) -> None:
    other = MSID(patch_size=56, width=8, depth=2, num_heads=2, depths=[0, 1])
    draw_weights(other, torch_generator(1, "msid"))
    other.save_pretrained(tmp_path / "msid")
    arguments = ["--ref", inputs / "a.png", "--prompt", ONE, "--aligned", "--msid", tmp_path / "msid"]
    said = facegen(inputs, tmp_path / "x.png", *arguments, code=2)
    assert "single was trained with another identity encoder than" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--prompt says what to draw"),
        (["--prompt", ONE], "--ref names a photograph of each person"),
        (["--prompt", TWO, "--ref", "a.png"], "names <id:1>, but 1 person is given"),
        (["--prompt", ONE, "--ref", "a.png", "--ref", "b.png"], "does not name <id:1>"),
        (["--prompt", ONE, "--ref", "nobody.png"], "nobody.png: no such photograph"),
        (["--prompt", ONE, "--ref", "a.png", "--method", "magic"], "unknown method 'magic'; allowed: class_word, "),
        (["--prompt", ONE, "--ref", "a.png", "--method", "class_word"], "class_word knows nobody"),
        (["--prompt", ONE, "--method", "class_word", "--alpha", "1"], "class_word knows nobody; --alpha"),
        (["--prompt", ONE, "--ref", "a.png", "--fusion", "postfuse"], "fusion is 'postfuse'"),
        (["--prompt", ONE, "--ref", "a.png", "--scheduler", "heun"], "scheduler is 'heun'"),
        (["--prompt", ONE, "--ref", "a.png", "--detector", "no.onnx"], "no.onnx does not exist"),
        (["--prompt", ONE, "--ref", "a.png", "--base", "b.png"], "b.png"),
        (["--prompt", ONE, "--ref", "a.png", "--method", "single_plain"], "single_plain has no mapper.json"),
        (["--prompt", ONE, "--ref", "a.png", "--out", "x.gif"], "x.gif: write to a .png"),
        (["--prompt", ONE, "--ref", "a.png", "--out", "a.png"], "there already; --overwrite"),
    ],
)
def test_mistakes_end_in_one_line(
    inputs: Path, tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    if "--detector" not in arguments and "--ref" in arguments:
        arguments = [*arguments, "--aligned"]
    output = facegen(inputs, tmp_path / "x.png", *arguments, code=2)
    assert said in output
    assert output.strip().count("\n") == 0
    assert not (tmp_path / "x.png").exists()
