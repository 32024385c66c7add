"""Training the LatentDiT on cached latents that live on the device: no data loader, no host work in a step.

Shapes: S images in the set, B batch, C H W latents, A attributes, E identity embedding. The data order and every draw
are functions of (seed, position); see `facegen.train.loop`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from facegen.attributes import UNKNOWN
from facegen.flow.loss import velocity_loss
from facegen.flow.path import interpolate, sample_times, velocity
from facegen.models.dit import LatentDiT, check_states, training_flops
from facegen.rng import torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.loop import Logs, Phase, adamw, epoch_indices, warmup_linear_decay
from facegen.train.partners import Partners, drop_components

TIME_BINS = 10


@dataclass(frozen=True)
class LatentSet:
    """Posterior moments of each image and of its mirror, with attributes and perhaps identities, on one device."""

    mean: Tensor  # (S, 2, C, H, W) float16
    logvar: Tensor  # (S, 2, C, H, W) float16
    attributes: Tensor  # (S, A) int8
    channel_mean: Tensor  # (C,) of the training latents
    channel_std: Tensor  # (C,)
    embedding: Tensor | None  # (S, E) float32 unit vectors; None: there is no recogniser
    identity: Tensor  # (S,) int64, -1 where unknown

    @classmethod
    def from_arrays(
        cls,
        mean: np.ndarray,
        logvar: np.ndarray,
        attributes: np.ndarray,
        *,
        channel_mean: Sequence[float],
        channel_std: Sequence[float],
        device: torch.device,
        embedding: np.ndarray | None = None,
        identity: np.ndarray | None = None,
    ) -> LatentSet:
        """Copy arrays of the stated shapes to `device`; without `identity` (S,) nobody is known.

        Raises:
            ValueError: if the shapes disagree, a state is not -1, 0 or 1, a standard deviation is not positive, or an
                embedding is not finite.
        """
        if mean.ndim != 5 or mean.shape != logvar.shape or len(mean) != len(attributes) or mean.shape[1] != 2:
            raise ValueError(
                f"latents of shape {mean.shape}, {logvar.shape} and attributes {attributes.shape} disagree"
            )
        if not len(mean) or min(channel_std) <= 0:
            raise ValueError(f"{len(mean)} latents with channel std {list(channel_std)}: nothing to train on")
        if embedding is not None and (embedding.ndim != 2 or len(embedding) != len(mean)):
            raise ValueError(f"embeddings of shape {embedding.shape} do not fit {len(mean)} latents")
        if embedding is not None and not np.isfinite(embedding).all():
            raise ValueError("an embedding holds NaN or infinity: the recogniser is broken")
        people = np.full(len(mean), -1) if identity is None else identity
        if people.shape != (len(mean),):
            raise ValueError(f"identity of shape {people.shape} does not fit {len(mean)} latents")
        states = torch.from_numpy(np.array(attributes, dtype=np.int8))
        check_states(states)
        moments = [torch.from_numpy(np.array(a, dtype=np.float16)).to(device) for a in (mean, logvar)]
        scale = [torch.tensor(list(v), dtype=torch.float32, device=device) for v in (channel_mean, channel_std)]
        faces = None if embedding is None else torch.from_numpy(np.array(embedding, dtype=np.float32)).to(device)
        return cls(
            moments[0],
            moments[1],
            states.to(device),
            scale[0],
            scale[1],
            faces,
            torch.from_numpy(np.array(people, dtype=np.int64)).to(device),
        )

    def __len__(self) -> int:
        return self.mean.shape[0]

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return normalised latents (B, C, H, W), each a fresh posterior sample of the image or of its mirror, and attributes."""
        device = self.mean.device
        side = torch.randint(2, indices.shape, generator=generator, device=device)
        mean, logvar = self.mean[indices, side].float(), self.logvar[indices, side].float()
        noise = torch.randn(mean.shape, generator=generator, device=device)
        z = torch.addcmul(mean, (0.5 * logvar).exp(), noise)
        return (z - self.channel_mean[:, None, None]) / self.channel_std[:, None, None], self.attributes[indices]


@dataclass(frozen=True)
class FlowBatch:
    """One training batch: x_t, t, the condition, and the velocity to predict."""

    x_t: Tensor  # (B, C, H, W)
    t: Tensor  # (B,)
    attributes: Tensor  # (B, A) int8, after dropout
    target: Tensor  # (B, C, H, W)
    identity: Tensor | None  # (B, E)
    identity_known: Tensor | None  # (B,) bool, after dropout
    identity_dropped: Tensor | None  # (B, D) bool, components that are left out


def drop_attributes(attributes: Tensor, *, drop_all: float, drop_some: float, generator: torch.Generator) -> Tensor:
    """Return a copy in which some states are unknown.

    Args:
        attributes: (B, A) states.
        drop_all: share of rows with every attribute unknown.
        drop_some: share of rows in which each attribute is dropped at a rate drawn from U(0, 1) for the row.
    """
    device = attributes.device
    kind = torch.rand(len(attributes), 1, generator=generator, device=device)
    rate = torch.rand(len(attributes), 1, generator=generator, device=device)
    coin = torch.rand(attributes.shape, generator=generator, device=device)
    dropped = (kind < drop_all) | ((kind < drop_all + drop_some) & (coin < rate))
    return torch.where(dropped, UNKNOWN, attributes)


@dataclass(frozen=True)
class DiTRecipe:
    """How a LatentDiT is trained; the meanings are in params.yaml."""

    seed: int
    path: str
    time_mean: float
    time_std: float
    laplacian_weight: float
    total_images: int
    learning_rate: float
    warmup_images: int
    decay_fraction: float
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float
    drop_all: float
    drop_some: float
    drop_identity: float
    drop_components: float
    other_picture_share: float
    other_mean_share: float
    ema_sigma_rel: tuple[float, ...]


class DiTLearner:
    """Flow matching on a resident latent set (a `facegen.train.loop.Learner`)."""

    def __init__(self, model: LatentDiT, data: LatentSet, recipe: DiTRecipe) -> None:
        self.data, self.recipe, self.hidden_size = data, recipe, int(model.config.hidden_size)
        self.models: dict[str, nn.Module] = {"dit": model}
        optimizer = adamw(
            model, learning_rate=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.phases = [Phase("dit", model, optimizer, recipe.grad_clip, self.loss)]
        self.ema = PowerEMA(model, sigma_rels=recipe.ema_sigma_rel)
        self.flops_per_image = training_flops(model)
        self.partners = Partners(data.identity)
        self.mean_of_others = None if data.embedding is None else self.partners.mean_of_others(data.embedding)

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=r.warmup_images,
            total_images=r.total_images,
            decay_fraction=r.decay_fraction,
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one learner a process; two epochs can meet in a batch)
    def _permutation(self, epoch: int) -> Tensor:
        generator = torch_generator(self.recipe.seed, "data order", epoch)
        return torch.randperm(len(self.data), generator=generator).to(self.data.mean.device)

    def batch(self, images_seen: int, batch_size: int) -> FlowBatch:
        r, device = self.recipe, self.data.mean.device
        positions = range(images_seen, images_seen + batch_size)
        indices = epoch_indices(positions, size=len(self.data), permutation=self._permutation)
        generator = torch_generator(r.seed, "training noise", images_seen, device=device)
        x0, attributes = self.data.draw(indices, generator)
        eps = torch.randn(x0.shape, generator=generator, device=device)
        t = sample_times(batch_size, mean=r.time_mean, std=r.time_std, generator=generator, device=device)
        attributes = drop_attributes(attributes, drop_all=r.drop_all, drop_some=r.drop_some, generator=generator)
        identity, known, dropped = None, None, None
        if (
            self.data.embedding is not None and self.mean_of_others is not None
        ):  # the last draws: all others are the same with and without identities
            known = torch.rand(batch_size, generator=generator, device=device) >= r.drop_identity
            source = torch.rand(batch_size, 1, generator=generator, device=device)
            other = self.data.embedding[self.partners.draw(indices, generator)]
            identity = torch.where(source < r.other_picture_share, other, self.data.embedding[indices])
            identity = torch.where(source > 1 - r.other_mean_share, self.mean_of_others[indices], identity)
            dropped = drop_components((batch_size, self.hidden_size), rate=r.drop_components, generator=generator)
        x_t, target = interpolate(x0, eps, t, path=r.path), velocity(x0, eps, t, path=r.path)
        return FlowBatch(x_t, t, attributes, target, identity, known, dropped)

    def loss(self, module: nn.Module, batch: FlowBatch) -> tuple[Tensor, Logs]:
        predicted = module(
            batch.x_t,
            batch.t,
            batch.attributes,
            batch.identity,
            batch.identity_known,
            identity_dropped=batch.identity_dropped,
            return_dict=False,
        )[0]
        mse, rough = velocity_loss(predicted, batch.target)
        loss = mse.mean() + self.recipe.laplacian_weight * rough.mean()
        logs: Logs = {"loss": loss.detach(), "mse": mse.mean().detach(), "laplacian": rough.mean().detach()}
        return loss, logs | loss_by_time(mse.detach(), batch.t)


def loss_by_time(mse: Tensor, t: Tensor) -> Logs:
    """Return (sum, count) of the error per tenth of t, named mse_t0 (near data) to mse_t9 (near noise)."""
    bins = (t * TIME_BINS).long().clamp(0, TIME_BINS - 1)
    member = (bins[:, None] == torch.arange(TIME_BINS, device=t.device)).to(mse.dtype)  # (B, bins)
    sums, counts = mse @ member, member.sum(dim=0)
    return {f"mse_t{i}": (sums[i], counts[i]) for i in range(TIME_BINS)}


@torch.no_grad()
def validation_mse(
    model: nn.Module, data: LatentSet, recipe: DiTRecipe, *, batch_size: int, with_identity: bool = False
) -> float:
    """Return the mean velocity error over a set, at the same times and noise whenever it is asked.

    Args:
        with_identity: give the model an embedding of another picture of the same person (of the picture itself, where it
            is the only one) instead of the empty identity.

    Raises:
        ValueError: if there are no embeddings to give.
    """
    if with_identity and data.embedding is None:
        raise ValueError("the latents carry no embeddings; measure with the empty identity")
    total = torch.zeros((), dtype=torch.float64, device=data.mean.device)
    for start in range(0, len(data), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(data)), device=data.mean.device)
        generator = torch_generator(recipe.seed, "validation noise", start, device=data.mean.device)
        x0, attributes = data.draw(indices, generator)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        t = sample_times(
            len(x0), mean=recipe.time_mean, std=recipe.time_std, generator=generator, device=data.mean.device
        )
        identity = None
        if with_identity and data.embedding is not None:
            identity = data.embedding[Partners(data.identity).draw(indices, generator)]
        v = model(interpolate(x0, eps, t, path=recipe.path), t, attributes, identity, return_dict=False)[0]
        mse, _ = velocity_loss(v, velocity(x0, eps, t, path=recipe.path))
        total += mse.double().sum()
    return float(total / len(data))
