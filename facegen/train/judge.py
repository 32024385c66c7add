"""Training an attribute judge: balanced, smoothed cross-entropy over the attributes that are known.

Shapes: B batch, A attributes, N images. The train split alone is learned from; the validation split sets thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.attributes import PRESENT, UNKNOWN
from facegen.models.judge import AttributeJudge
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

SMOOTHING = 0.1  # labels 0 and 1 are taught as 0.05 and 0.95: published attribute lists are noisy
WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6
GRAD_CLIP = 5.0
MAX_BALANCE = 20.0  # no label weighs more than this against the average one
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class JudgeRecipe:
    """How a judge is trained; the meanings are in params.yaml."""

    seed: int
    name: str
    total_images: int
    learning_rate: float
    weight_decay: float


class JudgeLearner:
    """Attribute classification (a `facegen.train.loop.Learner`)."""

    def __init__(self, judge: AttributeJudge, data: FaceSet, recipe: JudgeRecipe) -> None:
        self.judge, self.data, self.recipe = judge, data, recipe
        self.models: dict[str, nn.Module] = {"judge": judge}
        optimizer = adamw(judge, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay)
        self.phases = [Phase("judge", judge, optimizer, GRAD_CLIP, self.loss)]
        self.ema: PowerEMA | None = None
        self.flops_per_image = 0.0
        self.order = FaceOrder(size=len(data), seed=recipe.seed, purpose=f"judge {recipe.name}")
        self.weights = balance_weights(data.attributes).to(data.device)
        judge.train()

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=round(WARMUP_FRACTION * r.total_images),
            total_images=r.total_images,
            decay_fraction=DECAY_FRACTION,
        )

    def batch(self, images_seen: int, batch_size: int) -> tuple[Tensor, Tensor]:
        indices, mirrored = self.order.draw(images_seen, batch_size)
        return self.data.images(indices, mirrored), self.data.attributes[indices].to(self.data.device)

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Logs]:
        images, states = batch
        logits = module(images).float()
        loss = attribute_loss(logits, states, self.weights)
        known = states != UNKNOWN
        right = ((logits > 0) == (states == PRESENT)) & known
        return loss, {"loss": loss.detach(), "accuracy": (right.sum(), known.sum())}


def balance_weights(attributes: Tensor) -> Tensor:
    """Return loss weights (2, A) of absent and present labels, so that both weigh the same over the set.

    Args:
        attributes: (S, A) states; unknown ones do not count.
    """
    counts = torch.stack([(attributes == state).sum(dim=0) for state in (0, 1)]).double()  # (2, A)
    weights = counts.sum(dim=0) / (2 * counts).clamp(min=1)
    return weights.clamp(max=MAX_BALANCE).float()


def attribute_loss(logits: Tensor, states: Tensor, weights: Tensor) -> Tensor:
    """Return the mean weighted cross-entropy with smoothed labels over the known states.

    Args:
        logits: float32 (B, A).
        states: (B, A) of -1 (left out), 0, 1.
        weights: (2, A) of `balance_weights`.
    """
    present = (states == PRESENT).float()
    known = (states != UNKNOWN).float()
    target = present * (1 - SMOOTHING) + SMOOTHING / 2
    weight = known * torch.where(present > 0, weights[1], weights[0])
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weight * losses).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def predict(judge: AttributeJudge, data: FaceSet, *, batch_size: int, dtype: torch.dtype) -> np.ndarray:
    """Return probabilities float32 (S, A), each the mean over a picture and its mirror; `judge` in evaluation mode."""
    rows = []
    for start in range(0, len(data), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(data)))
        with torch.autocast(data.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = [judge(data.images(indices, torch.full(indices.shape, side))) for side in (False, True)]
        rows.append(torch.stack(logits).float().sigmoid().mean(dim=0).cpu())
    return torch.cat(rows).numpy()


def balanced_accuracy(probabilities: np.ndarray, states: np.ndarray, thresholds: Sequence[float]) -> list[float | None]:
    """Return the mean of the true positive and true negative rates of each attribute; None where one class is missing.

    Args:
        probabilities: (N, A).
        states: (N, A) of -1 (left out), 0, 1.
        thresholds: A probabilities from which an attribute counts as present.
    """
    accuracies: list[float | None] = []
    for column, threshold in enumerate(thresholds):
        said = probabilities[:, column] >= threshold
        present, absent = states[:, column] == 1, states[:, column] == 0
        if present.any() and absent.any():
            accuracies.append(float((said[present].mean() + (~said[absent]).mean()) / 2))
        else:
            accuracies.append(None)
    return accuracies


def best_thresholds(probabilities: np.ndarray, states: np.ndarray) -> list[float]:
    """Return, for each attribute, the threshold of the best balanced accuracy; 0.5 where a class is missing.

    The middle of the best run of thresholds on a grid of hundredths, so that a tie is not settled at its edge.
    """
    grid = np.arange(1, 100) / 100
    chosen = []
    for column in range(states.shape[1]):
        one = (probabilities[:, column : column + 1], states[:, column : column + 1])
        scores = np.array([np.nan if (a := balanced_accuracy(*one, [t])[0]) is None else a for t in grid])
        best = grid[scores == scores.max()] if np.isfinite(scores).all() else np.array([0.5])
        chosen.append(float(best[len(best) // 2]))
    return chosen
