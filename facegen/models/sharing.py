"""Attention shared between the rows of a batch: a picture takes, from another row, where its tokens look.

Two rows hold the same x_t under two conditions. The borrowing row keeps its values v, and its attention logits z are mixed
with those of the row that it borrows from, share z_from + (1 - share) z. Both rows go through the network together, so
that nothing is stored between passes, and attention stays one fused kernel: the mix of logits is the product of longer
queries and keys. A row that borrows from itself is as it was.
Shapes: R rows, h heads, N tokens, d channels of a head, D hidden size.

Source: Lin et al., UIFace (self-attention maps of the empty context replace those of the identity), with the share and
the choice of blocks as further settings: there, all blocks and a share of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Tempering = Literal["none", "temperature", "gates"]


@dataclass(frozen=True)
class Sharing:
    """Which rows borrow, how much and where, and which blocks report what attention their tokens receive."""

    source: Tensor  # int64 (R,): the row that each borrows from; itself, to borrow nothing
    share: float  # of the other row's logits, 0 to 1
    blocks: tuple[int, ...]  # where it borrows
    mapped: tuple[int, ...] = ()  # blocks whose received attention is returned
    tempering: Tempering = "none"  # of the modulation of rows that borrow
    tempering_share: float = 0.0


def shared_attention(q: Tensor, k: Tensor, v: Tensor, *, source: Tensor | None, share: float) -> Tensor:
    """Return attention (R, h, N, d) whose logits are mixed with those of row source[r].

    Args:
        q, k, v: (R, h, N, d).
        source: (R,); None is no sharing.
        share: 0 is the row's own attention, 1 the other row's.
    """
    if source is None or share == 0:
        return F.scaled_dot_product_attention(q, k, v)
    if share == 1:
        return F.scaled_dot_product_attention(q[source], k[source], v)
    a, b = math.sqrt(share), math.sqrt(1 - share)
    long_q, long_k = (torch.cat([a * x[source], b * x], dim=3) for x in (q, k))  # (R, h, N, 2 d)
    return F.scaled_dot_product_attention(long_q, long_k, v, scale=q.shape[3] ** -0.5)


def received_attention(q: Tensor, k: Tensor) -> Tensor:
    """Return how much attention each token receives, (R, N) float32: the mean over heads and queries, largest 1.

    Args:
        q, k: (R, h, N, d).
    """
    with torch.autocast(q.device.type, enabled=False):  # the steps between two maps are small beside bfloat16's
        logits = (q.float() * q.shape[3] ** -0.5) @ k.float().transpose(2, 3)  # (R, h, queries, keys)
        received = logits.softmax(dim=3).mean(dim=(1, 2))  # (R, N)
    return received / received.amax(dim=1, keepdim=True)


def temperature(spread: Tensor, other: Tensor, *, share: float) -> Tensor:
    """Return the factor that brings a spread towards another's: 1 - share + share * other / spread, 1 where it is 0."""
    return torch.where(spread > 0, 1 - share + share * other / spread.clamp(min=1e-12), 1.0)


def tempered(modulation: Tensor, sharing: Sharing) -> Tensor:
    """Return the modulation (R, 6 L, D) of each row, brought towards that of the row that it borrows from.

    `temperature` keeps the mean over the channels of each vector and changes its spread, as UIFace changes the logits of
    cross-attention; `gates` mixes the gates alone.

    Args:
        modulation: six vectors a block: scale, shift and gate of the attention, then of the MLP.
    """
    if sharing.tempering == "none" or sharing.tempering_share == 0:
        return modulation
    other, share = modulation[sharing.source], sharing.tempering_share
    if sharing.tempering == "gates":
        gate = (torch.arange(modulation.shape[1], device=modulation.device) % 3 == 2)[:, None]
        return torch.where(gate, torch.lerp(modulation, other, share), modulation)
    mean, spread = modulation.mean(dim=2, keepdim=True), modulation.std(dim=2, keepdim=True)
    return mean + (modulation - mean) * temperature(spread, other.std(dim=2, keepdim=True), share=share)
