"""The text-to-image stage: a folder that diffusers opens, a pointer to a published model, or why there is neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from facegen.artifacts import read_json, write_json
from facegen.config import load_params
from facegen.data.images import encode_png
from facegen.data.scenes import Scenes, ScenesWriter
from facegen.models.autoencoder import build_autoencoder
from facegen.models.initialize import draw_weights
from facegen.models.text_to_image import TextToImage
from facegen.rng import numpy_generator, torch_generator
from pipelines.stage import Stage
from pipelines.text_to_image import OUT, lines_of, run, words_of
from tests.made_personalize import make_sd_folder

HEIGHT, WIDTH = 16, 24
TEXTS = {0: ("a man", "a man with black hair"), 1: ("a woman", "a woman juggling oranges")}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_scenes(folder, count: int) -> None:
    with ScenesWriter(folder, "train", height=HEIGHT, width=WIDTH, attribute_names=[], source="made") as writer:
        for number in range(count):
            pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            pixels[:] = numpy_generator(0, "scene", number).integers(0, 256, 3)
            caption, description = TEXTS[number % 2]
            mask = encode_png(np.zeros((HEIGHT, WIDTH), np.uint8))
            writer.add(str(number), encode_png(pixels), mask, caption, description, [])


def tiny_stage(root, home, *, base=None, **changes) -> Stage:
    params = load_params(home / "params.yaml")
    section = {
        "channels": (16, 32), "text_width": 16, "text_depth": 1, "num_heads": 2, "max_tokens": 16, "text_pairs": 256,
        "total_images": 16, "batch_size": 4, "log_images": 8, "checkpoint_images": 8, **changes,
    }  # fmt: skip
    params = params.model_copy(
        update={
            "base": params.base.model_copy(update={"precision": "fp32"}),
            "machine": params.machine.model_copy(update={"device": "cpu", "threads": 1}),
            "text_to_image": params.text_to_image.model_copy(update=section),
            "personalize": params.personalize.model_copy(update={"base": base}),
        }
    )
    scratch = root / ".runs/text_to_image"
    scratch.mkdir(parents=True, exist_ok=True)
    return Stage(
        name="text_to_image", params=params, root=root, home=root, key="0" * 8, scratch=scratch, parameters={},
        inputs={}, tracker=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("text-to-image")
    write_scenes(folder / "data/scenes", 8)
    vae = build_autoencoder(architecture="tiny", channels=[16, 16, 16], layers_per_block=1, latent_channels=4)
    draw_weights(vae, torch_generator(0, "vae"))
    vae.save_pretrained(folder / "data/models/autoencoder")
    run(tiny_stage(folder, root))
    return folder


def test_the_folder_is_a_pipeline_on_the_trained_autoencoder(trained):
    model = TextToImage.open(trained / OUT, device="cpu")
    assert model.latent_size == (4, 6) and model.prediction_type == "v_prediction"
    assert model.tokenizer.tokenize("Juggling oranges") == ["juggling</w>", "oranges</w>"]
    first = build_autoencoder(architecture="tiny", channels=[16, 16, 16], layers_per_block=1, latent_channels=4)
    draw_weights(first, torch_generator(0, "vae"))
    assert all(torch.equal(v, model.vae.state_dict()[k]) for k, v in first.state_dict().items())
    pixels = Scenes.open(trained / "data/scenes", "train").images(np.arange(8), threads=1)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    assert model.encode(images, None).std().item() == pytest.approx(1, rel=1e-3)
    drawn = StableDiffusionPipeline.from_pretrained(str(trained / OUT))("a man", num_inference_steps=2)
    assert drawn.images[0].size == (WIDTH, HEIGHT)
    about = read_json(trained / OUT / "text_to_image.json")
    assert about["scenes"] == 8 and about["words"] == len(model.tokenizer) and about["source"] is None
    assert {"preview.png", "log.csv", "log-text.csv"} <= {path.name for path in (trained / OUT).iterdir()}


def test_equal_runs_give_equal_weights(trained, tmp_path, root):
    for name in ("scenes", "models/autoencoder"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(trained / "data" / name)
    run(tiny_stage(tmp_path, root))
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        name = f"{OUT}/{part}.safetensors"
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_a_published_model_is_pointed_to(tmp_path, root):
    source = make_sd_folder(tmp_path / "published", kind="2.x")
    run(tiny_stage(tmp_path, root, base="published"))
    assert read_json(tmp_path / OUT / "pointer.json") == {"source": str(source)}
    with pytest.raises(FileNotFoundError, match="no Stable Diffusion at"):
        run(tiny_stage(tmp_path, root, base=str(tmp_path / "nowhere")))


def test_without_scenes_there_is_none(tmp_path, root, capfd):
    write_json(tmp_path / "data/scenes/scenes.json", {"absent": "drawn for others"})
    run(tiny_stage(tmp_path, root))
    assert read_json(tmp_path / OUT / "text_to_image.json") == {"absent": "drawn for others"}
    assert "no text-to-image model: drawn for others" in capfd.readouterr().err


def test_common_words_are_whole_and_lines_are_short(trained):
    words = words_of(Scenes.open(trained / "data/scenes", "train"))
    assert {"juggling", "eyeglasses", ","} <= set(words)
    assert lines_of("one two three", width=7) == ["one two", "three"] and lines_of("longer", width=3) == ["longer"]
