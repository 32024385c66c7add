"""The path between data and noise. The time convention of the whole project is stated here and nowhere else:

    t = 0 is data, t = 1 is noise.
    linear: x_t = (1 - t) x_0 + t eps,                      v = eps - x_0            (rectified flow)
    cosine: x_t = cos(pi t / 2) x_0 + sin(pi t / 2) eps,    v = alpha eps - sigma x_0 (variance-preserving v-prediction)

dx_t/dt is v for the linear path and (pi/2) v for the cosine path. Shapes: x (B, C, H, W), t (B,).
Source: Liu et al., Flow Straight and Fast; Salimans and Ho, Progressive Distillation (v-prediction).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PATHS = ("linear", "cosine")


def coefficients(t: Tensor, *, path: str) -> tuple[Tensor, Tensor]:
    """Return (alpha, sigma), each of t's shape: x_t = alpha x_0 + sigma eps.

    Raises:
        ValueError: for an unknown path.
    """
    if path == "linear":
        return 1 - t, t
    if path == "cosine":
        angle = t * (math.pi / 2)
        return torch.cos(angle), torch.sin(angle)
    raise ValueError(f"flow path is {path!r}; allowed: {', '.join(PATHS)}")


def interpolate(x0: Tensor, eps: Tensor, t: Tensor, *, path: str) -> Tensor:
    """Return x_t of data x0 and noise eps."""
    alpha, sigma = _columns(t, x0, path)
    return alpha * x0 + sigma * eps


def velocity(x0: Tensor, eps: Tensor, t: Tensor, *, path: str) -> Tensor:
    """Return the training target v."""
    if path == "linear":
        return eps - x0
    alpha, sigma = _columns(t, x0, path)
    return alpha * eps - sigma * x0


def to_data(x_t: Tensor, v: Tensor, t: Tensor, *, path: str) -> Tensor:
    """Return the estimate of x_0 that (x_t, v) implies."""
    alpha, sigma = _columns(t, x_t, path)
    return x_t - sigma * v if path == "linear" else alpha * x_t - sigma * v


def to_noise(x_t: Tensor, v: Tensor, t: Tensor, *, path: str) -> Tensor:
    """Return the estimate of eps that (x_t, v) implies."""
    alpha, sigma = _columns(t, x_t, path)
    return x_t + alpha * v if path == "linear" else sigma * x_t + alpha * v


def derivative(v: Tensor, *, path: str) -> Tensor:
    """Return dx_t/dt, what an ODE solver integrates."""
    return v if path == "linear" else v * (math.pi / 2)


def sample_times(
    num: int, *, mean: float, std: float, generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """Return (num,) times in (0, 1) from the logit-normal density, stratified over the batch.

    Row i falls in the i-th of `num` equal quantiles, so that each batch covers the whole density.
    Source: Esser et al., Scaling Rectified Flow Transformers (logit-normal); Kingma et al., VDM (stratification).
    """
    uniform = (torch.arange(num, device=device) + torch.rand(num, generator=generator, device=device)) / num
    return torch.sigmoid(mean + std * torch.special.ndtri(uniform.double().clamp(1e-7, 1 - 1e-7))).float()


def _columns(t: Tensor, x: Tensor, path: str) -> tuple[Tensor, Tensor]:
    alpha, sigma = coefficients(t, path=path)
    shape = (-1, *([1] * (x.ndim - 1)))
    return alpha.view(shape), sigma.view(shape)
