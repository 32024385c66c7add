"""Autoencoders between pixels and latents: diffusers' AutoencoderKL and AutoencoderTiny behind the same few functions.

AutoencoderKL learns a posterior N(mean, exp(logvar)) for each latent value. AutoencoderTiny is deterministic; here it
counts as a posterior of one fixed width, `TINY_STD`, which is the noise that its decoder is trained to bear.

Shapes: B batch, H W image size, f factor, C latent channels, h = H / f, w = W / f.
Source: Kingma and Welling, Auto-Encoding Variational Bayes; Rombach et al., Latent Diffusion, for the KL autoencoder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from facegen.errors import DamagedArtifactError
from facegen.models.loading import first_line, load_checked

Autoencoder: TypeAlias = Any  # AutoencoderKL or AutoencoderTiny; diffusers does not type what they inherit

CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
TINY_STD = 0.1  # posterior width of the deterministic autoencoder, in units of its own latents
LOGVAR_RANGE = (-30.0, 20.0)
_CHANNELS_PER_GROUP = 16  # narrower groups make the normalisation's backward pass several times slower on a CPU


def build_autoencoder(
    *, architecture: str, channels: Sequence[int], layers_per_block: int, latent_channels: int
) -> Autoencoder:
    """Return a new autoencoder of factor 2^(levels - 1), without attention.

    Args:
        architecture: `kl`, or `tiny` (no normalisation, and residual blocks at the coarsest level only: on a CPU's
            budget, blocks at a finer one, of four times the cost, gave less quality a second).
        channels: width of each resolution level, fine to coarse; equal widths for `tiny`.
        layers_per_block: residual blocks of each level; of the coarsest for `tiny`.
        latent_channels: C.

    Raises:
        ValueError: for an unknown architecture, or widths that it cannot have.
    """
    widths, levels = tuple(channels), len(channels)
    if architecture == "kl":
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=widths,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=_num_groups(widths),
            mid_block_add_attention=False,
        )
    if architecture != "tiny":
        raise ValueError(f"autoencoder architecture is {architecture!r}; allowed: kl, tiny")
    if len(set(widths)) > 1 or levels < 2:
        raise ValueError(f"channels are {list(widths)}; the tiny autoencoder takes two or more levels of one width")
    blocks = (0,) * (levels - 1) + (layers_per_block,)
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        latent_channels=latent_channels,
    )


def load_autoencoder(source: str | Path) -> Autoencoder:
    """Return the autoencoder at `source`, in evaluation mode; safetensors weights only.

    Args:
        source: a folder that diffusers wrote (or one with a `vae` folder in it), or a Hugging Face hub id.

    Raises:
        FileNotFoundError: if there is no such folder, or the hub (or its cache, when offline) does not have it.
        ValueError: if it is another kind of model.
        DamagedArtifactError: if its weights are broken, incomplete or not finite.
    """
    config = _read_config(source)
    name = config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"{source} holds {name or 'no diffusers model'}; allowed: {', '.join(CLASSES)}")
    loaded = load_checked(CLASSES[name], source, subfolder=str(config["subfolder"]))
    fresh = CLASSES[name].from_config({k: v for k, v in loaded.config.items() if k != "_name_or_path"})
    fresh.load_state_dict(loaded.state_dict())  # so that what is saved later does not tell where it came from
    return fresh.eval()


def factor(vae: Autoencoder) -> int:
    """Return f, image pixels per latent pixel along a side."""
    tiny = isinstance(vae, AutoencoderTiny)
    levels = vae.config.encoder_block_out_channels if tiny else vae.config.block_out_channels
    return 2 ** (len(levels) - 1)


def encode_moments(vae: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior's mean and log variance, float32 (B, C, h, w) each.

    AutoencoderTiny has no posterior: its log variance is the constant 2 log `TINY_STD`.

    Args:
        images: (B, 3, H, W) in [-1, 1], H and W multiples of the factor.

    Raises:
        ValueError: for another rank, channel count or size.
    """
    f = factor(vae)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % f or images.shape[3] % f:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W), H and W multiples of {f}")
    tiny = isinstance(vae, AutoencoderTiny)
    if tiny:
        mean = vae.encode(images).latents.float()
        return mean, torch.full_like(mean, 2 * math.log(TINY_STD))
    posterior = vae.encode(images).latent_dist
    return posterior.mean.float(), posterior.logvar.float().clamp(*LOGVAR_RANGE)


def encode_with_mirror(vae: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments, float32 (B, 2, C, h, w) each, of images (B, 3, H, W) and (axis 1) of their mirrors."""
    both = torch.stack([images, images.flip(3)], dim=1).flatten(0, 1)  # (2B, 3, H, W)
    mean, logvar = encode_moments(vae, both.contiguous(memory_format=torch.channels_last))
    return mean.unflatten(0, (-1, 2)), logvar.unflatten(0, (-1, 2))


def decode(vae: Autoencoder, z: Tensor) -> Tensor:
    """Return images, float32 (B, 3, H, W) about [-1, 1] (not clamped), of latents z (B, C, h, w).

    Raises:
        ValueError: for another rank or channel count.
    """
    channels = vae.config.latent_channels
    if z.ndim != 4 or z.shape[1] != channels:
        raise ValueError(f"latents have shape {tuple(z.shape)}; this autoencoder takes (B, {channels}, h, w)")
    return vae.decode(z).sample.float()


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) || N(0, 1)) in nats, per image (B,): its values over C, h, w are added.

    Source: Kingma and Welling, appendix B.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(dim=1)


def _num_groups(widths: Sequence[int]) -> int:
    """The most groups, up to 32, that divide every width and have at least 16 channels each where they can."""
    common = math.gcd(*widths)
    most = max(1, min(32, common // _CHANNELS_PER_GROUP))
    return max(g for g in range(1, most + 1) if common % g == 0)


def _read_config(source: str | Path) -> dict[str, object]:
    """Read config.json at `source` or in its `vae` folder; adds `subfolder`."""
    for subfolder in ("", "vae"):
        path = _find(source, subfolder)
        if path is not None:
            try:
                return {**json.loads(path.read_text(encoding="utf-8")), "subfolder": subfolder}
            except ValueError as error:
                raise DamagedArtifactError(f"{path} is not valid JSON ({error})") from error
    raise FileNotFoundError(
        f"{source} has no config.json, neither itself nor in a vae folder; is it a diffusers model?"
    )


def _find(source: str | Path, subfolder: str) -> Path | None:
    """The path of a config.json in a folder or in the hub's cache, fetched if need be; None if the source lacks it."""
    if Path(source).is_dir():
        path = Path(source) / subfolder / "config.json"
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(source), "config.json", subfolder=subfolder or None))
    except HFValidationError as error:
        raise FileNotFoundError(f"{source} is neither a folder nor a hub id (owner/name)") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(_unreachable(source)) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise FileNotFoundError(f"{_unreachable(source)}: {first_line(error)}") from error


def _unreachable(source: str | Path) -> str:
    return (
        f"{source} is not a folder here, and the Hugging Face hub could not be reached (nor does its cache have it); "
        "give a folder, or fetch it once with network access: hf download " + str(source)
    )
