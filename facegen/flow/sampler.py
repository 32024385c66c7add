"""ODE solvers from noise to data: pure functions over an explicit schedule of times.

The time convention is that of `facegen.flow.path`. Shapes: x (B, C, H, W); schedule (steps + 1,), from 1 down to 0.
Source: Karras et al., Elucidating the Design Space (Heun); Esser et al., equation 23 (time shift).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from facegen.flow.path import derivative
from facegen.rng import torch_generator

Velocity = Callable[[Tensor, float], Tensor]
"""(x_t, t) -> v, with the condition and its guidance already inside."""


def time_schedule(num_steps: int, *, shift: float) -> Tensor:
    """Return num_steps + 1 times from 1 to 0, float64; shift > 1 puts more of them near noise.

    Raises:
        ValueError: if num_steps < 1 or shift <= 0.
    """
    if num_steps < 1 or shift <= 0:
        raise ValueError(f"num_steps is {num_steps} and shift {shift}; they must be at least 1 and above 0")
    t = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def euler(velocity: Velocity, x: Tensor, schedule: Tensor, *, path: str) -> Tensor:
    """Integrate dx/dt along the schedule with Euler's method (first order, one evaluation a step)."""
    for t, t_next in _steps(schedule):
        x = x + (t_next - t) * derivative(velocity(x, t), path=path)
    return x


def heun(velocity: Velocity, x: Tensor, schedule: Tensor, *, path: str) -> Tensor:
    """Integrate with Heun's method (second order, two evaluations a step)."""
    for t, t_next in _steps(schedule):
        slope = derivative(velocity(x, t), path=path)
        ahead = x + (t_next - t) * slope
        x = x + (t_next - t) * (slope + derivative(velocity(ahead, t_next), path=path)) / 2
    return x


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return noise (B, C, H, W), float32 on the CPU: row i is a function of seeds[i] alone.

    Args:
        seeds: one integer per image.
        shape: (C, H, W).
    """
    rows = [torch.randn(tuple(shape), generator=torch_generator(seed, "initial noise")) for seed in seeds]
    return torch.stack(rows)


def _steps(schedule: Tensor) -> list[tuple[float, float]]:
    times = schedule.tolist()
    return list(itertools.pairwise(times))
