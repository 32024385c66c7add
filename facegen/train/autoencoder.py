"""Training an autoencoder: L1 + MSE + perceptual distance + KL, and after a share of training a patch discriminator.

The perceptual distance compares features of a frozen judge (`facegen.models.judge`), trained from the same data. With a
frozen encoder (`finetune-decoder`) only the decoder learns, and cached latents stay valid.

Shapes: B batch, H W image size, C h w latents, N images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facegen.models.autoencoder import Autoencoder, decode, encode_moments, factor, kl_divergence
from facegen.models.discriminator import PatchDiscriminator, adversarial_loss, hinge_loss
from facegen.models.judge import AttributeJudge, perceptual_distance
from facegen.rng import torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay

BETAS = (0.9, 0.95)
DISCRIMINATOR_BETAS = (0.5, 0.9)
WEIGHT_DECAY = 0.01
MODES = ("train", "finetune-decoder")


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How an autoencoder is trained; the meanings are in params.yaml."""

    seed: int
    mode: str
    total_images: int
    learning_rate: float
    warmup_images: int
    decay_fraction: float
    grad_clip: float
    ema_sigma_rel: float
    l1_weight: float
    mse_weight: float
    perceptual_weight: float
    kl_weight: float
    adversarial_weight: float
    adversarial_start: float


@dataclass(frozen=True)
class FaceBatch:
    """Pictures, the noise of their posterior samples, and where in training they stand."""

    images: Tensor  # (B, 3, H, W) in [-1, 1]
    noise: Tensor  # (B, C, h, w)
    adversarial: bool  # whether the discriminator takes part


class Reconstruction(nn.Module):
    """What is computed on a batch under autocast; the judge and the discriminator are called, never trained, here."""

    def __init__(
        self, vae: Autoencoder, judge: AttributeJudge | None, discriminator: PatchDiscriminator | None, *, frozen: bool
    ) -> None:
        super().__init__()
        self.vae, self.frozen = vae, frozen
        self.others = (judge, discriminator)  # a tuple: not submodules, so not trained or synchronised here

    def forward(self, images: Tensor, noise: Tensor, *, adversarial: bool) -> dict[str, Tensor]:
        """Return the reconstruction and the terms of the loss, each a scalar: l1, mse, kl, perceptual, adversarial."""
        judge, discriminator = self.others
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            mean, logvar = encode_moments(self.vae, images)
        fake = decode(self.vae, torch.addcmul(mean, (0.5 * logvar).exp(), noise))
        out = {
            "reconstruction": fake,
            "l1": (fake - images).abs().mean(),
            "mse": (fake - images).square().mean(),
            "kl": kl_divergence(mean, logvar).mean() / mean[0].numel(),
        }
        if judge is not None:
            with torch.no_grad():
                targets = judge.features(images)
            out["perceptual"] = perceptual_distance(judge.features(fake), targets)
        if adversarial and discriminator is not None:
            out["adversarial"] = adversarial_loss(discriminator(fake).float())
        return out


class AutoencoderLearner:
    """Reconstruction of faces (a `facegen.train.loop.Learner`)."""

    def __init__(
        self,
        vae: Autoencoder,
        data: FaceSet,
        recipe: AutoencoderRecipe,
        *,
        judge: AttributeJudge | None,
        discriminator: PatchDiscriminator | None,
    ) -> None:
        """
        Args:
            vae: what is trained, on the device of `data`.
            data: the training pictures.
            recipe: the weights of the terms, and the schedule.
            judge: gives the perceptual features; None leaves the term out.
            discriminator: trained as the second phase; None leaves the term out.

        Raises:
            ValueError: for an unknown mode.
        """
        if recipe.mode not in MODES:
            raise ValueError(f"autoencoder mode is {recipe.mode!r}; trained ones: {', '.join(MODES)}")
        self.vae, self.data, self.recipe, self.discriminator = vae, data, recipe, discriminator
        self.models: dict[str, nn.Module] = {"vae": vae}
        frozen = recipe.mode == "finetune-decoder"
        for parameter in encoder_parameters(vae):
            parameter.requires_grad_(not frozen)
        if judge is not None:
            judge.eval().requires_grad_(False)
        module = Reconstruction(vae, judge, discriminator, frozen=frozen)
        self.phases = [self._phase("autoencoder", module, BETAS, self.loss)]
        if discriminator is not None:
            self.models["discriminator"] = discriminator
            self.phases.append(
                self._phase("discriminator", discriminator, DISCRIMINATOR_BETAS, self.discriminator_loss)
            )
        self.averages = PowerEMA(vae, sigma_rels=[recipe.ema_sigma_rel])
        self.ema: PowerEMA | None = self.averages
        self.flops_per_image = 0.0
        self.order = FaceOrder(size=len(data), seed=recipe.seed, purpose="autoencoder")
        side = data.faces.resolution // factor(vae)
        self.latent_shape = (vae.config.latent_channels, side, side)
        self._fake: Tensor | None = None  # of this step, for the second phase

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

    def batch(self, images_seen: int, batch_size: int) -> FaceBatch:
        indices, mirrored = self.order.draw(images_seen, batch_size)
        generator = torch_generator(self.recipe.seed, "autoencoder noise", images_seen, device=self.data.device)
        noise = torch.randn((batch_size, *self.latent_shape), generator=generator, device=self.data.device)
        begun = images_seen >= self.recipe.adversarial_start * self.recipe.total_images
        return FaceBatch(self.data.images(indices, mirrored), noise, begun and self.discriminator is not None)

    def loss(self, module: nn.Module, batch: FaceBatch) -> tuple[Tensor, Logs]:
        r = self.recipe
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        out = module(batch.images, batch.noise, adversarial=batch.adversarial)
        fake = out.pop("reconstruction")
        self._fake = fake.detach()
        weights = {
            "l1": r.l1_weight,
            "mse": r.mse_weight,
            "perceptual": r.perceptual_weight,
            "kl": r.kl_weight,
            "adversarial": r.adversarial_weight,
        }
        loss = torch.stack([weights[name] * value.float() for name, value in out.items()]).sum()
        mse = (self._fake.clamp(-1, 1) - batch.images).square().flatten(1).mean(dim=1)
        logs: Logs = {name: value.detach() for name, value in out.items()}
        return loss, {"loss": loss.detach(), "psnr_db": -10 * (mse / 4).clamp(min=1e-10).log10().mean(), **logs}

    def discriminator_loss(self, module: nn.Module, batch: FaceBatch) -> tuple[Tensor, Logs]:
        if not batch.adversarial:
            return torch.zeros((), device=batch.images.device), {}
        assert self.discriminator is not None and self._fake is not None
        self.discriminator.requires_grad_(True)
        real, fake = module(torch.cat([batch.images, self._fake])).float().chunk(2)
        loss = hinge_loss(real, fake)
        return loss, {"discriminator_loss": loss.detach()}

    def released(self) -> Autoencoder:
        """Return a copy of the autoencoder with its averaged weights, in evaluation mode."""
        vae = copy.deepcopy(self.vae)
        vae.load_state_dict({**vae.state_dict(), **self.averages.state_dict(self.recipe.ema_sigma_rel)})
        return vae.eval().requires_grad_(False)


def encoder_parameters(vae: Autoencoder) -> Iterator[nn.Parameter]:
    """Yield the parameters that latents depend on."""
    yield from vae.encoder.parameters()
    quant_conv = getattr(vae, "quant_conv", None)  # AutoencoderKL's last layer before the posterior
    if quant_conv is not None:
        yield from quant_conv.parameters()


@torch.no_grad()
def reconstruct(vae: Autoencoder, images: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return the reconstructions from the posterior means, float32 (B, 3, H, W) clamped to [-1, 1]."""
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        return decode(vae, encode_moments(vae, images)[0]).clamp(-1, 1)
