"""The noise that a flow would have made a given picture from, and the way back with another request.

The ODE is integrated from data to noise along the sampler's own schedule with Heun's method (second order). A reversed
step is not the exact inverse of the step, so each point is corrected by fixed-point sweeps of the forward step F:

    x_t <- x_t + (x_t' - F(x_t)),        F: Heun from t to t'

which leaves F(x_t) = x_t' where it converges (h |dv/dx| < 1): the picture then comes back as it was.
Shapes: x (B, C, H, W); schedule (steps + 1,), from noise down to data.
Source: Song et al., DDIM, section 4.3 (encoding by the ODE); Pan et al., Effective Real Image Editing with Accelerated
Iterative Diffusion Inversion (fixed-point correction).
"""

from __future__ import annotations

import torch
from torch import Tensor

from facegen.flow.inpaint import OnStep
from facegen.flow.latent_masks import mask_at
from facegen.flow.sampler import Velocity, heun


def invert(
    velocity: Velocity, x: Tensor, schedule: Tensor, *, path: str, corrections: int, on_step: OnStep | None = None
) -> list[Tensor]:
    """Return the points of the trajectory that ends at x, one per time of the schedule: the first is the noise.

    Args:
        velocity: (x_t, t) -> v under the picture's own condition.
        x: data, (B, C, H, W).
        schedule: times, falling.
        path: the flow path.
        corrections: fixed-point sweeps a step; each costs as much as the step.
        on_step: called with (steps done, steps).
    """
    points, steps = [x], len(schedule) - 1
    for index in range(steps, 0, -1):
        forward = schedule[index - 1 : index + 1]
        guess = heun(velocity, points[-1], forward.flip(0), path=path)
        for _ in range(corrections):
            guess = guess + (points[-1] - heun(velocity, guess, forward, path=path))
        points.append(guess)
        if on_step is not None:
            on_step(steps - index + 1, steps)
    return points[::-1]


def regenerate(
    velocity: Velocity,
    points: list[Tensor],
    schedule: Tensor,
    masks: Tensor | None,
    *,
    path: str,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return data (B, C, H, W) made from the first point under another condition, with Heun's method.

    Args:
        velocity: (x_t, t) -> v under the new condition.
        points: what `invert` returned.
        schedule: the same times.
        masks: bool (K, B, 1, H, W), tight to wide: outside them the trajectory's own points are put back after each
            step. None: the whole picture may change.
        path: the flow path.
        on_step: called with (steps done, steps).
    """
    x, steps = points[0], len(schedule) - 1
    for index in range(steps):
        x = heun(velocity, x, schedule[index : index + 2], path=path)
        if masks is not None:
            x = torch.where(mask_at(masks, float(schedule[index + 1])), x, points[index + 1])
        if on_step is not None:
            on_step(index + 1, steps)
    return x
