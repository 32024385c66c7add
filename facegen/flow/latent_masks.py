"""From a mask of pixels to masks of latents: any-touch pooling, dilation, whole tokens, and a mask that shrinks with t.

A part that is thin in pixels (a lip of 8 px is one or two latent cells) would vanish by averaging, and a transformer
writes whole tokens. So the mask of a picture is a nested family: wide near noise, where the shape of the part is
decided, tight near data, where the photograph's own cells come back.

Shapes: B pictures, S side in px, f = S / h px per latent cell, p cells per token, K nested masks. True is repainted.
Source: Avrahami et al., Blended Latent Diffusion (thin masks: dilated first, then shrunk), here with token borders.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TIGHT_BELOW = 0.3  # time from which on the tight mask holds


def any_touch(mask: Tensor, *, factor: int) -> Tensor:  # (B, 1, S, S) -> (B, 1, h, h)
    """Return the latent cells in which at least one pixel is set, bool.

    Raises:
        ValueError: if the mask is not bool (B, 1, S, S), or S no multiple of the factor.
    """
    square = mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[2] == mask.shape[3]
    if not square or mask.dtype != torch.bool or mask.shape[2] % factor:
        raise ValueError(
            f"mask is {mask.dtype} {tuple(mask.shape)}; expected bool (B, 1, S, S), S a multiple of {factor}"
        )
    return F.max_pool2d(mask.float(), factor) > 0


def dilate(mask: Tensor, *, cells: int) -> Tensor:
    """Return the mask bool (B, 1, h, h) grown by `cells` in all eight directions."""
    return F.max_pool2d(mask.float(), 2 * cells + 1, stride=1, padding=cells) > 0


def snap(mask: Tensor, *, patch: int) -> Tensor:
    """Return the mask bool (B, 1, h, h) grown to whole tokens of patch x patch cells."""
    tokens = F.max_pool2d(mask.float(), patch) > 0
    return tokens.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)


def nested_masks(mask: Tensor, *, factor: int, patch: int, cells: int) -> Tensor:  # (B, 1, S, S) -> (K, B, 1, h, h)
    """Return the family of a picture's mask, bool, each in the next: cells touched, dilated by 1 ... `cells`, snapped.

    Args:
        mask: bool (B, 1, S, S).
        factor, patch: px per cell, cells per token.
        cells: dilation of the widest, before it is snapped to tokens.

    Raises:
        ValueError: for a mask that does not fit, or a negative dilation.
    """
    if cells < 0:
        raise ValueError(f"dilation is {cells} cells; it must be at least 0")
    tight = any_touch(mask, factor=factor)
    grown = [dilate(tight, cells=n) for n in range(cells + 1)]
    return torch.stack([*grown, snap(grown[-1], patch=patch)])


def mask_at(nested: Tensor, t: float) -> Tensor:  # (K, B, 1, h, h) -> (B, 1, h, h)
    """Return the mask of time t: the widest at t = 1, then smaller ones in equal shares, the tightest below 0.3."""
    share = (t - TIGHT_BELOW) / (1 - TIGHT_BELOW)
    return nested[min(max(round(share * (len(nested) - 1)), 0), len(nested) - 1)]


def soft_mask(nested: Tensor) -> Tensor:  # (K, B, 1, h, h) -> (B, 1, h, h)
    """Return weights, float32: 1 in the tight mask, 0 outside the widest, the share of the masks that hold between."""
    return nested.float().mean(dim=0)
