"""Training a DCGAN: in each step the discriminator learns, then the generator, by cross-entropy on "real" and "fake".

The pictures that G makes for D's phase are those that G is judged by in its own: made once, detached for D, and shown
to D again after D's update. Real and fake pictures pass through D apart, each batch with its own batch statistics.
There is no gradient clipping, no weight average and a constant learning rate. The pictures of a conditional G are asked
for with the real batch's attributes in another order, so that both have the same shares.

Shapes: B batch, H image side, Z noise, A attributes. Source: Radford et al. 2016; Goodfellow et al. 2014, algorithm 1
with one step of D, and the non-saturating loss of G.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facegen.models.dcgan import DCGANDiscriminator, DCGANGenerator, gan_loss
from facegen.rng import torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.faces import FaceOrder, FaceSet
from facegen.train.loop import Logs, Phase

BETA2 = 0.999
NO_CLIP = math.inf  # the norm is still taken, and checked to be finite


@dataclass(frozen=True)
class GanRecipe:
    """How a DCGAN is trained; the meanings are in params.yaml."""

    seed: int
    name: str
    learning_rate: float
    beta1: float


@dataclass(frozen=True)
class GanBatch:
    """Real pictures with their states, and what the fake ones are made from."""

    images: Tensor  # (B, 3, H, H) in [-1, 1]
    attributes: Tensor  # (B, A) int8; A is 0 for an unconditional network
    noise: Tensor  # (B, Z)
    asked: Tensor  # (B, A) int8: a permutation of `attributes`


class GanLearner:
    """A generator against a discriminator (a `facegen.train.loop.Learner`); one process only: D's phase calls G."""

    def __init__(
        self, generator: DCGANGenerator, discriminator: DCGANDiscriminator, data: FaceSet, recipe: GanRecipe
    ) -> None:
        """
        Args:
            generator, discriminator: what is trained, on the device of `data`; both with or both without attributes.
            data: the training pictures.
            recipe: rates and the seed.

        Raises:
            ValueError: if the networks do not fit each other or the data.
        """
        names = list(generator.config.attribute_names)
        if names != list(discriminator.config.attribute_names) or names not in ([], list(data.faces.attribute_names)):
            raise ValueError("generator, discriminator and data have different attributes")
        if not generator.config.resolution == discriminator.config.resolution == data.faces.resolution:
            raise ValueError("generator, discriminator and data have different resolutions")
        self.generator, self.discriminator, self.data, self.recipe = generator, discriminator, data, recipe
        self.models: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        self.phases = [
            self._phase("discriminator", discriminator, self.discriminator_loss),
            self._phase("generator", generator, self.generator_loss),
        ]
        self.ema: PowerEMA | None = None
        self.flops_per_image = 0.0
        self.purpose = f"gan {recipe.name}"
        self.order = FaceOrder(size=len(data), seed=recipe.seed, purpose=self.purpose)
        self.num_asked = len(names)
        self._fake: Tensor | None = None  # of this step, with its graph, for G's phase
        self._d_loss: Tensor | None = None
        generator.train()
        discriminator.train()

    def _phase(self, name: str, module: nn.Module, loss: Callable[[nn.Module, GanBatch], tuple[Tensor, Logs]]) -> Phase:
        betas = (self.recipe.beta1, BETA2)
        optimizer = torch.optim.Adam(module.parameters(), lr=self.recipe.learning_rate, betas=betas, fused=True)
        return Phase(name, module, optimizer, NO_CLIP, loss)

    def learning_rate(self, images_seen: int) -> float:
        return self.recipe.learning_rate

    def batch(self, images_seen: int, batch_size: int) -> GanBatch:
        indices, mirrored = self.order.draw(images_seen, batch_size)
        device, seed = self.data.device, self.recipe.seed
        generator = torch_generator(seed, f"{self.purpose} noise", images_seen, device=device)
        noise = torch.randn(batch_size, self.generator.config.noise_dim, generator=generator, device=device)
        states = self.data.attributes[indices, : self.num_asked]
        shuffled = torch.randperm(batch_size, generator=torch_generator(seed, f"{self.purpose} asked", images_seen))
        return GanBatch(self.data.images(indices, mirrored), states.to(device), noise, states[shuffled].to(device))

    def discriminator_loss(self, module: nn.Module, batch: GanBatch) -> tuple[Tensor, Logs]:
        self.discriminator.requires_grad_(True)
        self._fake = self.generator(batch.noise, batch.asked)
        real = module(batch.images, batch.attributes)
        fake = module(self._fake.detach(), batch.asked)
        loss = gan_loss(real, real=True) + gan_loss(fake, real=False)
        self._d_loss = loss.detach()
        return loss, {"d_loss": self._d_loss, "d_real": mean_sigmoid(real), "d_fake": mean_sigmoid(fake)}

    def generator_loss(self, module: nn.Module, batch: GanBatch) -> tuple[Tensor, Logs]:
        assert self._fake is not None and self._d_loss is not None
        self.discriminator.requires_grad_(False)  # its gradients are not wanted here
        loss = gan_loss(self.discriminator(self._fake, batch.asked), real=True)
        self._fake = None
        return loss, {"g_loss": loss.detach(), "loss": self._d_loss + loss.detach()}


def mean_sigmoid(logits: Tensor) -> Tensor:
    """Return the mean probability of being real that D gives."""
    return logits.detach().float().sigmoid().mean()
