"""What the page computes without a browser: its parts, its facts about a model, and the command's mistakes in one line."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from facegen.app.models import asked_states, make_request, read_facts
from facegen.app.photos import Opened, canvas_of, mask_view, painted_mask, photo_mask, repainted_part, safe_stem
from facegen.cli import app
from facegen.data.align import canonical_landmarks
from facegen.data.regions import ATTRIBUTE_REGIONS, region_mask
from facegen.photo_face import AlignedFace, take_face, take_mask
from facegen.photograph import photograph_of

S = 32


@pytest.fixture
def face():
    image = np.arange(S * S * 3, dtype=np.uint32).reshape(S, S, 3).astype(np.uint8)
    return AlignedFace(image, canonical_landmarks(S), np.array([[1.0, 0, 0], [0, 1.0, 0]]))


def test_a_request_holds_what_is_asked_for():
    request = make_request(["A", "B", "C"], [1, -1, 0], [2.5, 3.0, 0.0], steps=7.0, guidance=2)
    assert request.attributes == {"A": 1, "C": 0} and request.strengths == {"A": 2.5}
    assert request.num_steps == 7 and isinstance(request.num_steps, int)
    assert asked_states(["A"], [-1]) == {}


def test_strokes_become_pixels_of_the_face():
    layer = np.zeros((4 * S, 4 * S, 4), np.uint8)
    layer[40:48, 20:28, 3] = 127  # two by two pixels, half transparent
    layer[80:84, 80:81, 3] = 255  # a quarter of one: too little
    layer[100:104, 100:103, 3] = 255  # three quarters of one
    expected = np.zeros((S, S), bool)
    expected[10:12, 5:7] = expected[25, 25] = True
    assert np.array_equal(painted_mask([layer], S), expected)
    assert painted_mask([], S) is None and painted_mask([np.zeros_like(layer)], S) is None


def test_which_part_is_repainted(face):
    stroke = np.zeros((S, S), bool)
    stroke[3, 4] = True
    mouth = region_mask(["mouth"], face.landmarks, size=S)
    glasses = region_mask(ATTRIBUTE_REGIONS["Eyeglasses"], face.landmarks, size=S)

    def part(painted=None, regions=(), changed=(), whole=False):
        return repainted_part(face, painted=painted, regions=regions, changed=changed, whole=whole)

    assert part() is None
    assert np.array_equal(part(stroke), stroke)
    assert np.array_equal(part(stroke, ["mouth"], ["Eyeglasses"]), stroke | mouth)
    assert np.array_equal(part(None, ["mouth"], ["Eyeglasses"]), mouth)
    assert np.array_equal(part(changed=["Eyeglasses"]), glasses)
    assert part(changed=["Eyeglasses"], whole=True).all()
    assert np.array_equal(part(None, ["mouth"], ["Eyeglasses"], whole=True), mouth)


@pytest.mark.parametrize("size", [(72, 96), (200, 120), (64, 64)])
def test_a_mask_of_the_face_in_the_photograph_and_back(size):
    photo = photograph_of(np.zeros((*size, 3), np.uint8))
    for landmarks in (None, canonical_landmarks(40) + 12):
        aligned = take_face(photo, landmarks, template=canonical_landmarks(S), resolution=S)
        mask = np.zeros((S, S), bool)
        mask[10:20, 8:24] = True
        found = photo_mask(Opened("", photo, aligned, landmarks), mask)
        assert found.shape == size and found.any() and not found.all()
        again = take_mask(found, aligned)
        core = np.zeros_like(mask)
        core[11:19, 9:23] = True
        wide = np.zeros_like(mask)
        wide[9:21, 7:25] = True
        assert again[core].all() and not again[~wide].any()


def test_the_view_is_red_in_the_mask_alone(face):
    mask = np.zeros((S, S), bool)
    mask[4, 6] = True
    plain, red = canvas_of(face.image), mask_view(face.image, mask)
    scale = len(plain) // S
    assert scale * S == len(plain) >= 384
    inside = np.kron(mask, np.ones((scale, scale), bool))
    assert np.array_equal(red[~inside], plain[~inside])
    assert np.array_equal(red[inside], np.rint(plain[inside] * 0.55 + 0.45 * np.array([220, 38, 38])).astype(np.uint8))
    assert np.array_equal(mask_view(face.image, None), plain)


def test_names_of_files():
    assert safe_stem("../My photo.v2.jpeg") == "My-photo-v2"
    assert safe_stem("???.png") == "photograph"


def test_every_attribute_has_one_place():
    pytest.importorskip("gradio")
    from facegen.app.attributes import OTHER, grouped, shown_name

    names = list(ATTRIBUTE_REGIONS)  # CelebA's forty
    groups = grouped([*names, "Freckles"])
    assert sorted(name for members in groups.values() for name in members) == sorted([*names, "Freckles"])
    assert groups[OTHER] == ["Freckles"] and "Face" not in grouped(["Male"])
    assert shown_name("5_o_Clock_Shadow") == "5 o clock shadow"


def exported(folder, **edit):
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps({"attribute_names": ["Male"]}))
    (folder / "model_index.json").write_text(json.dumps({"num_inference_steps": 9, "guidance_scale": 3.0}))
    if edit:
        (folder / "edit.json").write_text(json.dumps(edit))
    return folder


def test_facts_of_an_export(tmp_path):
    facts = read_facts(exported(tmp_path / "a"), params=tmp_path / "none.yaml", detector=None)
    assert facts.attribute_names == ("Male",) and facts.num_steps == 9 and facts.guidance_scale == 3.0
    assert facts.edit is None and not (facts.has_gan or facts.has_upscaler or facts.has_detector)
    folder = exported(tmp_path / "b", settings={"method": "blend"}, max_megapixels=4.0)
    (folder / "upscaler").mkdir()
    (folder / "upscaler" / "config.json").write_text("{}")
    facts = read_facts(folder, params=tmp_path / "none.yaml", detector=tmp_path)
    assert facts.edit.settings == {"method": "blend"} and facts.edit.max_megapixels == 4.0
    assert facts.has_upscaler and facts.has_detector and not facts.edit.has_inpainter


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--model", "nothing"], "dvc repro"), (["--model", ".", "--detector", "nowhere"], "nowhere does not exist")],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(exported(tmp_path / "model"))
    result = CliRunner().invoke(app, ["app", *options])
    lines = [line for line in result.output.splitlines() if line.startswith("facegen: ")]
    assert result.exit_code == 2 and len(lines) == 1 and message in lines[0] and "Traceback" not in result.output


def test_nothing_can_be_shared():
    result = CliRunner().invoke(app, ["app", "--share"])
    assert result.exit_code == 2 and "No such option" in result.output


def test_what_is_shown_is_of_a_good_size():
    from facegen.app.photos import picture_view

    assert picture_view(np.zeros((32, 16, 3), np.uint8)).size == (192, 384)
    assert picture_view(np.zeros((600, 800, 3), np.uint8)).size == (800, 600)
    assert picture_view(np.zeros((1200, 4800, 3), np.uint8)).size == (1200, 300)
    assert isinstance(picture_view(np.zeros((8, 8, 3), np.uint8)), Image.Image)
