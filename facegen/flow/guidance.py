"""Classifier-free guidance on all latent channels, within an interval of t, for all attributes together or each by itself.

    v = v(null) + s (v(c) - v(null)) + sum_k w_k (v(c) - v(c \\ k)) + w(position) (v(c) - v(c \\ changed))

c is the attributes and, where there is one, the identity; null is every attribute unknown and the empty identity. c \\ k
is c with attribute k unknown, the identity kept; c \\ changed, for edits, is c with a set of attributes unknown that may
differ from picture to picture, and its weight differs from place to place. What a network is shown beside x_t (`shown`:
the context of a photograph, its crop) is part of every condition, the null one too. Outside the interval v = v(c).

With a scale of its own for the identity, v(null) + s (v(c) - v(null)) becomes

    v = v(null) + s (v(y) - v(null)) + s_id (v(c) - v(y))

y being the attributes of c with the empty identity; s_id = s is one scale for both again.
Source: Ho and Salimans, Classifier-Free Diffusion Guidance; Kynkaanniemi et al., Applying Guidance in a Limited Interval.
Liu et al., Compositional Visual Generation (a scale for each condition).
Shapes: x (B, C, H, W), attributes (B, A), identity (B, E) or, of K people, (B, K, E).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from facegen.attributes import UNKNOWN

_ROUNDING = 1e-6  # schedulers hold t in float32

Network = Callable[..., Tensor]
"""(x_t (B, C, H, W), t (B,), attributes (B, A)) -> v (B, C, H, W); where there is an identity, it is called with the
keywords identity (B, E) and identity_known (B,) bool, too, and with those of `shown`."""


def guided_velocity(
    network: Network,
    x_t: Tensor,
    t: float,
    attributes: Tensor,
    *,
    scale: float,
    interval: Sequence[float],
    attribute_scales: Mapping[int, float],
    identity: Tensor | None = None,
    identity_in_null: bool = False,
    identity_scale: float | None = None,
    shown: Mapping[str, Tensor] | None = None,
    changed: Tensor | None = None,
    changed_weight: Tensor | None = None,
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
        identity: (B, E) or (B, K, E), part of every condition but the null one; None for the empty identity throughout.
        identity_in_null: keep the identity in the null condition too, so that s guides towards the attributes alone.
        identity_scale: s_id; None, or what `scale` is: that of the attributes and the identity together.
        shown: further keywords of the network (`context`, `crop`, `identity_masks`), a row per picture, the same under
            every condition.
        changed: (B, A) bool, the attributes that `changed_weight` strengthens.
        changed_weight: w, float (B, 1, H, W); None is none.

    Raises:
        ValueError: if there is a scale for the identity, but no identity, or one in the null condition too.
    """
    if identity_scale is not None and (identity is None or identity_in_null):
        raise ValueError("identity_scale needs an identity that is no part of the null condition")
    inside = interval[0] - _ROUNDING <= t <= interval[1] + _ROUNDING
    extra = {k: w for k, w in attribute_scales.items() if w and inside}
    apart = identity_scale is not None and inside and identity_scale != scale
    conditions, known = [attributes], [True]
    if inside and scale != 1:
        conditions.append(torch.full_like(attributes, UNKNOWN))
        known.append(identity_in_null)
    if apart:
        conditions.append(attributes)
        known.append(False)
    for k in extra:
        without = attributes.clone()
        without[:, k] = UNKNOWN
        conditions.append(without)
        known.append(True)
    weight_of_changed = changed_weight if inside else None
    if changed is not None and weight_of_changed is not None:
        conditions.append(torch.where(changed, UNKNOWN, attributes))
        known.append(True)
    B, n = x_t.shape[0], len(conditions)
    times = torch.full((B * n,), t, device=x_t.device, dtype=torch.float32)
    beside: dict[str, Tensor] = {}
    if identity is not None:
        beside["identity"] = identity.repeat(n, *[1] * (identity.ndim - 1))
        beside["identity_known"] = torch.tensor(known, device=x_t.device).repeat_interleave(B)
    for name, tensor in (shown or {}).items():
        beside[name] = tensor.repeat(n, *[1] * (tensor.ndim - 1))
    v = network(x_t.repeat(n, 1, 1, 1), times, torch.cat(conditions), **beside).chunk(n)
    guided, rest = v[0], list(v[1:])
    if inside and scale != 1:
        null = rest.pop(0)
        guided = null + scale * (v[0] - null)
    if apart and identity_scale is not None:
        guided = guided + (identity_scale - scale) * (v[0] - rest.pop(0))
    if changed is not None and weight_of_changed is not None:
        guided = guided + weight_of_changed * (v[0] - rest.pop())
    for weight, without_k in zip(extra.values(), rest, strict=True):
        guided = guided + weight * (v[0] - without_k)
    return guided
