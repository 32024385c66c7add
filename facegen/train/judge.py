"""Training an attribute judge: balanced, smoothed cross-entropy over the attributes that are known.

Shapes: B batch, A attributes, N images. The train split alone is learned from; the validation split sets temperatures
and thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.models.judges import Judge
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

SMOOTHING = 0.1  # labels 0 and 1 are taught as 0.05 and 0.95: published attribute lists are noisy
WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6
GRAD_CLIP = 5.0
MAX_BALANCE = 20.0  # no label weighs more than this against the average one
BETAS = (0.9, 0.99)
TEMPERATURES = (0.05, 20.0)  # searched


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

    def __init__(self, judge: Judge, data: FaceSet, recipe: JudgeRecipe) -> None:
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
def predict(judge: Judge, data: FaceSet, *, batch_size: int) -> np.ndarray:
    """Return logits float32 (S, A) of every picture, computed in float32; `judge` in evaluation mode."""
    rows = []
    for start in range(0, len(data), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(data)))
        rows.append(judge(data.images(indices, torch.zeros(len(indices), dtype=torch.bool))).float().cpu())
    return torch.cat(rows).numpy()


def fit_temperatures(logits: np.ndarray, states: np.ndarray) -> list[float]:
    """Return, for each attribute, the temperature of the smallest cross-entropy; 1 where a class is missing.

    The targets are Platt's, (P + 1) / (P + 2) and 1 / (Q + 2) of P present and Q absent pictures: logits without an
    error among so few pictures would otherwise ask for certainty.

    Args:
        logits: (N, A).
        states: (N, A) of -1 (left out), 0, 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, section 4.2; Platt, Probabilistic Outputs for Support
    Vector Machines, section 2.2.
    """
    temperatures = []
    for column in range(states.shape[1]):
        known = states[:, column] != UNKNOWN
        scores, present = logits[known, column].astype(np.float64), states[known, column] == PRESENT
        num_present, num_absent = int(present.sum()), int((~present).sum())
        if not num_present or not num_absent:
            temperatures.append(1.0)
            continue
        targets = np.where(present, (num_present + 1) / (num_present + 2), 1 / (num_absent + 2))
        found = minimize_scalar(
            _cross_entropy, args=(scores, targets), bounds=np.log(TEMPERATURES), method="bounded",
            options={"xatol": 1e-6},
        )  # fmt: skip
        temperatures.append(float(np.exp(found.x)))
    return temperatures


def _cross_entropy(log_temperature: float, logits: np.ndarray, targets: np.ndarray) -> float:
    scaled = logits * np.exp(-log_temperature)
    return float((np.logaddexp(0, scaled) - targets * scaled).mean())


def best_thresholds(probabilities: np.ndarray, states: np.ndarray) -> list[float]:
    """Return, for each attribute, the threshold of the best balanced accuracy; 0.5 where a class is missing.

    The middle of the best run of thresholds on a grid of hundredths, so that a tie is not settled at its edge.

    Args:
        probabilities: (N, A).
        states: (N, A) of -1 (left out), 0, 1.
    """
    grid = np.arange(1, 100) / 100
    chosen = []
    for column in range(states.shape[1]):
        present, absent = (probabilities[states[:, column] == state, column] for state in (PRESENT, ABSENT))
        if not len(present) or not len(absent):
            chosen.append(0.5)
            continue
        scores = (present[:, None] >= grid).mean(axis=0) + (absent[:, None] < grid).mean(axis=0)
        best = grid[scores == scores.max()]
        chosen.append(float(best[len(best) // 2]))
    return chosen
