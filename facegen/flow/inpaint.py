"""Repainting a part of a picture with a flow that was trained to make whole ones.

Both samplers go along an explicit schedule of times and put the photograph's own latents back after each step:

    x_t' = a x_t + b v(x_t, t)                          the step from t to t' (Euler on the linear path, DDIM on the cosine)
    x_t' <- m(t') x_t' + (1 - m(t')) (alpha' z + sigma' eps)          z the photograph, eps its noise, m 1 = repainted

With `resamples` > 1 each step is taken several times, with a jump back to t in between, so that both parts can agree:

    x_t = r x_t' + sqrt(sigma^2 - r^2 sigma'^2) xi,     r = alpha / alpha',     xi ~ N(0, I)

which has the marginal of time t if x_t' has that of t'. eps makes the same jump, so the kept part stays one point of the
forward process. Every draw is a function of (seed, purpose, step, round): picture i does not depend on its batch.
Shapes: x, z, eps (B, C, H, W); masks (K, B, 1, H, W), see `facegen.flow.latent_masks`.
Source: Avrahami et al., Blended Latent Diffusion; Lugmayr et al., RePaint (here for any alpha, sigma); Meng et al.,
SDEdit (a schedule that starts below 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from facegen.flow.latent_masks import mask_at
from facegen.flow.path import coefficients, to_data, to_noise
from facegen.flow.sampler import Velocity, time_schedule
from facegen.rng import torch_generator

OnStep = Callable[[int, int], None]
"""(steps done, steps in all)."""


def partial_schedule(num_steps: int, *, shift: float, strength: float) -> Tensor:
    """Return the times from `strength` down to 0, float64: those of the whole schedule that lie below it.

    Raises:
        ValueError: for a strength outside (0, 1], or a schedule that cannot be.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; allowed: above 0, at most 1 (1 starts from pure noise)")
    whole = time_schedule(num_steps, shift=shift)
    return torch.cat([torch.tensor([strength], dtype=whole.dtype), whole[whole < strength - 1e-9]])


def step_noise(seeds: Sequence[int], shape: Sequence[int], purpose: str, *index: int) -> Tensor:
    """Return noise (B, C, H, W), float32 on the CPU: row i is a function of seeds[i], the purpose and the index."""
    return torch.stack([torch.randn(tuple(shape), generator=torch_generator(s, purpose, *index)) for s in seeds])


def forward_point(data: Tensor, eps: Tensor, t: float, *, path: str) -> Tensor:
    """Return alpha z + sigma eps at one time for the whole batch."""
    alpha, sigma = _numbers(t, path)
    return alpha * data + sigma * eps


def flow_step(x: Tensor, v: Tensor, t: float, t_next: float, *, path: str) -> Tensor:
    """Return the point at t_next that keeps the data and the noise that (x, v) imply."""
    a, b = _step_numbers(t, t_next, path)
    return a * x + b * v


def jump_back(x: Tensor, noise: Tensor, t_from: float, t_to: float, *, path: str) -> Tensor:
    """Return a point at t_to > t_from, of the forward process given x at t_from (see the module's docstring)."""
    ratio, spread = _jump(t_from, t_to, path)
    return ratio * x + spread * noise


def inpaint(
    velocity: Velocity,
    source: Tensor,
    masks: Tensor,
    schedule: Tensor,
    *,
    path: str,
    seeds: Sequence[int],
    eps: Tensor,
    resamples: int = 1,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return latents (B, C, H, W): those of the photograph outside the tightest mask, repainted inside.

    Args:
        velocity: (x_t, t) -> v, with condition and guidance inside.
        source: z, the photograph's latents, normalised.
        masks: bool (K, B, 1, H, W), tight to wide.
        schedule: times, falling to 0; where it starts below 1, the repainted part starts from the photograph, too.
        path: the flow path.
        seeds: one integer per picture, for the jumps.
        eps: the noise of start and photograph.
        resamples: passes of each step; 1 is plain blending. A step from pure noise is taken once: a jump back to it
            would forget everything.
        on_step: called after each step.
    """
    times = schedule.tolist()
    x = forward_point(source, eps, times[0], path=path)
    for index, (t, t_next) in enumerate(itertools.pairwise(times)):
        repaint = mask_at(masks, t_next)
        passes = resamples if _numbers(t, path)[0] > 1e-6 else 1
        for turn in range(passes):
            x = flow_step(x, velocity(x, t), t, t_next, path=path)
            x = torch.where(repaint, x, forward_point(source, eps, t_next, path=path))
            if turn < passes - 1:
                xi = step_noise(seeds, x.shape[1:], "resampling", index, turn).to(x)
                eps = _jump_noise(eps, xi, t_next, t, path=path)
                x = jump_back(x, xi, t_next, t, path=path)
        if on_step is not None:
            on_step(index + 1, len(times) - 1)
    return x


def _jump_noise(eps: Tensor, xi: Tensor, t_from: float, t_to: float, *, path: str) -> Tensor:
    """Return the noise that a point alpha z + sigma eps has after its jump, unit variance again."""
    ratio, spread = _jump(t_from, t_to, path)
    before, after = _numbers(t_from, path)[1], _numbers(t_to, path)[1]
    return (ratio * before * eps + spread * xi) / after


def _jump(t_from: float, t_to: float, path: str) -> tuple[float, float]:
    """Return (r, sqrt(sigma^2 - r^2 sigma'^2)) of a jump from t' = t_from to t = t_to."""
    (alpha_from, sigma_from), (alpha, sigma) = _numbers(t_from, path), _numbers(t_to, path)
    ratio = alpha / alpha_from
    return ratio, math.sqrt(max(sigma**2 - (ratio * sigma_from) ** 2, 0.0))


def _step_numbers(t: float, t_next: float, path: str) -> tuple[float, float]:
    """Return a and b of x_t' = a x_t + b v: what becomes of (x, v) = (1, 0) and of (0, 1)."""
    x, v = torch.eye(2, dtype=torch.float64)
    time = torch.full((2,), t, dtype=torch.float64)
    data, noise = to_data(x, v, time, path=path), to_noise(x, v, time, path=path)
    a, b = forward_point(data, noise, t_next, path=path).tolist()
    return a, b


def _numbers(t: float, path: str) -> tuple[float, float]:
    alpha, sigma = coefficients(torch.tensor(t, dtype=torch.float64), path=path)
    return float(alpha), float(sigma)
