"""Training a text-to-image model: its latents, its batches, what it learns from the words, and exact resumption."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facegen.errors import StoppedError
from facegen.models.autoencoder import build_autoencoder
from facegen.models.initialize import draw_weights
from facegen.models.text_to_image import (
    TextToImage,
    build_text_encoder,
    build_unet,
    draw_text_to_image,
    new_scheduler,
)
from facegen.models.word_tokenizer import build_tokenizer
from facegen.rng import torch_generator
from facegen.train.caption_pairs import CaptionPairLearner, PairBatch, PairRecipe
from facegen.train.loop import make_accelerator, train
from facegen.train.text_to_image import SceneSet, TextToImageLearner, TextToImageRecipe, encode_scenes, fit_scaling
from tests.made_personalize import WORDS

CPU = torch.device("cpu")
LONG = ("a man with black hair", "a woman with red hair")  # told of bright and of dark latents
SHORT = ("a man", "a woman")


# float32, one thread; the first ten steps of the test below
GOLDEN = [1.0596663, 0.9700139, 0.9400164, 0.9178894, 0.7940416, 0.7941287, 0.6650738, 0.6077336, 0.4395508, 0.5615537]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(folder, prediction_type="v_prediction") -> TextToImage:
    generator = torch_generator(0, "tiny")
    tokenizer = build_tokenizer(WORDS, folder, max_tokens=10)
    text_encoder = build_text_encoder(tokenizer, width=32, depth=1, num_heads=2)
    unet = build_unet(
        channels=[16, 32], layers_per_block=1, latent_channels=4, latent_size=(4, 6), text_width=32, num_heads=2
    )
    draw_text_to_image(text_encoder, unet, generator)
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    draw_weights(vae, generator)
    return TextToImage(tokenizer, text_encoder, unet, vae.eval(), new_scheduler(prediction_type))


def scenes_for(model: TextToImage, count: int = 12) -> SceneSet:
    """Flat latents, each a little different, +1 for the first text and -1 for the second."""
    signs = torch.tensor([1.0, -1.0]).repeat(count // 2)[:, None, None, None]
    latents = signs + 0.05 * torch.randn(count, 4, 4, 6, generator=torch_generator(0, "scenes"))
    return SceneSet.make(model, latents, descriptions=LONG * (count // 2), captions=SHORT * (count // 2))


def recipe(**changes) -> TextToImageRecipe:
    values = {
        "seed": 0, "dtype": torch.float32, "total_images": 32, "learning_rate": 2e-3, "warmup_images": 16,
        "decay_fraction": 0.5,
        "weight_decay": 0.01, "grad_clip": 1.0, "drop_caption": 0.1, "ema_sigma_rel": 0.1,
    }  # fmt: skip
    return TextToImageRecipe(**{**values, **changes})


def fit(student: TextToImageLearner, scratch, *, stop_at: int | None = None, checkpoint_images: int = 16) -> list[dict]:
    records: list[dict] = []
    stop = threading.Event()

    def on_log(record, _timing):
        records.append(record)
        if stop_at is not None and record["images"] >= stop_at:
            stop.set()

    train(
        student, total_images=student.recipe.total_images, batch_size=8, scratch=scratch, identity={}, log_images=8,
        checkpoint_images=checkpoint_images, checkpoint_minutes=60,
        accelerator=make_accelerator(CPU, torch.float32), on_log=on_log, stop=stop,
    )  # fmt: skip
    return records


def test_latents_are_the_autoencoders_with_unit_deviation(tmp_path):
    model = tiny(tmp_path)
    images = torch.rand(7, 3, 8, 12, generator=torch_generator(0, "images")) * 2 - 1
    model.vae.register_to_config(scaling_factor=3.0)
    latents = encode_scenes(model, images.split(3), dtype=torch.float32)
    torch.testing.assert_close(latents, model.vae.encode(images).latents, rtol=1e-4, atol=1e-5)
    scaled = fit_scaling(model, latents)
    assert float(scaled.std()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(scaled, model.encode(images, None), rtol=1e-4, atol=1e-5)  # as the released model scales
    with pytest.raises(ValueError, match="all equal"):
        fit_scaling(model, torch.ones(3, 4, 4, 6))


def test_a_scene_needs_each_of_its_texts(tmp_path):
    with pytest.raises(ValueError, match="3 latents, 2 descriptions and 3 captions"):
        SceneSet.make(tiny(tmp_path), torch.zeros(3, 4, 4, 6), descriptions=["a"] * 2, captions=["a"] * 3)


def test_a_batch_is_a_function_of_its_position(tmp_path):
    model = tiny(tmp_path)
    student = TextToImageLearner(model, scenes_for(model), recipe())
    first, again, later = student.batch(8, 6), student.batch(8, 6), student.batch(14, 6)
    for name in ("noisy", "timesteps", "input_ids", "target"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.target, later.target)


def test_texts_are_told_in_their_shares_and_belong_to_their_latents(tmp_path):
    model = tiny(tmp_path)
    data = scenes_for(model)
    student = TextToImageLearner(model, data, recipe(drop_caption=0.25))
    batch = student.batch(0, 4800)
    long, short = (((batch.input_ids[:, None] == ids[:2]).all(-1)) for ids in (data.descriptions, data.captions))
    empty = (batch.input_ids == data.empty).all(-1)
    assert bool((long.sum(1) + short.sum(1) + empty == 1).all())
    assert float(empty.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(long.float().sum() / (long.sum() + short.sum())) == pytest.approx(0.8, abs=0.03)
    # x_0 = sqrt(abar) x_t - sqrt(1 - abar) v, whose sign says which text it has
    signal = model.ddpm.alphas_cumprod[batch.timesteps][:, None, None, None]
    mean = (signal.sqrt() * batch.noisy - (1 - signal).sqrt() * batch.target).mean(dim=(1, 2, 3))
    first = (long | short)[:, 0]
    assert bool((mean[first & ~empty] > 0.5).all()) and bool((mean[~first & ~empty] < -0.5).all())
    counts = torch.bincount(batch.timesteps // 100, minlength=10) / 4800
    assert bool(((counts - 0.1).abs() < 0.03).all())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_the_mean_square_of_what_is_not_predicted(tmp_path, prediction_type):
    model = tiny(tmp_path, prediction_type)
    student = TextToImageLearner(model, scenes_for(model), recipe())
    batch = student.batch(0, 8)
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(0.5)
    loss, logs = student.loss(model.unet, batch)
    predicted = model.predict(batch.noisy, batch.timesteps, model.hidden(batch.input_ids))
    torch.testing.assert_close(loss, F.mse_loss(predicted, batch.target))
    assert float(logs["loss"]) == loss.item() and "mse_t9" in logs
    loss.backward()
    assert model.unet.conv_out.weight.grad.any()
    assert not any(p.requires_grad for p in model.text_encoder.parameters())


def test_captions_find_their_scenes_by_the_text_encoder_alone(tmp_path):
    model = tiny(tmp_path / "tokenizer")
    data = scenes_for(model)
    before = copy.deepcopy(model.text_encoder.state_dict())
    plan = PairRecipe(seed=0, total_images=320, learning_rate=2e-3, weight_decay=0.01, grad_clip=1.0)
    student = CaptionPairLearner(model, data, plan)
    records: list[dict] = []
    train(
        student, total_images=320, batch_size=8, scratch=tmp_path, identity={}, log_images=80, checkpoint_images=0,
        checkpoint_minutes=60, accelerator=make_accelerator(CPU, torch.float32), stop=threading.Event(),
        on_log=lambda record, _timing: records.append(record),
    )  # fmt: skip
    with torch.no_grad():
        logits = student.module(data.latents[:2], data.captions[:2])
        swapped = student.module(data.latents[:2], data.captions[:2].flip(0))
    assert bool((logits.diag() > logits.flip(1).diag() + 2).all())  # its own scene, by far
    torch.testing.assert_close(swapped, logits.flip(0))
    expected = 0.5 * (F.cross_entropy(logits, torch.arange(2)) + F.cross_entropy(logits.T, torch.arange(2)))
    batch = PairBatch(data.latents[:2], data.captions[:2])
    torch.testing.assert_close(student.loss(student.module, batch)[0].detach(), expected)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert any(not torch.equal(v, before[k]) for k, v in model.text_encoder.state_dict().items())


def test_it_learns_what_the_words_mean(tmp_path):
    model = tiny(tmp_path / "tokenizer")
    student = TextToImageLearner(model, scenes_for(model), recipe(total_images=640, learning_rate=4e-3))
    fit(student, tmp_path, checkpoint_images=0)
    released = student.released().freeze()
    noisy, timesteps = torch.randn(2, 4, 4, 6, generator=torch_generator(0, "noise")), torch.full((2,), 999)
    noisy[1] = noisy[0]
    for texts in (LONG, SHORT):
        v = released.predict(noisy, timesteps, released.hidden(released.tokens(texts)))
        x0 = -v.mean(dim=(1, 2, 3))  # almost all noise: v = -x_0
        assert float(x0[0] - x0[1]) > 1.0  # 2 where the words are all that tells


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path):
    whole, stopped = (TextToImageLearner(m, scenes_for(m), recipe()) for m in (tiny(tmp_path / n) for n in "ab"))
    records = fit(whole, tmp_path)
    scratch = tmp_path / "stopped"
    scratch.mkdir()
    with pytest.raises(StoppedError):
        fit(stopped, scratch, stop_at=16)
    again = TextToImageLearner(model := tiny(tmp_path / "c"), scenes_for(model), recipe())
    assert fit(again, scratch) == records[2:]
    before = copy.deepcopy(again.model.unet.state_dict())
    ours, theirs = (s.released() for s in (again, whole))
    for name in ("unet", "text_encoder"):
        for key, value in getattr(ours, name).state_dict().items():
            assert torch.equal(value, getattr(theirs, name).state_dict()[key]), key
    assert any(
        not torch.equal(v, before[k]) for k, v in again.model.unet.state_dict().items()
    )  # averages, not the last


def test_the_golden_trace_of_the_loss(tmp_path):
    model = tiny(tmp_path / "tokenizer")
    records = fit(TextToImageLearner(model, scenes_for(model), recipe(total_images=80)), tmp_path)
    assert len(records) == 10
    np.testing.assert_allclose([r["loss"] for r in records], GOLDEN, rtol=1e-5)
