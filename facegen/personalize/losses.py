"""What the mapper is trained with: denoising, class-guided denoising, a face's own denoising, where a token looks.

    diffusion      mean (e - n)^2                                      e prediction, n noise (or velocity)
    class-guided   mean w (e - [M n + (1 - M) sg(e_class)])^2           M face mask; w = M + background_weight (1 - M)
    masked         sum M (e - n)^2 / (C sum M), per image, then the mean
    localisation   mean_{layer, head, token, subject} [ sum_p A (1 - m) / sum_p (1 - m) - sum_p A m / sum_p m ]

sg is the stop of gradients, A the attention probability of a position p for a subject's token, m the subject's mask on
the layer's grid. Attention only within the mask gives -1, only outside +1, even attention 0. Source: Shiohara and
Yamasaki, Face2Diffusion; Xiao et al., FastComposer. Each loss is one float32 number,
a mean over images.
Shapes: B batch, C channels, h w latent size, K subjects at most, H W size of masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.personalize.prompts import TOKENS_PER_SUBJECT

_EMPTY = 1e-5  # added to areas, so that an empty one divides


def diffusion_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error.

    Args:
        prediction, target: (B, C, h, w); the noise, or the velocity where the model predicts that.
    """
    _check_pair(prediction, target)
    return (prediction.float() - target.float()).square().mean()


def cgdr_loss(
    prediction: Tensor, target: Tensor, class_prediction: Tensor, mask: Tensor, *, background_weight: float
) -> Tensor:
    """Return the class-guided denoising loss.

    Inside the mask the prediction is drawn to the target, outside to what the model predicts for the class word, to
    which no gradient flows.

    Args:
        prediction, target, class_prediction: (B, C, h, w).
        mask: (B, 1, h, w) in [0, 1], 1 on faces.
        background_weight: of the squares outside the mask; 1 is the published loss.

    Raises:
        ValueError: if shapes disagree.
    """
    _check_pair(prediction, target)
    _check_pair(prediction, class_prediction)
    mask = _mask_of(mask, prediction)
    mixed = mask * target.float() + (1 - mask) * class_prediction.detach().float()
    weight = mask + background_weight * (1 - mask)
    return (weight * (prediction.float() - mixed).square()).mean()


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over images of the mean squared error within the mask; an image of an empty mask counts 0.

    Args:
        prediction, target: (B, C, h, w).
        mask: (B, 1, h, w) in [0, 1].

    Raises:
        ValueError: if shapes disagree.
    """
    _check_pair(prediction, target)
    mask = _mask_of(mask, prediction)
    square = mask * (prediction.float() - target.float()).square()
    areas = prediction.shape[1] * mask.sum(dim=(1, 2, 3))
    return (square.sum(dim=(1, 2, 3)) / areas.clamp_min(_EMPTY)).mean()


def localization_loss(
    probs: Sequence[Tensor], positions: Tensor, masks: Tensor, valid: Tensor, *, tokens: int = TOKENS_PER_SUBJECT
) -> Tensor:
    """Return how far subjects' tokens are looked at from outside their masks, -1 to 1.

    Subjects of an image count evenly, then images; one without subjects counts 0.

    Args:
        probs: of each layer (B, heads, h, w, L), from `facegen.personalize.attention`.
        positions: (B, K) first position of each subject; anything within L where there is none.
        masks: (B, K, H, W) in [0, 1].
        valid: (B, K) bool, which subjects there are.
        tokens: how many positions each subject has, from its first on; 1 where only the noun is marked.

    Raises:
        ValueError: if there is no layer or shapes disagree.
    """
    most = positions.shape[1]
    if not probs or masks.shape[:2] != positions.shape or valid.shape != positions.shape:
        raise ValueError(
            f"{len(probs)} layers, positions {tuple(positions.shape)}, masks {tuple(masks.shape)}, valid "
            f"{tuple(valid.shape)}; expected a layer at least, (B, K), (B, K, H, W) and (B, K)"
        )
    valid = valid.bool()
    taken = positions.unsqueeze(-1) + torch.arange(tokens, device=positions.device)  # (B, K, tokens)
    taken = torch.where(valid.unsqueeze(-1), taken, 0).flatten(1)
    per_layer = []
    for layer in probs:
        heads, height, width = layer.shape[1:4]
        index = taken[:, None, None, None, :].expand(-1, heads, height, width, -1)
        looked = layer.float().gather(-1, index).unflatten(-1, (most, tokens)).permute(0, 4, 1, 5, 2, 3)
        inside = _resized(masks, (height, width))[:, :, None, None]  # (B, K, 1, 1, h, w)
        within = (looked * inside).sum(dim=(-2, -1)) / (inside.sum(dim=(-2, -1)) + _EMPTY)
        outside = 1 - inside
        without = (looked * outside).sum(dim=(-2, -1)) / (outside.sum(dim=(-2, -1)) + _EMPTY)
        per_layer.append((without - within).mean(dim=(2, 3)))  # (B, K)
    each = torch.stack(per_layer).mean(dim=0)
    return (torch.where(valid, each, 0).sum(dim=1) / valid.sum(dim=1).clamp_min(1)).mean()


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return each cell's share within the mask; an edge on a border of cells stays sharp."""
    return F.interpolate(masks.float(), size=size, mode="area")


def _mask_of(mask: Tensor, prediction: Tensor) -> Tensor:
    expected = (len(prediction), 1, *prediction.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {expected}")
    return mask.float()


def _check_pair(prediction: Tensor, target: Tensor) -> None:
    if prediction.ndim != 4 or prediction.shape != target.shape:
        raise ValueError(
            f"shapes {tuple(prediction.shape)} and {tuple(target.shape)}; expected two of one (B, C, h, w)"
        )
