"""Latent text-to-image models: a small Stable Diffusion of our own, and published ones behind the same functions.

Shapes: B batch, H W picture size, C h w latents, L tokens of a prompt, D width of the text encoder.
Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, and diffusers' folder layout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from facegen.errors import DamagedArtifactError
from facegen.models.autoencoder import Autoencoder, encode_moments, factor, load_autoencoder
from facegen.models.initialize import draw_weights
from facegen.models.loading import first_line, load_checked
from facegen.models.word_tokenizer import build_tokenizer as build_tokenizer

PREDICTION_TYPES = ("epsilon", "v_prediction")
SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
}
NUM_TRAIN_TIMESTEPS = 1000
WORD_STD, POSITION_STD = 0.5, 0.1  # of freshly drawn embeddings; CLIP's 0.02 would drown in what the layers add
BRANCH_SCALE = 0.5  # of the last layer of each residual branch of the text encoder
_CHANNELS_PER_GROUP = 16  # narrower groups make the normalisation slower on a CPU
_PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


def build_text_encoder(tokenizer: CLIPTokenizer, *, width: int, depth: int, num_heads: int) -> CLIPTextModel:
    """Return a new CLIP text encoder for this tokenizer; `draw_text_to_image` draws its weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            max_position_embeddings=int(tokenizer.model_max_length),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(
    *,
    channels: Sequence[int],
    layers_per_block: int,
    latent_channels: int,
    latent_size: tuple[int, int],
    text_width: int,
    num_heads: int,
) -> UNet2DConditionModel:
    """Return a new UNet that attends to the text at every level but the finest.

    Args:
        channels: width of each level, fine to coarse.
        latent_size: (h, w), multiples of 2^(levels - 1).

    Raises:
        ValueError: if the latents cannot be halved that often, or there is no level to attend at.
    """
    levels, unit = len(channels), 2 ** (len(channels) - 1)
    if levels < 2 or any(side % unit for side in latent_size):
        raise ValueError(
            f"a UNet of {levels} levels cannot take latents of {latent_size}; it needs two levels or more, and sides "
            f"that are multiples of {unit}"
        )
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        layers_per_block=layers_per_block,
        norm_num_groups=max(1, math.gcd(*channels) // _CHANNELS_PER_GROUP),
        cross_attention_dim=text_width,
        attention_head_dim=num_heads,  # the number of heads, by diffusers' naming
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
    )


@torch.no_grad()
def draw_text_to_image(text_encoder: CLIPTextModel, unet: UNet2DConditionModel, generator: torch.Generator) -> None:
    """Draw both networks' weights anew from the generator; the UNet's last convolution is zero."""
    for network in (text_encoder, unet):
        draw_weights(network, generator)
    for name, layer in text_encoder.named_modules():
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=POSITION_STD if "position" in name else WORD_STD, generator=generator)
        elif name.endswith(("out_proj", "fc2")):
            for parameter in layer.parameters():
                parameter.mul_(BRANCH_SCALE)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)


def new_scheduler(prediction_type: str) -> DDPMScheduler:
    """Return the noise schedule of a model of our own, Stable Diffusion's.

    Raises:
        ValueError: for a prediction type that is not in PREDICTION_TYPES.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; allowed: {', '.join(PREDICTION_TYPES)}")
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def quick_attention(device: torch.device | str) -> AbstractContextManager[Any]:
    """Return a context in which small attentions train quickly: on a CPU, torch's fused backward pass is slow."""
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()


@dataclass(frozen=True)
class TextToImage:
    """The parts of a Stable Diffusion folder, versions 1 and 2 alike."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: Autoencoder  # AutoencoderKL or AutoencoderTiny
    scheduler: Any  # as saved; all noise is added by `ddpm`

    @classmethod
    def open(cls, source: str | Path, *, device: torch.device | str, dtype: torch.dtype = torch.float32) -> TextToImage:
        """Load a Stable Diffusion folder or hub id, in evaluation mode; safetensors weights only, no safety checker.

        Raises:
            FileNotFoundError: if there is no such folder or hub id.
            ValueError: if it is another kind of model.
            DamagedArtifactError: if a part does not load, or the parts do not fit each other.
        """
        _check_layout(source)
        tokenizer = _loaded(CLIPTokenizer, source, "tokenizer")
        text_encoder = _loaded(CLIPTextModel, source, "text_encoder", use_safetensors=True, dtype=torch.float32)
        unet = load_checked(UNet2DConditionModel, source, subfolder="unet")
        vae = load_autoencoder(_vae_source(source))
        scheduler = _scheduler(source)
        _check_fit(source, tokenizer, text_encoder, unet, vae, scheduler)
        for network in (text_encoder, unet, vae):
            network.to(device).eval()
            if dtype != torch.float32:
                network.to(dtype)
        return cls(tokenizer, text_encoder, unet, vae, scheduler)

    def save(self, folder: str | Path) -> None:
        """Write the folder that `open` and diffusers' StableDiffusionPipeline read."""
        self._pipeline(self.scheduler).save_pretrained(str(folder))

    @functools.cached_property
    def ddpm(self) -> DDPMScheduler:
        """The forward process: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, whichever scheduler samples."""
        return DDPMScheduler.from_config(self.scheduler.config)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: epsilon or v_prediction."""
        return str(self.scheduler.config.prediction_type)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents that the UNet was made for."""
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the UNet's weights."""
        return next(self.unet.parameters()).dtype

    def freeze(self) -> TextToImage:
        """Turn off the gradients of every network's weights; returns itself."""
        for network in (self.text_encoder, self.unet, self.vae):
            network.requires_grad_(False).eval()
        return self

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids int64 (B, L) of texts, cut off and padded to the longest prompt, on the device."""
        made = self.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt",
                              max_length=int(self.tokenizer.model_max_length))  # fmt: skip
        return made.input_ids.to(self.device)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Return what the UNet attends to, (B, L, D), of token ids (B, L)."""
        return self.text_encoder(input_ids)[0]

    def encode(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return latents (B, C, h, w), scaled by the autoencoder's scaling factor.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            generator: draws posterior samples of an AutoencoderKL; None, and always with an AutoencoderTiny: the mean.
        """
        mean, logvar = encode_moments(self.vae, images)
        if generator is not None and not isinstance(self.vae, AutoencoderTiny):
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean.device)
            mean = torch.addcmul(mean, (0.5 * logvar).exp(), noise)
        return mean * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures, uint8 (B, H, W, 3), of scaled latents (B, C, h, w)."""
        weights = next(self.vae.parameters())
        z = (latents / float(self.vae.config.scaling_factor)).to(weights.dtype)
        pictures = self.vae.decode(z).sample.float().mul(0.5).add(0.5).clamp(0, 1)
        return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the UNet is to predict, (B, C, h, w): the noise, or v = sqrt(abar) eps - sqrt(1 - abar) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        return self.ddpm.get_velocity(latents, noise, timesteps)

    def predict(self, noisy: Tensor, timesteps: Tensor, hidden: Tensor) -> Tensor:
        """Return the UNet's prediction (B, C, h, w) for noisy latents at timesteps (B,), given text (B, L, D)."""
        return self.unet(noisy, timesteps, encoder_hidden_states=hidden).sample

    def pipeline(self, scheduler: str) -> StableDiffusionPipeline:
        """Return diffusers' pipeline of these parts with a sampler of SCHEDULERS.

        Raises:
            ValueError: for another sampler.
        """
        if scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler is {scheduler!r}; allowed: {', '.join(SCHEDULERS)}")
        config = {**self.scheduler.config, "clip_sample": False}  # latents are not bounded
        return self._pipeline(getattr(diffusers, SCHEDULERS[scheduler]).from_config(config))

    def _pipeline(self, scheduler: Any) -> StableDiffusionPipeline:
        made = StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        made.set_progress_bar_config(disable=True)
        return made


def _check_layout(source: str | Path) -> None:
    """Require a model_index.json that names the parts of a text-to-image model, or say what the source is."""
    folder = Path(source)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"{source} is not a Stable Diffusion folder: it has no model_index.json")
    try:
        index = StableDiffusionPipeline.load_config(str(source))
    except ValueError as error:
        raise DamagedArtifactError(f"{source}: model_index.json is not readable ({first_line(error)})") from error
    except OSError as error:
        if folder.is_dir():
            raise DamagedArtifactError(f"{source}: model_index.json is not readable ({first_line(error)})") from error
        raise FileNotFoundError(f"no Stable Diffusion at {source} ({first_line(error)})") from error
    missing = [name for name in _PARTS if not (index.get(name) or [None])[0]]
    if missing or "text_encoder_2" in index:
        reason = f"it has no {', '.join(missing)}" if missing else "it has two text encoders"
        raise ValueError(f"{source} is a {index.get('_class_name')}: {reason}; a Stable Diffusion 1.x or 2.x is needed")


def _vae_source(source: str | Path) -> str | Path:
    """Return the folder of the autoencoder; a hub id names it already."""
    return Path(source) / "vae" if Path(source).is_dir() else source


def _loaded(kind: Any, source: str | Path, part: str, **options: Any) -> Any:
    """Return a part that transformers loads, with finite weights."""
    try:
        loaded = kind.from_pretrained(str(source), subfolder=part, **options)
    except Exception as error:
        raise DamagedArtifactError(f"{source}: the {part} does not load ({first_line(error)})") from error
    for name, value in loaded.state_dict().items() if isinstance(loaded, nn.Module) else ():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise DamagedArtifactError(f"{source}: weight {part}.{name} holds NaN or infinity")
    return loaded


def _scheduler(source: str | Path) -> Any:
    """Return the scheduler of the class that the folder names."""
    try:
        config = DDPMScheduler.load_config(str(source), subfolder="scheduler")
        return getattr(diffusers, config["_class_name"]).from_config(config)
    except Exception as error:
        raise DamagedArtifactError(f"{source}: the scheduler does not load ({first_line(error)})") from error


def _check_fit(source: str | Path, tokenizer: Any, text_encoder: Any, unet: Any, vae: Any, scheduler: Any) -> None:
    """Require that the parts fit each other and predict what we can train on."""
    faults = []
    if len(tokenizer) > text_encoder.config.vocab_size:
        faults.append(f"{len(tokenizer)} words for a text encoder of {text_encoder.config.vocab_size}")
    if tokenizer.model_max_length > text_encoder.config.max_position_embeddings:
        faults.append(
            f"prompts of {tokenizer.model_max_length} for {text_encoder.config.max_position_embeddings} positions"
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        faults.append(
            f"a UNet for text of width {unet.config.cross_attention_dim}, not {text_encoder.config.hidden_size}"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        faults.append(f"a UNet of {unet.config.in_channels} channels for latents of {vae.config.latent_channels}")
    if scheduler.config.get("prediction_type") not in PREDICTION_TYPES:
        faults.append(
            f"a prediction of {scheduler.config.get('prediction_type')!r}, not of {' or '.join(PREDICTION_TYPES)}"
        )
    if faults:
        raise DamagedArtifactError(f"{source}: its parts do not fit: {'; '.join(faults)}")


def pixels_per_latent(model: TextToImage) -> int:
    """Return the picture's pixels per latent along a side."""
    return factor(model.vae)
