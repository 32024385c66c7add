"""Autoencoders: shapes, the closed form of the KL term, mirrors, saving and loading, and errors in one line."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from facegen.errors import DamagedArtifactError
from facegen.models.autoencoder import (
    TINY_STD,
    build_autoencoder,
    decode,
    encode_moments,
    encode_with_mirror,
    factor,
    kl_divergence,
    load_autoencoder,
)
from facegen.models.initialize import draw_weights
from facegen.rng import torch_generator

KINDS = [("kl", [16, 16, 32]), ("tiny", [16, 16, 16])]


def make(architecture: str, channels: list[int], latent_channels: int = 4):
    vae = build_autoencoder(
        architecture=architecture, channels=channels, layers_per_block=1, latent_channels=latent_channels
    )
    draw_weights(vae, torch_generator(0, "test weights"))
    return vae.eval()


def faces(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch_generator(0, "faces")) * 2 - 1


@pytest.mark.parametrize(("architecture", "channels"), [*KINDS, ("kl", [16, 16, 16, 32]), ("tiny", [16, 16])])
def test_factor_moments_and_decoder_fit_together(architecture, channels):
    vae = make(architecture, channels, latent_channels=6)
    f = 2 ** (len(channels) - 1)
    images = faces()
    with torch.no_grad():
        mean, logvar = encode_moments(vae, images)
        pictures = decode(vae, mean)
    assert factor(vae) == f
    assert mean.shape == logvar.shape == (2, 6, 32 // f, 32 // f)
    assert pictures.shape == images.shape
    assert mean.dtype == logvar.dtype == pictures.dtype == torch.float32


def test_tiny_has_a_constant_posterior_width():
    with torch.no_grad():
        _, logvar = encode_moments(make(*KINDS[1]), faces())
    assert torch.allclose((0.5 * logvar).exp(), torch.tensor(TINY_STD))


def test_kl_divergence_is_the_closed_form():
    generator = torch_generator(0, "moments")
    mean, logvar = torch.randn(2, 3, 4, 5, 5, generator=generator)
    expected = torch_kl(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    assert torch.allclose(kl_divergence(mean, logvar), expected, rtol=1e-5)
    assert kl_divergence(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).item() == 0
    shifted = kl_divergence(torch.full((1, 1, 1, 1), 3.0), torch.zeros(1, 1, 1, 1))
    assert math.isclose(shifted.item(), 4.5)


@pytest.mark.parametrize(("architecture", "channels"), KINDS)
def test_mirror_moments_are_those_of_the_flipped_picture(architecture, channels):
    vae, images = make(architecture, channels), faces()
    with torch.no_grad():
        mean, logvar = encode_with_mirror(vae, images)
        straight, flipped = encode_moments(vae, images), encode_moments(vae, images.flip(3))
    assert torch.allclose(mean[:, 0], straight[0], atol=1e-5)
    assert torch.allclose(mean[:, 1], flipped[0], atol=1e-5)
    assert torch.allclose(logvar[:, 1], flipped[1], atol=1e-5)
    assert not torch.allclose(mean[:, 0], mean[:, 1], atol=1e-3)


@pytest.mark.parametrize(("architecture", "channels"), KINDS)
def test_saved_and_loaded_it_decodes_the_same_and_tells_no_path(tmp_path, architecture, channels):
    vae = make(architecture, channels)
    vae.save_pretrained(tmp_path / "first")
    loaded = load_autoencoder(tmp_path / "first")
    with torch.no_grad():
        mean, _ = encode_moments(vae, faces())
        assert torch.equal(decode(loaded, mean), decode(vae, mean))
    loaded.save_pretrained(tmp_path / "second")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_vae_inside_a_pipeline_folder_is_found(tmp_path):
    make(*KINDS[1]).save_pretrained(tmp_path / "vae")
    assert factor(load_autoencoder(tmp_path)) == 4


def test_same_seed_gives_the_same_first_weights():
    first, second = make(*KINDS[0]), make(*KINDS[0])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "vq", "channels": [16, 16]}, "allowed: kl, tiny"),
        ({"architecture": "tiny", "channels": [16, 32]}, "one width"),
        ({"architecture": "tiny", "channels": [16]}, "two or more levels"),
    ],
)
def test_impossible_autoencoders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_autoencoder(layers_per_block=1, latent_channels=4, **arguments)


def test_wrong_shapes_are_refused():
    vae = make(*KINDS[1])
    with pytest.raises(ValueError, match="multiples of 4"):
        encode_moments(vae, torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"takes \(B, 4, h, w\)"):
        decode(vae, torch.zeros(1, 3, 8, 8))


def test_missing_sources_say_so_in_one_line(tmp_path, monkeypatch):
    def offline(*_args, **_kwargs):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("no connection\nand a second line")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    for source, message in [
        (tmp_path, "no config.json"),
        ("some-owner/some-model", "could not be reached"),
    ]:
        with pytest.raises(FileNotFoundError, match=message) as caught:
            load_autoencoder(source)
        assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
        load_autoencoder(tmp_path / "nowhere" / "at" / "all")


def test_other_models_and_damaged_weights_are_refused(tmp_path):
    make(*KINDS[1]).save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()
    config.write_text(json.dumps(json.loads(good_config) | {"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="UNet2DModel; allowed: AutoencoderKL, AutoencoderTiny"):
        load_autoencoder(tmp_path)
    config.write_text(good_config)
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    for broken, message in [
        (tensors | {name: torch.full_like(tensors[name], float("nan"))}, "holds NaN"),
        ({k: v for k, v in tensors.items() if k != name}, "do not fit"),
    ]:
        save_file(broken, weights, metadata={"format": "pt"})
        with pytest.raises(DamagedArtifactError, match=message):
            load_autoencoder(tmp_path)
    weights.write_bytes(good_weights[: len(good_weights) // 2])
    with pytest.raises(DamagedArtifactError, match="do not load"):
        load_autoencoder(tmp_path)
