"""Training an adapter: faces become conditions of a frozen LatentDiT, by what that model then denoises.

    L = mean w (v_id - [M v + (1 - M) sg(v_base)])^2 + weight * mean M (K (v_id - v))^2,     w = M + background_weight (1 - M)

v is the velocity of the path, v_id the model's with the adapter, v_base its own with the empty identity, M the head and K
the Laplacian of `facegen.flow.loss`: inside the head the face has to become the person's, outside nothing may depend on
who it is (class guidance, here in the velocity). K sees v_id - v, which has no seam at the mask's edge. Without class
guidance M is 1. A face is told by another picture of the person, where there is one, so that light, pose and expression
of the photograph are of little use. The attributes are dropped as in the model's own training; the identity is not: dropped,
the model is the frozen one, from which nothing can be learned.

Shapes: N pictures, R of them references, B batch, C h w latents, A attributes, I identity features.
Source: Shiohara and Yamasaki, Face2Diffusion (CGDR); for a path x_t = a x_0 + s eps, errors of eps and v differ by a.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from facegen.data.face_embedder import mirrored_landmarks
from facegen.flow.loss import laplacian
from facegen.flow.path import interpolate, sample_times, velocity
from facegen.models.dit import LatentDiT, training_flops
from facegen.models.text_to_image import quick_attention
from facegen.personalize.dit_adapter import DiTAdapter
from facegen.personalize.dit_references import Part, References, part_masks
from facegen.personalize.learner import seeded_dropout
from facegen.personalize.losses import cgdr_loss
from facegen.rng import derive_seed, torch_generator
from facegen.train.dit import LatentSet, drop_attributes
from facegen.train.loop import Logs, Phase, adamw, epoch_indices, warmup_linear_decay

WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6


@dataclass(frozen=True)
class DiTMapperRecipe:
    """How an adapter is trained; the meanings are in params.yaml."""

    seed: int
    dtype: torch.dtype  # of the frozen model's passes
    path: str
    time_mean: float
    time_std: float
    laplacian_weight: float
    class_guided: bool
    background_weight: float
    part: Part
    other_picture_share: float
    drop_all: float
    drop_some: float
    total_images: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    grad_clip: float


@dataclass(frozen=True)
class MappedBatch:
    """One training batch."""

    x_t: Tensor  # (B, C, h, w)
    t: Tensor  # (B,)
    attributes: Tensor  # (B, A) int8, after dropout
    target: Tensor  # (B, C, h, w)
    features: Tensor  # (B, I) of the references
    mask: Tensor  # (B, 1, h, w) in [0, 1]; all 1 without class guidance
    seed: int  # of dropout


class DiTMapperLearner:
    """Denoising of known people by a frozen LatentDiT that an adapter tells who they are (a `Learner`)."""

    ema = None

    def __init__(
        self,
        adapter: DiTAdapter,
        model: LatentDiT,
        data: LatentSet,
        recipe: DiTMapperRecipe,
        *,
        references: References,
        features: Tensor,
        landmarks: np.ndarray,
        size_px: int,
    ) -> None:
        """
        Args:
            adapter: on the device; all that is trained.
            model: on the device; it is frozen.
            data: the train split's latents, with the people's numbers.
            recipe: how to train.
            references: which pictures of `data` tell of whom.
            features: (R, I) of those.
            landmarks: (N, 5, 2) px of the pictures, and size_px their side.

        Raises:
            ValueError: if they do not fit each other.
        """
        if (
            len(references) != len(data)
            or len(features) != len(references.rows)
            or landmarks.shape != (len(data), 5, 2)
        ):
            raise ValueError(
                f"{len(data)} latents, references of {len(references)} pictures, features {tuple(features.shape)} and "
                f"landmarks {landmarks.shape} do not fit"
            )
        if adapter.config.out_dim != model.config.hidden_size:
            raise ValueError(
                f"the adapter gives {adapter.config.out_dim} values; the model has {model.config.hidden_size}"
            )
        self.model, self.data, self.recipe = model.requires_grad_(False).eval(), data, recipe
        device, grid = data.mean.device, model.config.sample_size
        self.features, self.references = features.to(device), references.to(device)
        both = (landmarks, mirrored_landmarks(landmarks, width=size_px))
        self.masks = torch.stack(
            [part_masks(torch.from_numpy(np.array(x)), size_px=size_px, grid=grid, part=recipe.part) for x in both],
            dim=1,
        ).to(device, torch.float16)  # (N, 2, 1, h, w): image, mirror
        adapter.eval()  # dropout is drawn by the batch: see `seeded_dropout`
        self.models: dict[str, nn.Module] = {"adapter": adapter}
        optimizer = adamw(
            adapter, learning_rate=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.phases = [Phase("adapter", adapter, optimizer, recipe.grad_clip, self.loss)]
        self.flops_per_image = training_flops(model)

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen, peak=r.learning_rate, warmup_images=round(WARMUP_FRACTION * r.total_images),
            total_images=r.total_images, decay_fraction=DECAY_FRACTION,
        )  # fmt: skip

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one learner at a time; two epochs can meet in a batch)
    def _permutation(self, epoch: int) -> Tensor:
        generator = torch_generator(self.recipe.seed, "adapter order", epoch)
        return torch.randperm(len(self.data), generator=generator).to(self.data.mean.device)

    def batch(self, images_seen: int, batch_size: int) -> MappedBatch:
        r, data, device = self.recipe, self.data, self.data.mean.device
        positions = range(images_seen, images_seen + batch_size)
        indices = epoch_indices(positions, size=len(data), permutation=self._permutation)
        generator = torch_generator(r.seed, "adapter noise", images_seen, device=device)
        side = torch.randint(2, indices.shape, generator=generator, device=device)
        mean, logvar = data.mean[indices, side].float(), data.logvar[indices, side].float()
        z = torch.addcmul(mean, (0.5 * logvar).exp(), torch.randn(mean.shape, generator=generator, device=device))
        x0 = (z - data.channel_mean[:, None, None]) / data.channel_std[:, None, None]
        eps = torch.randn(x0.shape, generator=generator, device=device)
        t = sample_times(batch_size, mean=r.time_mean, std=r.time_std, generator=generator, device=device)
        attributes = drop_attributes(
            data.attributes[indices], drop_all=r.drop_all, drop_some=r.drop_some, generator=generator
        )
        told = self.references.draw(indices, other_share=r.other_picture_share, generator=generator)
        mask = self.masks[indices, side].float() if r.class_guided else torch.ones_like(x0[:, :1])
        return MappedBatch(
            interpolate(x0, eps, t, path=r.path), t, attributes, velocity(x0, eps, t, path=r.path),
            self.features[told], mask, derive_seed(r.seed, "adapter dropout", images_seen),
        )  # fmt: skip

    def predict(self, batch: MappedBatch, mapped: Tensor | None) -> Tensor:
        """Return the frozen model's velocity, float32, with what an adapter adds; None: with the empty identity."""
        device, dtype = batch.x_t.device.type, self.recipe.dtype
        with quick_attention(device), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            v = self.model(batch.x_t, batch.t, batch.attributes, identity_mapped=mapped, return_dict=False)[0]
        return v.float()

    def loss(self, module: nn.Module, batch: MappedBatch) -> tuple[Tensor, Logs]:
        r, mask = self.recipe, batch.mask
        with seeded_dropout(module, batch.seed):
            mapped = module(batch.features).float()
        predicted = self.predict(batch, mapped)
        base = batch.target
        if r.class_guided:
            with torch.no_grad():
                base = self.predict(batch, None)
        guided = cgdr_loss(predicted, batch.target, base, mask, background_weight=r.background_weight).mean()
        error = predicted - batch.target
        rough = (mask * laplacian(error).square()).mean()
        loss = guided + r.laplacian_weight * rough
        logs: Logs = {"loss": loss.detach(), "guided": guided.detach(), "laplacian": rough.detach()}
        return loss, logs | {"mse": error.detach().square().mean()}
