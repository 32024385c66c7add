"""Training the UNet of a small text-to-image model on latents that live on the device; the text encoder is not changed.

What the text encoder puts out is learnt before, from pairs (`facegen.train.caption_pairs`).

Shapes: S scenes in the set, B batch, C h w latents, L tokens of a prompt, D width of the text encoder.
Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, equation 3 (velocity as target:
Salimans and Ho, Progressive Distillation, appendix D).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facegen.models.text_to_image import NUM_TRAIN_TIMESTEPS, TextToImage, quick_attention
from facegen.rng import torch_generator
from facegen.train.dit import loss_by_time
from facegen.train.ema import PowerEMA
from facegen.train.loop import Logs, Phase, adamw, epoch_indices, warmup_linear_decay

BETAS = (0.9, 0.99)
DESCRIPTION_SHARE = 0.8  # of the samples: told by the long description, not by the short caption


@dataclass(frozen=True)
class SceneSet:
    """Scaled latents of scenes and the token ids of both their texts, on one device."""

    latents: Tensor  # (S, C, h, w) float32
    descriptions: Tensor  # (S, L) int64
    captions: Tensor  # (S, L) int64
    empty: Tensor  # (L,) int64, of the empty caption

    @classmethod
    def make(
        cls, model: TextToImage, latents: Tensor, *, descriptions: Sequence[str], captions: Sequence[str]
    ) -> SceneSet:
        """Tokenise the texts for the model.

        Raises:
            ValueError: if there are no scenes, or the numbers of latents and texts differ.
        """
        if not len(latents) or len({len(latents), len(descriptions), len(captions)}) > 1:
            raise ValueError(
                f"{len(latents)} latents, {len(descriptions)} descriptions and {len(captions)} captions: "
                "each scene needs one of each, and there must be some"
            )
        ids = [model.tokens(texts).to(latents.device) for texts in (descriptions, captions, [""])]
        return cls(latents.float(), ids[0], ids[1], ids[2][0])

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def encode_scenes(model: TextToImage, batches: Iterable[Tensor], *, dtype: torch.dtype) -> Tensor:
    """Return the latents' means, unscaled, float32 (S, C, h, w), of batches of pictures (B, 3, H, W) in [-1, 1].

    Args:
        dtype: of autocast.
    """
    device, parts = model.device, []
    for images in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            placed = images.to(device).contiguous(memory_format=torch.channels_last)
            parts.append(model.encode(placed, None).float() / float(model.vae.config.scaling_factor))
    return torch.cat(parts)


def fit_scaling(model: TextToImage, latents: Tensor) -> Tensor:
    """Set the autoencoder's scaling factor so that these latents have unit standard deviation; returns them scaled.

    Raises:
        ValueError: if the latents do not vary.
    """
    std = float(latents.double().std())
    if not std > 0:
        raise ValueError("the scenes' latents are all equal: nothing to train on")
    model.vae.register_to_config(scaling_factor=round(1 / std, 6))
    return latents * float(model.vae.config.scaling_factor)


@dataclass(frozen=True)
class TextToImageRecipe:
    """How a text-to-image model is trained; the meanings are in params.yaml."""

    seed: int
    dtype: torch.dtype  # of autocast around the text encoder; the loop sees to the UNet's
    total_images: int
    learning_rate: float
    warmup_images: int
    decay_fraction: float
    weight_decay: float
    grad_clip: float
    drop_caption: float
    ema_sigma_rel: float


@dataclass(frozen=True)
class SceneBatch:
    """One training batch: x_t, t, the prompts' token ids, and what is to be predicted."""

    noisy: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,) int64
    input_ids: Tensor  # (B, L)
    target: Tensor  # (B, C, h, w)


class TextToImageLearner:
    """Latent diffusion on a resident set of scenes (a `facegen.train.loop.Learner`)."""

    def __init__(self, model: TextToImage, data: SceneSet, recipe: TextToImageRecipe) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        model.text_encoder.requires_grad_(False).eval()
        self.models: dict[str, nn.Module] = {"unet": model.unet.train()}
        optimizer = adamw(model.unet, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay)
        self.phases = [Phase("unet", model.unet, optimizer, recipe.grad_clip, self.loss)]
        self.ema = PowerEMA(model.unet, sigma_rels=[recipe.ema_sigma_rel])
        self.flops_per_image = 0.0
        self.ddpm = model.ddpm

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=r.warmup_images,
            total_images=r.total_images,
            decay_fraction=r.decay_fraction,
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one learner a process; two epochs can meet in a batch)
    def _permutation(self, epoch: int) -> Tensor:
        generator = torch_generator(self.recipe.seed, "scene order", epoch)
        return torch.randperm(len(self.data), generator=generator).to(self.data.latents.device)

    def batch(self, images_seen: int, batch_size: int) -> SceneBatch:
        data, device = self.data, self.data.latents.device
        positions = range(images_seen, images_seen + batch_size)
        indices = epoch_indices(positions, size=len(data), permutation=self._permutation)
        generator = torch_generator(self.recipe.seed, "scene noise", images_seen, device=device)
        latents = data.latents[indices]
        noise = torch.randn(latents.shape, generator=generator, device=device)
        timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (batch_size,), generator=generator, device=device)
        long, dropped = torch.rand(2, batch_size, 1, generator=generator, device=device)
        input_ids = torch.where(long < DESCRIPTION_SHARE, data.descriptions[indices], data.captions[indices])
        input_ids = torch.where(dropped < self.recipe.drop_caption, data.empty, input_ids)
        noisy = self.ddpm.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        return SceneBatch(noisy, timesteps, input_ids, self.model.target(latents, noise, timesteps))

    def loss(self, module: nn.Module, batch: SceneBatch) -> tuple[Tensor, Logs]:
        device, dtype = batch.noisy.device, self.recipe.dtype
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            hidden = self.model.hidden(batch.input_ids)
        with quick_attention(device):
            predicted = module(batch.noisy, batch.timesteps, encoder_hidden_states=hidden, return_dict=False)[0]
        mse = (predicted.float() - batch.target).square().mean(dim=(1, 2, 3))
        loss = mse.mean()
        return loss, {"loss": loss.detach()} | loss_by_time(mse.detach(), batch.timesteps / NUM_TRAIN_TIMESTEPS)

    @torch.no_grad()
    def released(self) -> TextToImage:
        """Put the averaged weights into the UNet, and return the model in evaluation mode."""
        self.model.unet.load_state_dict(self.ema.state_dict(self.recipe.ema_sigma_rel))
        self.model.unet.eval()
        return self.model
