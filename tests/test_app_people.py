"""What the personalise tab computes without a browser: faces read from photographs, who is drawn how, and why it is absent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from facegen.app.models import Models
from facegen.app.people import MAPPERS, Reference, chosen_method, given_people, known_steps
from facegen.data.align import CANONICAL, face_crops
from facegen.personalize.generation import METHODS
from facegen.personalize.opening import open_personalizer
from tests.made_mappers import write_personalizer
from tests.test_face_detector import CORNER, POINTS, photograph, write_scrfd

ONE, TWO = "<id:0> smiling", "<id:0> and <id:1> wearing hats"
SOLVER = {"num_steps": 4, "guidance_scale": 2.0, "alpha": 0.5, "negative": "a hat", "scheduler": "euler"}
OWN_PROMPTS = {"prompts_one": [ONE], "prompts_two": [TWO]}
FULL = ("text-to-image", "msid", "mapper", "detector")


def write_params(path: Path, root: Path, **sections: dict[str, Any]) -> Path:
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    for name, changed in {"personalize": SOLVER | OWN_PROMPTS, **sections}.items():
        values[name] |= changed
    yaml.dump(values, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """All that draws given people, and a parameter file; beside it as much of a generator as its facts are read from."""
    folder = tmp_path_factory.mktemp("made")
    write_personalizer(folder, variants=("single", "mf2d"))
    (folder / "detector").mkdir()
    write_scrfd(folder / "detector" / "detector.onnx", size=128)
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps({"attribute_names": ["Male"]}))
    (folder / "model_index.json").write_text(json.dumps({"num_inference_steps": 9, "guidance_scale": 3.0}))
    write_params(folder / "params.yaml", root)
    return folder


@pytest.fixture(scope="module")
def models(made: Path) -> Models:
    return models_of(made, made / "params.yaml")


def models_of(folder: Path, params: Path) -> Models:
    return Models(folder, params=params, device="cpu", detector=None)


def part_of(made: Path, folder: Path, *, without: str) -> Path:
    """A folder with all but one of what draws given people."""
    for name in {*FULL, "transformer", "model_index.json"} - {without}:
        (folder / name).symlink_to(made / name)
    return folder


def test_the_methods_are_those_of_the_library() -> None:
    assert {name: METHODS[name].mapper for name in MAPPERS} == MAPPERS


def test_facts_of_a_whole_folder(made: Path, tmp_path: Path, root: Path) -> None:
    facts = models_of(made, made / "params.yaml").facts
    assert facts.no_people is None
    people = facts.people
    assert people is not None
    assert people.settings == SOLVER
    assert people.examples == (ONE, TWO)
    assert people.methods == ("mf2d", "naive", "single", "class_word")
    assert people.max_people == 2
    assert people.has_detector
    one = write_params(tmp_path / "one.yaml", root, mapper={"max_subjects": 1}, preprocess={"max_megapixels": 3.0})
    alone = models_of(made, one).facts.people
    assert alone is not None
    assert (alone.examples, alone.max_people, alone.max_megapixels) == ((ONE,), 1, 3.0)


@pytest.mark.parametrize("name", ["text-to-image", "msid", "mapper"])
def test_what_is_missing_is_named(made: Path, tmp_path: Path, name: str) -> None:
    facts = models_of(part_of(made, tmp_path, without=name), made / "params.yaml").facts
    assert facts.people is None
    assert facts.no_people is not None
    assert f"holds no {name};" in facts.no_people
    (tmp_path / name).mkdir()  # as a stage leaves it that could not run
    about = {"text-to-image": "text_to_image.json", "msid": "recognizer.json", "mapper": "mapper.json"}[name]
    (tmp_path / name / about).write_text(json.dumps({"absent": "there is one person alone"}))
    told = models_of(tmp_path, made / "params.yaml").facts.no_people
    assert told is not None
    assert told.startswith("there is one person alone (")


def test_some_of_it(made: Path, tmp_path: Path) -> None:
    facts = models_of(part_of(made, tmp_path, without="detector"), tmp_path / "none.yaml").facts
    assert facts.people is None
    assert "none.yaml does not exist" in str(facts.no_people)
    people = models_of(tmp_path, made / "params.yaml").facts.people
    assert people is not None
    assert not people.has_detector
    (tmp_path / "mapper").unlink()
    (tmp_path / "mapper").mkdir()
    (tmp_path / "mapper/single").symlink_to(made / "mapper/single")
    (tmp_path / "text-to-image").unlink()
    (tmp_path / "text-to-image").mkdir()
    (tmp_path / "text-to-image/pointer.json").write_text(json.dumps({"source": str(made / "text-to-image")}))
    fewer = models_of(tmp_path, made / "params.yaml")
    assert fewer.facts.people is not None
    assert fewer.facts.people.methods == ("naive", "single", "class_word")
    assert fewer.people.base.latent_size == (16, 16)


@pytest.mark.parametrize(
    ("method", "num", "there", "expected"),
    [
        ("auto", 1, ["mf2d", "naive", "single"], "single"),
        ("auto", 2, ["mf2d", "naive", "single"], "mf2d"),
        ("auto", 2, ["naive", "single"], "naive"),
        ("auto", 1, ["mf2d"], "mf2d"),
        ("naive", 2, ["mf2d", "naive", "single"], "naive"),
        ("class_word", 0, ["class_word"], "class_word"),
        ("auto", 0, ["single"], "Choose a photograph of each person first"),
        ("single", 2, ["mf2d", "single"], "draws one person, and 2 photographs are here"),
        ("mf2d", 2, ["naive", "single"], "There is no mapper for mf2d"),
    ],
)
def test_who_is_drawn_how(method: str, num: int, there: list[str], expected: str) -> None:
    if " " not in expected:
        assert chosen_method(method, num, methods=there) == expected
        return
    with pytest.raises(ValueError, match=expected):
        chosen_method(method, num, methods=there)


def test_people_are_counted_without_gaps() -> None:
    a, b = (Reference(name, torch.zeros(1, 3, 2, 2)) for name in "ab")
    assert given_people([a, b]) == [a, b]
    assert given_people([a, None]) == [a]
    assert given_people([None, None]) == []
    for references, missing in (([None, a], 0), ([a, None, b], 1)):
        with pytest.raises(ValueError, match=f"of <id:{missing}> is missing"):
            given_people(references)


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def grainy(*cells: tuple[int, int], seed: int = 0) -> np.ndarray:
    pixels = photograph(*cells)
    grain = np.random.default_rng(seed).integers(0, 60, pixels.shape, dtype=np.uint8)
    return np.where(pixels == 255, pixels, pixels + grain)


def read(models: Models, pixels: np.ndarray, *, aligned: bool = False, told: list[str] | None = None) -> Reference:
    tell = (told if told is not None else []).append
    return models.read_person(png(pixels), name="a.png", aligned=aligned, max_megapixels=1.0, tell=tell)


def test_a_face_is_read_where_the_detector_finds_it(models: Models) -> None:
    pixels, told = grainy((9, 5)), list[str]()
    expected = face_crops(pixels[None], (POINTS + CORNER)[None].astype(np.float64), size=112)
    found = read(models, pixels, told=told)
    assert torch.allclose(found.crop, expected, atol=1e-3)
    assert found.name == "a.png"
    assert found.view.shape == (112, 112, 3)
    assert np.abs(found.view / 127.5 - 1 - expected[0].permute(1, 2, 0).numpy()).max() < 0.01
    assert not told
    mean = CANONICAL * 128 - 0.5
    assert torch.equal(read(models, pixels, aligned=True).crop, face_crops(pixels[None], mean[None], size=112))
    read(models, grainy((9, 5), (3, 9)), told=told)
    assert told == ["a.png: 2 faces found; the largest one is taken"]


def test_a_photograph_without_a_face(models: Models) -> None:
    with pytest.raises(ValueError, match="no face found"):
        read(models, grainy())
    with pytest.raises(ValueError, match="megapixel"):
        read(models, np.zeros((1001, 1000, 3), np.uint8))


def test_pictures_are_those_of_the_library(models: Models, made: Path) -> None:
    people = [read(models, grainy((9, 5))), read(models, grainy((10, 6), seed=1), aligned=True)]
    steps: list[tuple[int, int]] = []
    drawn: dict[str, np.ndarray] = {}
    for method, mapper in MAPPERS.items():
        own, prompt = (people[:1], ONE) if method == "single" else (people, TWO)
        drawn[method], about = models.draw_people(
            own, prompt, method=method, seeds=[3, 4], on_step=lambda *step: steps.append(step), **SOLVER
        )
        assert about["references"] == ([] if method == "class_word" else [["a.png"]] * len(own))
        alpha = {"mf2d": 0.5, "class_word": 0.0}.get(method, 1.0)
        assert {name: about[name] for name in SOLVER} == {**SOLVER, "alpha": alpha}
        known = {"mf2d": "in the last 2 of 4", "class_word": "nobody in particular"}.get(method, "in all 4 steps")
        assert known in known_steps(about)
        drawer = open_personalizer(
            made / "text-to-image", msid=made / "msid", mapper=made / "mapper" / (mapper or "single"), device="cpu"
        )
        features = None if mapper is None else torch.stack([drawer.features([person.crop]) for person in own])
        settings: dict[str, Any] = {**SOLVER, "alpha": alpha}
        assert np.array_equal(drawn[method], drawer.generate(features, prompt, seeds=[3, 4], **settings))
    assert steps[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    names = ["mf2d", "naive", "class_word"]
    assert all((drawn[a] != drawn[b]).any() for i, a in enumerate(names) for b in names[:i])
    assert models.people.personalizer("mf2d").base is models.people.personalizer("single").base
    with pytest.raises(ValueError, match="does not name <id:1>"):
        models.draw_people(people, ONE, method="mf2d", seeds=[0], on_step=lambda *_: None, **SOLVER)


def test_the_page_has_the_tab_or_says_why_not(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from facegen.app.events import toast
    from facegen.app.page import build

    assert toast("prompt '<id:0>'") == "prompt '&lt;id:0&gt;'"
    whole = components(build(models_of(made, made / "params.yaml"), tmp_path, max_megapixels=None))
    assert "personalize-photo-1" in whole
    assert "personalize-photo-2" not in whole
    assert "missing" not in whole
    (tmp_path / "part").mkdir()
    folder = part_of(made, tmp_path / "part", without="msid")
    part = components(build(models_of(folder, made / "params.yaml"), tmp_path, max_megapixels=None))
    assert "personalize-run" not in part
    assert "holds no msid" in part["missing"]["value"]
    assert "generate-run" in part


def components(page: Any) -> dict[str, dict[str, Any]]:
    return {c["props"]["elem_id"]: c["props"] for c in page.config["components"] if c["props"].get("elem_id")}
