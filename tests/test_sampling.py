"""`facegen sample`, `grid` and `export` on a small model: pictures come out, and mistakes are one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from facegen import FacePipeline
from facegen.cli import app
from facegen.data.samples import read_samples
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT
from facegen.pipeline import make_scheduler
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling", "Eyeglasses"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    dit = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=1, num_heads=2, mlp_ratio=2.0,
        attribute_names=NAMES, latent_mean=[0.0] * 4, latent_std=[1.0] * 4,
    )  # fmt: skip
    for i, parameter in enumerate([*dit.parameters(), *vae.parameters()]):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(0, "weights", i))
    pipe = FacePipeline(
        dit,
        vae,
        make_scheduler("euler", shift=1.0),
        num_inference_steps=3,
        guidance_scale=2.0,
        guidance_interval=[0, 1],
    )
    pipe.save_pretrained(folder)
    return str(folder)


def facegen(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def test_grid_with_metadata(model, tmp_path):
    out = tmp_path / "grid.png"
    facegen("sample", "--attr", "Male=1,Smiling=0", "--seed", 3, "--num", 5, "-o", out, "--model", model)
    picture = Image.open(out)
    about = json.loads(picture.text["facegen"])
    assert about["attributes"] == {"Male": 1, "Smiling": 0} and about["seeds"] == [3, 4, 5, 6, 7]
    assert picture.width > 3 * 128
    first = out.read_bytes()
    facegen("sample", "--attr", "Male=1,Smiling=0", "--seed", 3, "--num", 5, "-o", out, "--model", model)
    assert out.read_bytes() == first


def test_folder_and_data_set_hold_the_same_pictures(model, tmp_path):
    common = [
        "--attr",
        "Male=1",
        "--seed",
        10,
        "--num",
        3,
        "--model",
        model,
        "--guidance",
        3,
        "--strength",
        "Smiling=2",
    ]
    facegen("sample", *common, "-o", tmp_path / "pictures")
    facegen("sample", *common, "-o", tmp_path / "set.parquet")
    samples = read_samples(tmp_path / "set.parquet")
    assert samples.seeds.tolist() == [10, 11, 12] and (samples.attributes == [1, -1, -1]).all()
    for seed, image in zip(samples.seeds, samples.images(), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / f"{seed:06d}.png")), image)


def test_attribute_grid(model, tmp_path):
    facegen("grid", "-o", tmp_path / "a.png", "--num", 2, "--model", model)
    assert Image.open(tmp_path / "a.png").height > 6 * 128


def test_export_and_load(model, tmp_path):
    facegen("export", tmp_path / "pipeline", "--model", model)
    pipe = FacePipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.config.num_inference_steps == 3 and pipe.attribute_names == NAMES
    assert "not empty" in facegen("export", tmp_path / "pipeline", "--model", model, code=2).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attr", "Mal=1"], "did you mean Male"),
        (["--attr", "Male=3"], "write Male=1"),
        (["--strength", "Male=x"], "finite number"),
        (["-o", "out.jpg"], "write to a .png"),
        (["--device", "cuda:9"], "sees no GPU"),
    ],
)
def test_mistakes_are_one_line(model, arguments, message):
    if "cuda:9" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    output = facegen("sample", "--num", 1, "--steps", 1, "--model", model, *arguments, code=2).output
    lines = [line for line in output.splitlines() if line.startswith("facegen: ")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in output


def test_no_model_says_what_to_do(tmp_path):
    assert "dvc repro" in facegen("sample", "--model", tmp_path, code=2).output
