"""`facegen edit`, `inpaint` and `upscale`: what they write, and that every mistake is one line and exit code 2."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from facegen.cli import app
from facegen.data.images import encode_png
from facegen.data.regions import box_mask
from facegen.upscaling import FaceUpscaler
from tests.made_editor import NAMES, SIDE, face_points, photograph, write_models
from tests.test_face_detector import write_scrfd

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"

HUGE = encode_png(Image.new("1", (6000, 5000)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a photograph, its landmarks, masks, and what is no picture, as the current one."""
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    np.savetxt(tmp_path / "photo.txt", face_points())
    brush = np.zeros((150, 200), np.uint8)
    brush[80:110, 70:120] = 255
    Image.fromarray(brush).save(tmp_path / "mask.png")
    Image.fromarray(brush[:100]).save(tmp_path / "small-mask.png")
    Image.fromarray(brush * 0).save(tmp_path / "empty-mask.png")
    (tmp_path / "huge.png").write_bytes(HUGE)
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def facegen(model, *arguments, code=0):
    fixed = ["--model", model, "--params", PARAMS, "--device", "cpu"]
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, *fixed)])
    assert result.exit_code == code, result.output
    return result


def edit(model, *arguments, photo="photo.png", code=0):
    return facegen(
        model, "edit", photo, "--set", "Mustache=1", "--steps", 2, "--landmarks", "photo.txt", *arguments, code=code
    )


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def about(path) -> dict:
    return json.loads(Image.open(path).text["facegen"])


def test_edit_writes_the_photograph_with_what_it_was_asked(model, here):
    result = edit(
        model, "-o", "out.png", "--seed", 5, "--region", "mouth+upper_lip", "--method", "blend", "--guidance", 3
    )
    assert result.stdout.strip() == "out.png"
    after, before = pixels("out.png"), photograph()
    assert after.shape == before.shape and (after != before).any() and (after[:70] == before[:70]).all()
    note = about("out.png")
    assert note["attributes"] == {"Mustache": 1} and note["seed"] == 5 and note["method"] == "blend"
    assert note["region"] == "mouth+upper_lip" and note["guidance_scale"] == 3 and note["num_steps"] == 2
    assert note["model"]["name"] == "dit" and len(note["model"]["sha256"]) == 64 and len(note["states"]) == len(NAMES)
    edit(model, "-o", "again.png", "--seed", 5, "--region", "mouth+upper_lip", "--method", "blend", "--guidance", 3)
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_settings_matter(model, here):
    made = []
    for arguments in ([], ["--seed", 1, "--method", "blend"], ["--guidance", 6], ["--upscale", 4], ["--keep-unknown"],
                      ["--method", "sdedit"], ["--method", "sdedit", "--strength", 0.3]):  # fmt: skip
        edit(model, "-o", "out.png", "--overwrite", *arguments)
        made.append(Path("out.png").read_bytes())
    assert len(set(made)) == len(made)


def test_comparison_and_default_name(model, here):
    edit(model, "--compare")
    after, both = pixels("photo-edited.png"), pixels("photo-edited-compare.png")
    height, width = after.shape[:2]
    margin = next(y for y in range(40) if (both[y] != 255).any())
    rows = both[margin : margin + height]
    left = next(x for x in range(40) if (rows[:, x] != 255).any())
    right = rows.shape[1] - left - width
    assert right >= left + width and not np.array_equal(after, photograph())
    assert np.array_equal(rows[:, left : left + width], photograph())
    assert np.array_equal(rows[:, right : right + width], after)


def test_variants_as_a_grid_or_as_files(model, here):
    edit(model, "--num", 3, "--seed", 7, "-o", "grid.png")
    assert pixels("grid.png").shape[0] > 2 * 150 and about("grid.png")["seeds"] == [7, 8, 9]
    edit(model, "--num", 3, "--seed", 7, "-o", "variants")
    names = sorted(path.name for path in Path("variants").iterdir())
    assert names == ["photo-000007.png", "photo-000008.png", "photo-000009.png"]
    assert [about(Path("variants") / name)["seed"] for name in names] == [7, 8, 9]
    edit(model, "--seed", 8, "-o", "one.png")
    assert np.abs(pixels("one.png").astype(int) - pixels("variants/photo-000008.png")).max() <= 1
    assert "a grid (.png) or files" in edit(model, "--num", 2, "-o", "grid.jpg", code=2).output


def test_inpaint_leaves_what_is_not_marked(model, here):
    common = ("--landmarks", "photo.txt", "--steps", 2)
    facegen(model, "inpaint", "photo.png", "--mask", "mask.png", "--set", "Smiling=1", "-o", "a.png", *common)
    facegen(model, "inpaint", "photo.png", "--box", "70,80,120,110", "--set", "Smiling=1", "-o", "b.png", *common)
    assert np.array_equal(pixels("a.png"), pixels("b.png")) and about("a.png")["model"]["name"] == "inpainter"
    changed = (pixels("a.png") != photograph()).any(axis=-1)
    assert changed.any() and not (changed & ~box_mask((70, 80, 120, 110), size=(150, 200))).any()
    assert about("a.png")["mask"] == "mask.png"


def test_upscale(model, here):
    Image.fromarray(photograph(20, 30)).convert("LA").save("small.png")
    facegen(model, "upscale", "small.png", "-o", "large.png")
    assert Image.open("large.png").size == (120, 80) and Image.open("large.png").mode == "LA"
    assert about("large.png")["upscale"] == 4


def test_a_folder_with_one_bad_picture(model, here):
    Path("photos").mkdir()
    for k, name in enumerate(("a.png", "b.jpg", "d.webp")):
        Image.fromarray(photograph(150, 200, seed=k)).save(Path("photos") / name)
    Path("photos/c.png").write_text("no picture")
    Path("photos/notes.txt").write_text("no picture either, and not called one")
    row = " ".join(f"{v:.2f}" for v in face_points().ravel())
    Path("list.txt").write_text("".join(f"{name} {row}\n" for name in ("a.png", "b.jpg", "c.png", "d.webp")))
    arguments = ("edit", "photos", "--set", "Mustache=1", "--steps", 2, "--landmarks", "list.txt", "-o", "out")
    result = facegen(model, *arguments, code=1)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.jpg", "d.webp"]
    assert [Image.open(Path("out") / name).format for name in ("a.png", "b.jpg", "d.webp")] == ["PNG", "JPEG", "WEBP"]
    lines = [line for line in result.stderr.splitlines() if line.startswith("facegen: ")]
    assert len(lines) == 2 and "photos/c.png: not a JPEG" in lines[0] and "1 of 4 pictures failed" in lines[1]
    assert "out/a.png and 2 more: there already" in facegen(model, *arguments, code=2).output
    facegen(model, *arguments, "--overwrite", code=1)
    assert "go into a folder" in facegen(model, *arguments[:-1], "out.png", code=2).output


def test_a_picture_that_the_list_does_not_name_and_masks_by_name(model, here):
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(photograph()).save(f"photos/{name}.png")
    Path("masks/a.png").write_bytes(Path("mask.png").read_bytes())
    row = " ".join(f"{v:.2f}" for v in face_points().ravel())
    Path("list.txt").write_text(f"a.png {row}\n")
    common = ("edit", "photos", "--set", "Mustache=1", "--steps", 2, "--overwrite")
    result = facegen(model, *common, "--landmarks", "list.txt", "--mask", "masks", code=1)
    assert (
        "photos/b.png: the list of landmarks does not name it" in result.output
        and Path("photos-edited/a.png").is_file()
    )
    result = facegen(model, *common, "--aligned", "--mask", "masks", code=1)
    assert "photos/b.png: " in result.output and "masks/b.png" in result.output


def test_the_detector_finds_the_face(model, here):
    Path("pack").mkdir()
    write_scrfd(Path("pack/det.onnx"), size=128)
    spot = photograph(128, 128)
    spot[40:48, 72:80] = 255
    Image.fromarray(spot).save("spot.png")
    common = ("--set", "Mustache=1", "--steps", 2, "--detector", "pack")
    facegen(model, "edit", "spot.png", *common, "-o", "out.png")
    changed = np.flatnonzero((pixels("out.png") != spot).any(axis=(0, 2)))
    assert changed.min() > 50 and changed.max() < 110  # its face lies between x = 62 and 86
    assert "face 2: the photograph has 1" in facegen(model, "edit", "spot.png", *common, "--face", 2, code=2).output
    Image.fromarray(photograph() // 2).save("nobody.png")
    assert "nobody.png: no face found" in facegen(model, "edit", "nobody.png", *common, code=2).output


def test_without_landmarks_it_says_what_it_takes_for_granted(model, here):
    common = ("edit", "photo.png", "--set", "Mustache=1", "--steps", 2)
    assert "taking each photograph as --aligned" in facegen(model, *common, "-o", "a.png").stderr
    assert "facegen: " not in facegen(model, *common, "-o", "b.png", "--aligned").stderr
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def test_transparency_is_kept_or_refused_before_the_work(model, here):
    layer = np.dstack([photograph(), np.full((150, 200), 200, np.uint8)])
    Image.fromarray(layer, "RGBA").save("clear.png")
    edit(model, "-o", "out.png", photo="clear.png")
    assert (pixels("out.png")[..., 3] == 200).all() and (pixels("out.png")[..., :3] != layer[..., :3]).any()
    assert "JPEG has no transparency" in edit(model, "-o", "out.jpg", photo="clear.png", code=2).output


MISTAKES = [
    (["edit", "none.png", "--set", "Mustache=1"], "none.png: no such file or folder"),
    (["edit", "text.png", "--set", "Mustache=1", "--aligned"], "text.png: not a JPEG, PNG or WebP picture"),
    (["edit", "huge.png", "--set", "Mustache=1", "--aligned"], "huge.png: 6000x5000 px, 30.0 megapixels; at most 25"),
    (["edit", "photo.png"], "--set names what shall change"),
    (["edit", "photo.png", "--set", "Mustach=1"], "did you mean Mustache?"),
    (["edit", "photo.png", "--set", "Mustache=2"], "write Mustache=1"),
    (["edit", "photo.png", "--set", "Mustache=1", "--region", "mout"], "unknown region 'mout'; did you mean mouth?"),
    (["edit", "photo.png", "--set", "Mustache=1", "--method", "magic"], "unknown edit method 'magic'"),
    (["edit", "photo.png", "--set", "Mustache=1", "--box", "0,0,9"], "four whole numbers"),
    (["edit", "photo.png", "--set", "Mustache=1", "--box", "0,0,900,9"], "expected 0 <= x0 < x1 <= 200"),
    (["edit", "photo.png", "--set", "Mustache=1", "--box", "0,0,9,9"], "does not touch the square"),
    (["edit", "photo.png", "--set", "Mustache=1", "--upscale", "3"], "was trained for 4"),
    (["edit", "photo.png", "--set", "Mustache=1", "-o", "out.tif"], "ends in .png"),
    (["edit", "photo.png", "--set", "Mustache=1", "-o", "mask.png"], "mask.png: there already; --overwrite"),
    (["edit", "photo.png", "--set", "Mustache=1", "--face", "2"], "name one"),
    (["edit", "photo.png", "--set", "Mustache=1", "--detector", "x", "--aligned"], "exclude each other"),
    (["edit", "photo.png", "--set", "Mustache=1", "--detector", "x"], "x does not exist; expected a face detection"),
    (["edit", "photo.png", "--set", "Mustache=1", "--landmarks", "none.txt"], "none.txt: no such file"),
    (["edit", "photo.png", "--set", "Mustache=1", "--landmarks", "text.png"], "text.png: expected five points"),
    (["inpaint", "photo.png"], "--mask or --box says which part"),
    (["inpaint", "photo.png", "--mask", "small-mask.png"], "small-mask.png: 200x100 px, but the picture has 200x150"),
    (["inpaint", "photo.png", "--mask", "empty-mask.png"], "empty-mask.png: it marks nothing"),
    (["inpaint", "photo.png", "--mask", "none.png"], "none.png"),
    (["upscale", "text.png"], "text.png: not a JPEG"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line(model, here, arguments, message):
    result = facegen(model, *arguments, code=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("facegen: ") and "taking each" not in line]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in result.output
    assert result.stdout == "" and not list(here.glob("*-edited*")) and not list(here.glob("*-inpainted*"))


def test_models_that_are_not_there(model, here, tmp_path):
    common, plain = ("--set", "Mustache=1", "--aligned"), ("--method", "blend")
    assert "holds no model" in facegen(tmp_path, "edit", "photo.png", *common, code=2).output
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("dit", "autoencoder"):
        (bare / name).symlink_to(model / name)
    (bare / "upscaler").mkdir()
    (bare / "upscaler" / "upscaler.json").write_text('{"absent": "no large faces"}')
    for arguments, message in (
        (("edit", "photo.png", *common, *plain, "--upscale", 4, "--keep-unknown"), "holds no upscaler: no large faces"),
        (("upscale", "photo.png"), "holds no upscaler: no large faces"),
        (("sample", "--num", 1, "--upscale", 4), "holds no upscaler: no large faces"),
        (("grid", "--upscale", 4), "holds no upscaler: no large faces"),
        (
            ("inpaint", "photo.png", "--mask", "mask.png", "--aligned"),
            "holds no inpainter, which method conditioned needs",
        ),
        (("edit", "photo.png", *common, *plain, "--steps", 2), "--keep-unknown"),
    ):
        output = facegen(bare, *arguments, code=2).output
        assert message in output and "Traceback" not in output


def test_samples_and_grids_are_enlarged(model, here):
    facegen(model, "sample", "--num", 2, "--steps", 1, "--upscale", 4, "-o", "faces")
    facegen(model, "sample", "--num", 2, "--steps", 1, "-o", "plain")
    assert pixels("faces/000001.png").shape == (4 * SIDE, 4 * SIDE, 3) and about("faces/000001.png")["upscale"] == 4
    upscaler = FaceUpscaler.load(model / "upscaler", device=torch.device("cpu"))
    plain = np.stack([pixels(f"plain/00000{k}.png") for k in (0, 1)])
    assert np.array_equal(np.stack([pixels(f"faces/00000{k}.png") for k in (0, 1)]), upscaler.upscale(plain))
    facegen(model, "grid", "--num", 1, "--steps", 1, "--upscale", 4, "-o", "grid.png")
    assert pixels("grid.png").shape[0] > 2 * len(NAMES) * 4 * SIDE


def test_an_exported_folder_edits_alike(model, here):
    result = CliRunner().invoke(app, ["export", "pipeline", "--model", str(model), "--params", str(PARAMS)])
    assert result.exit_code == 0, result.output
    edit(model, "-o", "a.png")
    edit("pipeline", "-o", "b.png")
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
