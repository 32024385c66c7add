"""Where a token lies and what time it is, as sinusoids (Vaswani et al., Attention Is All You Need, section 3.5).

Shapes: B batch, N = R * C tokens in rows and columns, D hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The usual 1000 makes the fastest sinusoid turn three times between two of fifty solver steps: what the network says then
# jumps from step to step, and maps that are compared between steps (facegen.flow.two_stage) never settle.
TIME_SCALE = 100.0


def timestep_embedding(t: Tensor, *, dim: int, max_period: float = 10000.0) -> Tensor:
    """Return sinusoids of t, float32 (B, dim): cosines, then sines (Vaswani et al.; t on the scale of 0 to TIME_SCALE)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = TIME_SCALE * t.float()[:, None] * frequencies  # (B, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, dim)


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Return fixed 2-D positions, float32 (grid * grid, dim): half the channels for the row, half for the column."""
    steps = torch.arange(grid, dtype=torch.float64)[None]
    return sincos_at(steps, steps, dim=dim)[0].float()  # (N, D)


def sincos_at(rows: Tensor, columns: Tensor, *, dim: int) -> Tensor:
    """Return the positions (B, R * C, dim) of the tokens at rows (B, R) and columns (B, C), whole or in between."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=rows.dtype, device=rows.device) / (dim // 4))  # (D/4,)
    (B, R), C = rows.shape, columns.shape[1]
    down, across = (
        torch.cat([(x[..., None] * omega).sin(), (x[..., None] * omega).cos()], dim=2) for x in (rows, columns)
    )
    down, across = down[:, :, None].expand(B, R, C, -1), across[:, None].expand(B, R, C, -1)
    return torch.cat([down, across], dim=3).reshape(B, R * C, dim)


def crop_positions(crop: Tensor, *, grid: int, dim: int) -> Tensor:
    """Return the positions (B, N, dim) of the tokens of crops (B, 3): where they lie on the grid of the whole face."""
    middle = (torch.arange(grid, device=crop.device) + 0.5) / grid - 0.5  # of each token, from the crop's centre
    columns, rows = (grid * (crop[:, axis, None] + crop[:, 2:] * middle) - 0.5 for axis in (0, 1))
    return sincos_at(rows, columns, dim=dim)
