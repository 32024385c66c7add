"""Text-to-image models: their tokenizer, the folders that they are read from, and the diffusion quantities."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPTokenizer

from facegen.errors import DamagedArtifactError
from facegen.models.autoencoder import build_autoencoder
from facegen.models.initialize import draw_weights
from facegen.models.text_to_image import (
    SCHEDULERS,
    TextToImage,
    build_text_encoder,
    build_unet,
    draw_text_to_image,
    new_scheduler,
    pixels_per_latent,
)
from facegen.models.word_tokenizer import build_tokenizer
from facegen.rng import torch_generator
from tests.made_personalize import MAX_TOKENS, WORDS, make_sd_folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("stable-diffusion")
    return {kind: make_sd_folder(made / kind, kind=kind) for kind in ("1.x", "2.x")}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: TextToImage.open(folder, device="cpu").freeze() for kind, folder in folders.items()}


def words_like(count: int) -> list[str]:
    """Words that share their letters' pairs, so that one word's merges meet another's."""
    generator = torch_generator(0, "words")
    letters = torch.randint(4, (count, 6), generator=generator)
    lengths = torch.randint(1, 7, (count,), generator=generator)
    return ["".join("that"[i] if i < 3 else "e" for i in row[:n]) for row, n in zip(letters, lengths, strict=True)]


def test_every_word_is_one_token_and_stays_one_when_loaded_by_its_files(tmp_path):
    words = [*words_like(60), *WORDS]
    made = build_tokenizer(words, tmp_path, max_tokens=24)
    from_vocabulary = CLIPTokenizer(
        vocab=json.loads((tmp_path / "vocab.json").read_text()),
        merges=[tuple(line.split()) for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]],
    )
    for tokenizer in (made, from_vocabulary):
        for word in words:
            assert tokenizer.tokenize(word) == [f"{word}</w>"]
    assert made.model_max_length == 24 and made.pad_token_id == made.eos_token_id == len(made) - 1


def test_case_and_space_do_not_matter_and_unknown_words_are_spelt(tmp_path):
    tokenizer = build_tokenizer(WORDS, tmp_path, max_tokens=24)
    assert tokenizer("A  Man,smiling ").input_ids == tokenizer("a man , smiling").input_ids
    assert tokenizer.tokenize("zoo") == ["z", "o", "o</w>"]
    ids = tokenizer("zoo é 日本 <id:0> 12").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids[1:-1]  # also the end: nothing was lost
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zooé日本<id:0>12"


def test_a_prompt_needs_room_for_a_word(tmp_path):
    with pytest.raises(ValueError, match="max_tokens is 2"):
        build_tokenizer(WORDS, tmp_path, max_tokens=2)


@pytest.mark.parametrize("kind", ["1.x", "2.x"])
def test_a_folder_opens_as_diffusers_opens_it(folders, models, kind):
    model, reference = models[kind], StableDiffusionPipeline.from_pretrained(str(folders[kind]))
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(model, name).state_dict(), getattr(reference, name).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert not getattr(model, name).training
        assert not any(p.requires_grad for p in getattr(model, name).parameters())
    assert model.prediction_type == {"1.x": "epsilon", "2.x": "v_prediction"}[kind]
    assert model.latent_size == (16, 16) and pixels_per_latent(model) == 2
    assert model.scheduler.config == reference.scheduler.config


@pytest.mark.parametrize("kind", ["1.x", "2.x"])
def test_noise_is_the_forward_process_and_the_target_its_closed_form(models, kind):
    model, generator = models[kind], torch_generator(0, "latents")
    latents, noise = torch.randn(2, 3, 4, 16, 16, generator=generator)
    timesteps = torch.tensor([0, 500, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # "scaled linear"
    signal = (1 - betas).cumprod(0)[timesteps].sqrt().float()[:, None, None, None]
    sigma = (1 - signal**2).sqrt()
    noisy = model.ddpm.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, signal * latents + sigma * noise, rtol=1e-4, atol=1e-4)
    expected = noise if kind == "1.x" else signal * noise - sigma * latents
    torch.testing.assert_close(model.target(latents, noise, timesteps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["1.x", "2.x"])
def test_sampling_by_hand_is_what_the_pipeline_draws(models, kind):
    """DDIM by its formula, from our own parts, against diffusers' pipeline with guidance."""
    model, steps, scale = models[kind], 4, 3.0
    start = torch.randn(1, 4, 16, 16, generator=torch_generator(0, "start"))
    pipeline = model.pipeline("ddim")
    drawn = pipeline(
        "a man with a hat", latents=start, num_inference_steps=steps, guidance_scale=scale, output_type="np"
    ).images
    hidden, z = model.hidden(model.tokens(["", "a man with a hat"])), start
    signals = model.ddpm.alphas_cumprod
    times = [t * (1000 // steps) + 1 for t in reversed(range(steps))]  # spacing "leading", offset 1
    for t in times:
        time = torch.tensor([t, t])
        empty, told = model.predict(torch.cat([z, z]), time, hidden).chunk(2)
        predicted, a = empty + scale * (told - empty), signals[t]
        x0 = a.sqrt() * z - (1 - a).sqrt() * predicted
        eps = a.sqrt() * predicted + (1 - a).sqrt() * z
        if kind == "1.x":
            x0, eps = (z - (1 - a).sqrt() * predicted) / a.sqrt(), predicted
        earlier = signals[t - 1000 // steps] if t > 1000 // steps else pipeline.scheduler.final_alpha_cumprod
        z = earlier.sqrt() * x0 + (1 - earlier).sqrt() * eps
    made = model.decode(z).numpy()
    if kind == "1.x":  # Euler's default spacing, which 2.x has here, differs
        assert abs(made.astype(int) - (drawn * 255).round().astype(int)).max() <= 1
    assert made.shape == (1, 32, 32, 3) and made.std() > 10


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_sampler_draws_by_the_seed_alone(models, scheduler):
    pipeline = models["2.x"].pipeline(scheduler)
    assert type(pipeline.scheduler).__name__ == SCHEDULERS[scheduler]
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert not pipeline.scheduler.config.get("clip_sample") and pipeline.safety_checker is None

    def draw(seed):
        return pipeline("a woman", num_inference_steps=2, generator=torch.Generator().manual_seed(seed),
                        output_type="latent").images  # fmt: skip

    first = draw(0)
    assert torch.equal(first, draw(0)) and not torch.allclose(first, draw(1)) and bool(first.isfinite().all())


def test_there_is_no_other_sampler(models):
    with pytest.raises(ValueError, match=r"scheduler is 'heun'; allowed: euler"):
        models["1.x"].pipeline("heun")


def test_encode_scales_samples_or_means(models):
    model = models["1.x"]
    images = torch.rand(2, 3, 32, 32, generator=torch_generator(0, "images")) * 2 - 1
    posterior = model.vae.encode(images).latent_dist
    scale = model.vae.config.scaling_factor
    torch.testing.assert_close(model.encode(images, None), posterior.mean * scale)
    noise = torch.randn(posterior.mean.shape, generator=torch_generator(0, "posterior"))
    drawn = model.encode(images, torch_generator(0, "posterior"))
    torch.testing.assert_close(drawn, (posterior.mean + posterior.std * noise) * scale, rtol=1e-5, atol=1e-5)


def test_a_tiny_autoencoder_is_scaled_too(models, tmp_path):
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    draw_weights(vae, torch_generator(0, "tiny"))
    vae.register_to_config(scaling_factor=0.25)
    first = models["1.x"]
    TextToImage(first.tokenizer, first.text_encoder, first.unet, vae, first.scheduler).save(tmp_path)
    model = TextToImage.open(tmp_path, device="cpu")
    assert isinstance(model.vae, AutoencoderTiny) and pixels_per_latent(model) == 2
    images = torch.rand(2, 3, 32, 32, generator=torch_generator(0, "images")) * 2 - 1
    latents = model.encode(images, torch_generator(0, "unused"))
    torch.testing.assert_close(latents, vae.encode(images).latents * 0.25)
    again = vae.decode(latents / 0.25).sample.mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    assert torch.equal(model.decode(latents), again.permute(0, 2, 3, 1))


def test_what_is_no_stable_diffusion_is_refused_by_one_error(folders, tmp_path):
    def changed(name, change):
        copy = tmp_path / name
        shutil.copytree(folders["1.x"], copy)
        change(copy)
        return copy

    def edit(path, **values):
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is not a Stable Diffusion folder: it has no model_index"):
        TextToImage.open(tmp_path / "empty", device="cpu")
    xl = changed("xl", lambda f: edit(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]))
    with pytest.raises(ValueError, match="two text encoders"):
        TextToImage.open(xl, device="cpu")
    headless = changed("headless", lambda f: edit(f / "model_index.json", unet=[None, None]))
    with pytest.raises(ValueError, match="it has no unet"):
        TextToImage.open(headless, device="cpu")
    torn = changed("torn", lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"torn"))
    with pytest.raises(DamagedArtifactError, match="the weights do not load"):
        TextToImage.open(torn, device="cpu")
    other = changed("other", lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="sample"))
    with pytest.raises(DamagedArtifactError, match="a prediction of 'sample'"):
        TextToImage.open(other, device="cpu")
    silent = changed("silent", lambda f: (f / "text_encoder/model.safetensors").unlink())
    with pytest.raises(DamagedArtifactError, match="the text_encoder does not load"):
        TextToImage.open(silent, device="cpu")


def test_weights_are_drawn_from_the_generator_alone(tmp_path):
    tokenizer = build_tokenizer(WORDS, tmp_path, max_tokens=MAX_TOKENS)

    def drawn(seed):
        text_encoder = build_text_encoder(tokenizer, width=16, depth=1, num_heads=2)
        unet = build_unet(
            channels=[16, 32], layers_per_block=1, latent_channels=4, latent_size=(4, 6), text_width=16, num_heads=2
        )
        draw_text_to_image(text_encoder, unet, torch_generator(seed, "weights"))
        return [*text_encoder.parameters(), *unet.parameters()], unet, text_encoder

    (first, unet, text_encoder), (same, _, _), (other, _, _) = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(first, other, strict=True)]
    assert sum(moved) > len(moved) / 3  # all but norms and the last convolution
    assert not unet.conv_out.weight.any()
    words = text_encoder.get_input_embeddings().weight
    assert words.std().item() == pytest.approx(0.5, rel=0.05)
    inner = [m.weight for n, m in text_encoder.named_modules() if n.endswith("fc1")]
    outer = [m.weight for n, m in text_encoder.named_modules() if n.endswith("fc2")]
    assert float(inner[0].abs().max()) == pytest.approx(16**-0.5, rel=0.05)
    assert float(outer[0].abs().max()) == pytest.approx(0.5 * 64**-0.5, rel=0.05)


def test_a_unet_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"3 levels cannot take latents of \(6, 8\)"):
        build_unet(
            channels=[16, 16, 16], layers_per_block=1, latent_channels=4, latent_size=(6, 8), text_width=8, num_heads=2
        )


def test_the_schedule_of_our_own_models():
    schedule = new_scheduler("v_prediction")
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0.00466, rel=1e-2)
    with pytest.raises(ValueError, match="prediction_type is 'sample'"):
        new_scheduler("sample")
