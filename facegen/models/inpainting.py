"""What an inpainting model is shown of a photograph: which latents are kept, and those latents.

The repainted part is greyed in the picture, before it is encoded: an encoder looks around each latent, so that latents
masked after it would still tell what the picture held there. A latent counts as kept only where no pixel under it is
repainted. Shapes: B batch, H W size in px, f factor, C latent channels, h = H / f, w = W / f.

Source: Rombach et al., Latent Diffusion, section 4.5; Suvorov et al., LaMa, for the two parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.models.autoencoder import Autoencoder, encode_moments, factor

GREY = 0.0  # of images in [-1, 1]


def normalized_latents(vae: Autoencoder, images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return the posterior means of images (B, 3, H, W), float32 (B, C, h, w), in the units that the LatentDiT works in.

    Args:
        mean, std: of each channel, as the LatentDiT's configuration holds them.
    """
    z, _ = encode_moments(vae, images.to(vae.dtype).contiguous(memory_format=torch.channels_last))
    shift, scale = (torch.tensor(list(v), device=z.device).view(1, -1, 1, 1) for v in (mean, std))
    return (z.float() - shift) / scale


def kept_latents(masks: Tensor, *, pixels: int) -> Tensor:
    """Return where no pixel is repainted, float32 (B, 1, H / pixels, W / pixels), of masks (B, 1, H, W) bool."""
    return 1 - F.max_pool2d(masks.float(), pixels)


def context_of(
    vae: Autoencoder, images: Tensor, masks: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Return the context of an inpainting model, float32 (B, 1 + C, h, w): kept (1) or not, and the kept latents.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        masks: (B, 1, H, W) bool, True where it is to repaint.
        mean, std: as `normalized_latents`.

    Raises:
        ValueError: if masks are of another shape or type, or for images that the autoencoder does not take.
    """
    if masks.shape != (len(images), 1, *images.shape[2:]) or masks.dtype != torch.bool:
        raise ValueError(
            f"masks are {masks.dtype} {tuple(masks.shape)}; expected bool {(len(images), 1, *images.shape[2:])}"
        )
    kept = kept_latents(masks, pixels=factor(vae))  # (B, 1, h, w)
    greyed = torch.where(masks, GREY, images)
    return torch.cat([kept, kept * normalized_latents(vae, greyed, mean=mean, std=std)], dim=1)
