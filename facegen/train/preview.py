"""Pictures of a model while it trains: each attribute asked for in turn, from the same noise.

Shapes: B images, A attributes, C H W latents.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from facegen.attributes import PRESENT, UNKNOWN
from facegen.data.images import to_uint8
from facegen.flow.guidance import guided_velocity
from facegen.flow.sampler import euler, initial_noise, time_schedule
from facegen.grids import image_grid
from facegen.models.autoencoder import Autoencoder, decode
from facegen.models.dit import LatentDiT
from facegen.train.ema import PowerEMA

ROWS = 4
GUIDANCE_SCALE = 2.0  # of the preview alone; what is released is sampled by params.yaml
TILE_PX = 96


def averaged_copy(model: LatentDiT, ema: PowerEMA, sigma_rel: float) -> LatentDiT:
    """Return a new model, in evaluation mode, with the averaged weights of this width."""
    return copy_with(model, ema.state_dict(sigma_rel))


def copy_with(model: LatentDiT, weights: Mapping[str, Tensor]) -> LatentDiT:
    """Return a new model of the same configuration, in evaluation mode, with these weights."""
    copy = LatentDiT.from_config(model.config)
    copy.load_state_dict(weights)
    return copy.to(model.device).eval()


@torch.no_grad()
def sample_latents(
    model: LatentDiT, attributes: Tensor, noise: Tensor, *, num_steps: int, guidance_scale: float
) -> Tensor:
    """Return latents (B, C, H, W) of the empty identity in the autoencoder's units: Euler steps, guidance at every t.

    Args:
        attributes: (B, A) states.
        noise: (B, C, H, W), on the model's device.
    """
    config = model.config

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model(x, t, y, return_dict=False)[0].float()

    def velocity(x: Tensor, t: float) -> Tensor:
        return guided_velocity(
            network, x, t, attributes, scale=guidance_scale, interval=(0.0, 1.0), attribute_scales={}
        )

    x = euler(velocity, noise, time_schedule(num_steps, shift=1.0), path=config.path)
    mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (config.latent_mean, config.latent_std))
    return x * std + mean


@torch.no_grad()
def attribute_preview(model: LatentDiT, vae: Autoencoder, *, seed: int, num_steps: int) -> Image.Image:
    """Return a grid: a row a noise, a column an attribute asked for (the first column asks for none)."""
    config = model.config
    names = list(config.attribute_names)
    columns = len(names) + 1
    states = torch.full((columns, len(names)), UNKNOWN, dtype=torch.int8)
    for k in range(len(names)):
        states[k + 1, k] = PRESENT
    shape = (config.in_channels, config.sample_size, config.sample_size)
    noise = initial_noise(range(seed, seed + ROWS), shape).repeat_interleave(columns, dim=0)
    z = sample_latents(
        model,
        states.repeat(ROWS, 1).to(model.device),
        noise.to(model.device),
        num_steps=num_steps,
        guidance_scale=GUIDANCE_SCALE,
    )
    images = to_uint8(decode(vae, z.to(vae.dtype)).float())
    grid = images.reshape(ROWS, columns, *images.shape[1:])
    return image_grid(
        np.ascontiguousarray(grid), column_labels=["any", *names], scale=max(1, TILE_PX // images.shape[1])
    )
