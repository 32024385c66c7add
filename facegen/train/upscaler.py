"""Training the upscaler: L1 + perceptual distance on crops of pairs of pictures, and optionally a patch discriminator.

The truth is a large picture. Its input is that picture reduced by the scale, for a share of the batch after a round
trip through the autoencoder, so that the upscaler also takes away what a decoder leaves. Both inputs of every picture
are made once, whole, and kept as bytes.

Shapes: S pictures in the split, B batch, T side of the truth, s scale, P side of a crop of the input, px.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.data.images import to_uint8, to_unit
from facegen.models.autoencoder import Autoencoder, factor
from facegen.models.discriminator import PatchDiscriminator, adversarial_loss, hinge_loss
from facegen.models.judge import AttributeJudge, perceptual_distance
from facegen.models.upscaler import ResidualUpscaler
from facegen.rng import torch_generator
from facegen.train.autoencoder import reconstruct
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

BETAS = (0.9, 0.99)
DISCRIMINATOR_BETAS = (0.5, 0.9)
WEIGHT_DECAY = 0.0
JUDGE_MULTIPLE = 16  # px: sides that the judge's features take
JUDGE_REDUCTION = 2  # at full size its features, of stride 2, let hatching through: it then covers teeth and glasses
ROUND_TRIPS = 64  # pictures a call of the autoencoder


@dataclass(frozen=True)
class UpscalerRecipe:
    """How an upscaler is trained; the meanings are in params.yaml."""

    seed: int
    total_images: int
    learning_rate: float
    warmup_images: int
    decay_fraction: float
    grad_clip: float
    ema_sigma_rel: float
    patch_px: int
    round_trip_share: float
    l1_weight: float
    perceptual_weight: float
    adversarial_weight: float
    adversarial_start: float


@dataclass(frozen=True)
class UpscalerBatch:
    """Crops of inputs and of their truths, and whether the discriminator takes part."""

    inputs: Tensor  # (B, 3, P, P) in [-1, 1]
    truths: Tensor  # (B, 3, sP, sP) in [-1, 1]
    adversarial: bool


def reduced(images: np.ndarray, scale: int, *, threads: int) -> np.ndarray:  # (N, H, W, 3) -> (N, H/s, W/s, 3)
    """Return pictures reduced by a whole factor with Lanczos' filter, which averages over what it drops.

    Args:
        images: uint8 (N, H, W, 3), H and W multiples of the scale.
        threads: how many pictures are reduced at once.

    Raises:
        ValueError: for another rank, dtype or size.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 3)")
    height, width = images.shape[1:3]
    if height % scale or width % scale:
        raise ValueError(f"pictures of {width}x{height} px do not reduce by {scale}: sides must be multiples of it")
    size = (width // scale, height // scale)
    out = np.empty((len(images), size[1], size[0], 3), dtype=np.uint8)

    def reduce(row: int) -> None:
        out[row] = np.asarray(Image.fromarray(images[row]).resize(size, Image.Resampling.LANCZOS))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(reduce, range(len(images))))
    return out


def round_trips(vae: Autoencoder, images: np.ndarray, *, dtype: torch.dtype) -> np.ndarray:
    """Return what the autoencoder makes of the pictures, uint8 like them.

    Args:
        vae: in evaluation mode, on the device where to compute.
        images: uint8 (N, H, W, 3), H and W multiples of the autoencoder's factor.
        dtype: of autocast.

    Raises:
        ValueError: for another size.
    """
    out = np.empty_like(images)
    for start in range(0, len(images), ROUND_TRIPS):
        part = slice(start, start + ROUND_TRIPS)
        unit = to_unit(images[part]).to(vae.device, memory_format=torch.channels_last)
        out[part] = to_uint8(reconstruct(vae, unit, dtype=dtype))
    return out


class PairSet:
    """Truths and their two inputs: clean, and after the autoencoder's round trip."""

    def __init__(self, truths: FaceSet, vae: Autoencoder, *, scale: int, dtype: torch.dtype) -> None:
        """
        Args:
            truths: the large pictures, on the device of `vae`.
            vae: gives the round trips.
            scale: s.
            dtype: of autocast.

        Raises:
            ValueError: if the truths do not reduce to a size that the autoencoder takes.
        """
        side, step = truths.faces.resolution, scale * factor(vae)
        if side % step:
            raise ValueError(f"truths of {side} px: upscaling by {scale} needs multiples of {step} px")
        self.truths, self.scale, self.side = truths, scale, side // scale
        shape = (2, len(truths), self.side, self.side, 3)
        inputs = np.empty(shape, dtype=np.uint8)  # clean, round trip
        for start in range(0, len(truths), ROUND_TRIPS):
            rows = np.arange(start, min(start + ROUND_TRIPS, len(truths)))
            pixels = truths.faces.images(rows, threads=truths.threads)
            inputs[0, rows] = reduced(pixels, scale, threads=truths.threads)
            inputs[1, rows] = round_trips(vae, inputs[0, rows], dtype=dtype)
        self.inputs = torch.from_numpy(inputs).to(truths.device)

    def crops(
        self, indices: Tensor, mirrored: Tensor, tripped: Tensor, corners: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Return crops of inputs (B, 3, size, size) and of truths, float32 in [-1, 1], channels last in memory.

        Args:
            indices: (B,) rows; mirrored: (B,) bool; tripped: (B,) bool, which are inputs after the round trip.
            corners: (B, 2) top and left of the crops in the inputs, px, counted after mirroring.
            size: P.
        """
        device, s = self.truths.device, self.scale
        pixels = self.inputs[tripped.long().to(device), indices.to(device)]  # (B, side, side, 3)
        pixels = torch.where(mirrored.to(device)[:, None, None, None], pixels.flip(2), pixels).permute(0, 3, 1, 2)
        truths = self.truths.images(indices, mirrored)
        places = corners.tolist()
        low = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(pixels, places, strict=True)]
        high = [t[:, s * y : s * (y + size), s * x : s * (x + size)] for t, (y, x) in zip(truths, places, strict=True)]
        inputs = torch.stack(low).float().div_(127.5).sub_(1.0)
        layout = {"memory_format": torch.channels_last}
        return inputs.contiguous(**layout), torch.stack(high).contiguous(**layout)


class Enlargement(nn.Module):
    """What is computed on a batch under autocast; the judge and the discriminator are called, never trained, here."""

    def __init__(
        self, upscaler: ResidualUpscaler, judge: AttributeJudge | None, discriminator: PatchDiscriminator | None
    ) -> None:
        super().__init__()
        self.upscaler = upscaler
        self.others = (judge, discriminator)  # a tuple: not submodules, so not trained or synchronised here

    def forward(self, inputs: Tensor, truths: Tensor, *, adversarial: bool) -> dict[str, Tensor]:
        """Return the enlargement and the terms of the loss, each a scalar: l1, perceptual, adversarial."""
        judge, discriminator = self.others
        made = self.upscaler(inputs)
        out = {"enlargement": made, "l1": (made - truths).abs().mean()}
        if judge is not None:
            with torch.no_grad():
                targets = judge.features(F.avg_pool2d(truths, JUDGE_REDUCTION))
            features = judge.features(F.avg_pool2d(made, JUDGE_REDUCTION))
            out["perceptual"] = perceptual_distance(features, targets)
        if adversarial and discriminator is not None:
            out["adversarial"] = adversarial_loss(discriminator(made).float())
        return out


class UpscalerLearner:
    """Enlargement of faces (a `facegen.train.loop.Learner`)."""

    def __init__(
        self,
        upscaler: ResidualUpscaler,
        data: PairSet,
        recipe: UpscalerRecipe,
        *,
        judge: AttributeJudge | None,
        discriminator: PatchDiscriminator | None,
    ) -> None:
        """
        Args:
            upscaler: what is trained, on the device of `data`.
            data: the pairs.
            recipe: the weights of the terms, and the schedule.
            judge: gives the perceptual features; None leaves the term out.
            discriminator: trained as the second phase; None leaves the term out.

        Raises:
            ValueError: if the scales differ, or the judge cannot look at crops of this size.
        """
        if upscaler.config.scale != data.scale:
            raise ValueError(f"the upscaler's scale is {upscaler.config.scale}, that of the pairs {data.scale}")
        self.upscaler, self.data, self.recipe, self.discriminator = upscaler, data, recipe, discriminator
        self.patch = min(recipe.patch_px, data.side)
        if judge is not None:
            judge.eval().requires_grad_(False)
            if self.patch * data.scale % (JUDGE_REDUCTION * JUDGE_MULTIPLE):
                raise ValueError(
                    f"crops of {self.patch} px enlarge to {self.patch * data.scale} px; the judge needs multiples of "
                    f"{JUDGE_REDUCTION * JUDGE_MULTIPLE} px"
                )
        self.models: dict[str, nn.Module] = {"upscaler": upscaler}
        self.phases = [self._phase("upscaler", Enlargement(upscaler, judge, discriminator), BETAS, self.loss)]
        if discriminator is not None:
            self.models["discriminator"] = discriminator
            self.phases.append(
                self._phase("discriminator", discriminator, DISCRIMINATOR_BETAS, self.discriminator_loss)
            )
        self.averages = PowerEMA(upscaler, sigma_rels=[recipe.ema_sigma_rel])
        self.ema: PowerEMA | None = self.averages
        self.flops_per_image = 0.0
        self.order = FaceOrder(size=len(data.truths), seed=recipe.seed, purpose="upscaler")
        self._made: Tensor | None = None  # of this step, for the second phase

    def _phase(self, name: str, module: nn.Module, betas: tuple[float, float], loss: object) -> Phase:
        r = self.recipe
        optimizer = adamw(module, learning_rate=r.learning_rate, betas=betas, weight_decay=WEIGHT_DECAY)
        return Phase(name, module, optimizer, r.grad_clip, loss)  # type: ignore[arg-type]

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=r.warmup_images,
            total_images=r.total_images,
            decay_fraction=r.decay_fraction,
        )

    def batch(self, images_seen: int, batch_size: int) -> UpscalerBatch:
        indices, mirrored = self.order.draw(images_seen, batch_size)
        generator = torch_generator(self.recipe.seed, "upscaler crops", images_seen)
        corners = torch.randint(self.data.side - self.patch + 1, (batch_size, 2), generator=generator)
        tripped = torch.rand(batch_size, generator=generator) < self.recipe.round_trip_share
        inputs, truths = self.data.crops(indices, mirrored, tripped, corners, self.patch)
        begun = images_seen >= self.recipe.adversarial_start * self.recipe.total_images
        return UpscalerBatch(inputs, truths, begun and self.discriminator is not None)

    def loss(self, module: nn.Module, batch: UpscalerBatch) -> tuple[Tensor, Logs]:
        r = self.recipe
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        out = module(batch.inputs, batch.truths, adversarial=batch.adversarial)
        made = out.pop("enlargement")
        self._made = made.detach()
        weights = {"l1": r.l1_weight, "perceptual": r.perceptual_weight, "adversarial": r.adversarial_weight}
        loss = torch.stack([weights[name] * value.float() for name, value in out.items()]).sum()
        mse = (self._made.clamp(-1, 1) - batch.truths).square().flatten(1).mean(dim=1)
        logs: Logs = {name: value.detach() for name, value in out.items()}
        return loss, {"loss": loss.detach(), "psnr_db": -10 * (mse / 4).clamp(min=1e-10).log10().mean(), **logs}

    def discriminator_loss(self, module: nn.Module, batch: UpscalerBatch) -> tuple[Tensor, Logs]:
        if not batch.adversarial:
            return torch.zeros((), device=batch.inputs.device), {}
        assert self.discriminator is not None and self._made is not None
        self.discriminator.requires_grad_(True)
        real, fake = module(torch.cat([batch.truths, self._made])).float().chunk(2)
        loss = hinge_loss(real, fake)
        return loss, {"discriminator_loss": loss.detach()}

    def released(self) -> ResidualUpscaler:
        """Return a copy of the upscaler with its averaged weights, in evaluation mode."""
        upscaler = copy.deepcopy(self.upscaler)
        upscaler.load_state_dict({**upscaler.state_dict(), **self.averages.state_dict(self.recipe.ema_sigma_rel)})
        return upscaler.eval().requires_grad_(False)
