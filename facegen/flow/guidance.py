"""Classifier-free guidance on all latent channels, within an interval of t, for all attributes together or each by itself.

    v = v(null) + s (v(c) - v(null)) + sum_k w_k (v(c) - v(c \\ k))

c \\ k is the condition with attribute k unknown. Outside the interval v = v(c).
Source: Ho and Salimans, Classifier-Free Diffusion Guidance; Kynkaanniemi et al., Applying Guidance in a Limited Interval.
Shapes: x (B, C, H, W), attributes (B, A).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from facegen.attributes import UNKNOWN

_ROUNDING = 1e-6  # schedulers hold t in float32

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,), attributes (B, A)) -> v (B, C, H, W)."""


def guided_velocity(
    network: Network,
    x_t: Tensor,
    t: float,
    attributes: Tensor,
    *,
    scale: float,
    interval: Sequence[float],
    attribute_scales: Mapping[int, float],
) -> Tensor:
    """Return the guided velocity at one time for a batch; all conditions go through the network in one pass.

    Args:
        network: the velocity network.
        x_t: (B, C, H, W).
        t: the time, 1 is noise.
        attributes: (B, A) states.
        scale: guidance scale s; 1 is none.
        interval: (low, high): guidance acts where low <= t <= high.
        attribute_scales: extra weight w_k by attribute index.
    """
    inside = interval[0] - _ROUNDING <= t <= interval[1] + _ROUNDING
    extra = {k: w for k, w in attribute_scales.items() if w and inside}
    conditions = [attributes]
    if inside and scale != 1:
        conditions.append(torch.full_like(attributes, UNKNOWN))
    for k in extra:
        without = attributes.clone()
        without[:, k] = UNKNOWN
        conditions.append(without)
    B, n = x_t.shape[0], len(conditions)
    times = torch.full((B * n,), t, device=x_t.device, dtype=torch.float32)
    v = network(x_t.repeat(n, 1, 1, 1), times, torch.cat(conditions)).chunk(n)
    guided, rest = v[0], list(v[1:])
    if inside and scale != 1:
        null = rest.pop(0)
        guided = null + scale * (v[0] - null)
    for weight, without_k in zip(extra.values(), rest, strict=True):
        guided = guided + weight * (v[0] - without_k)
    return guided
