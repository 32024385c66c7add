"""The training loss: mean squared velocity error plus its normalised Laplacian.

    L = mean(e^2) + weight * mean((K e)^2),   e = v_hat - v,   K = [0 1 0; 1 -4 1; 0 1 0] / sqrt(20)

K has unit energy: white noise of variance 1 keeps variance 1. The term is a quadratic form of e, so the minimiser is still
the conditional mean of v and the flow stays exact; it only weighs high spatial frequencies more.
Shapes: B batch, C channels, H W latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_KERNEL = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_ENERGY = 20.0


def laplacian(x: Tensor) -> Tensor:
    """Return K x of (B, C, H, W), each channel by itself, borders reflected."""
    channels = x.shape[1]
    kernel = torch.tensor(_KERNEL, dtype=x.dtype, device=x.device) / _ENERGY**0.5
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)


def velocity_loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (mse, laplacian energy) of the velocity error per image, each float32 (B,).

    Args:
        predicted, target: (B, C, H, W).
        weight: (B, 1, H, W), of the error's square at each position; it is scaled to a mean of 1 in each image.
    """
    error = predicted.float() - target.float()
    square, rough = error.square(), laplacian(error).square()
    if weight is not None:
        share = weight / weight.mean(dim=(1, 2, 3), keepdim=True)
        square, rough = square * share, rough * share
    return square.mean(dim=(1, 2, 3)), rough.mean(dim=(1, 2, 3))
