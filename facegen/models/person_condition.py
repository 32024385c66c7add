"""Several people in one picture: whose identity conditions which tokens of a LatentDiT.

    c_p = c + sum_k m_pk person_k + (1 - sum_k m_pk) null

m_pk is the share of person k's mask in token p, area-averaged to the token grid; where masks overlap by more than a whole,
they share the place in proportion. person_k is what an identity adds to the condition: the projected embedding, or what
an adapter maps it to, beside the empty identity.
Shapes: B batch, K people, E identity embedding, D hidden size, N = grid^2 tokens, h w size of the masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MappedIdentity:
    """Identities in units of the condition: what an adapter made of photographs of people."""

    vectors: Tensor  # (B, D), or (B, K, D) with masks; zero is the empty identity


def token_shares(masks: Tensor, *, grid: int) -> Tensor:
    """Return the share of each token that each person has, float32 (B, K, N); over the people at most 1 in sum.

    Args:
        masks: (B, K, h, w) from 0 to 1, of any size from the grid's on.
        grid: tokens a side.
    """
    shares = F.adaptive_avg_pool2d(masks.float(), grid).flatten(2)  # (B, K, N)
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=1)


def rows_like(flags: Tensor, values: Tensor) -> Tensor:
    """Return flags (B,) or (B, K) with axes of length 1 appended, so that they broadcast over values (B, ..., D)."""
    return flags.reshape(*flags.shape, *[1] * (values.ndim - flags.ndim))


def placed(person: Tensor, shares: Tensor, null: Tensor) -> Tensor:
    """Return what each token's condition is given, (B, N, D).

    Args:
        person: (B, K, D).
        shares: (B, K, N), of `token_shares`.
        null: (D,), the empty identity, of which tokens take what nobody has.
    """
    nobody = 1 - shares.sum(dim=1)  # (B, N)
    return shares.transpose(1, 2).to(person.dtype) @ person + nobody[..., None].to(null.dtype) * null


def without(projected: Tensor, dropped: Tensor | None) -> Tensor:
    """Return projected identities (B, D) or (B, K, D) whose components `dropped` (B, D) are 0, the others raised for it."""
    if dropped is None:
        return projected
    kept = (~dropped).to(projected.dtype)
    share = kept.mean(dim=1, keepdim=True).clamp(min=1 / kept.shape[1])  # row by row
    return projected * kept / share if projected.ndim == 2 else projected * kept[:, None] / share[:, None]


def check_people(
    config: Any, batch: int, identity: Tensor | None, mapped: Tensor | None, masks: Tensor | None, *, shared: bool
) -> None:
    """Raise ValueError if identities, mapped ones and masks do not fit a model, or one another.

    Args:
        config: of the model, with identity_dim and hidden_size.
        shared: whether rows take attention from other rows.
    """
    if identity is not None and config.identity_dim is None:
        raise ValueError("this model has no identity condition (identity_dim is null); pass identity=None")
    if identity is not None and mapped is not None:
        raise ValueError("give embeddings (identity) or what an adapter made of them (identity_mapped), not both")
    if masks is not None and (masks.ndim != 4 or len(masks) != batch or 0 in masks.shape):
        raise ValueError(f"identity_masks has shape {tuple(masks.shape)}; expected ({batch}, people, height, width)")
    if masks is not None and (shared or (identity is None and mapped is None)):
        raise ValueError("identity_masks go with identities, and not with attention shared between rows")
    people = () if masks is None else (masks.shape[1],)
    for name, given, width in (
        ("identity", identity, config.identity_dim),
        ("identity_mapped", mapped, config.hidden_size),
    ):
        if given is not None and tuple(given.shape) != (batch, *people, width):
            several = "; several people need identity_masks" if masks is None and given.ndim == 3 else ""
            raise ValueError(f"{name} has shape {tuple(given.shape)}; expected {(batch, *people, width)}{several}")


def check_masks(masks: Tensor) -> None:
    """Raise ValueError if a mask is not finite or leaves [0, 1] (a look at the values; not for inner loops on a GPU)."""
    if not bool(((masks >= 0) & (masks <= 1)).all()):
        raise ValueError("identity_masks must lie in [0, 1], without NaN")


def halves(share: float, *, grid: int) -> Tensor:
    """Return masks (2, grid, grid) of two people side by side: the first has the left `share` of the width.

    Raises:
        ValueError: if share leaves [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; allowed: 0 to 1")
    first = (share * grid - torch.arange(grid)).clamp(0, 1).expand(grid, grid)
    return torch.stack([first, 1 - first])
