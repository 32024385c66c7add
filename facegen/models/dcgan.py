"""DCGAN, with and without attributes: the adversarial baselines.

    G: [noise, signs] (B, Z + A, 1, 1) -> transposed convolutions to 4, 8, ... H/2 px, each with batch norm and ReLU,
       halving the channels down to w -> transposed convolution to (B, 3, H, H), tanh
    D: [images, signs as constant maps] (B, 3 + A, H, H) -> convolutions of stride 2 to H/2 ... 4 px with batch norm
       (not on the first) and LeakyReLU(0.2), doubling the channels from w -> convolution to (B, 1, 1, 1): a logit

At 64 px each has the four blocks of the published network, channels 8w, 4w, 2w, w; 128 px takes one more, 32 px one
fewer. The sigmoid after D stands in the loss (`gan_loss`), where it is computed together with the logarithm: the same
function, without the logarithm of 0. All kernels are 4x4 without bias. No attributes: the plain DCGAN.

Shapes: B batch, H image side, w width, Z noise, A attributes. Source: Radford et al., Unsupervised Representation
Learning with Deep Convolutional Generative Adversarial Networks; Mirza and Osindero, Conditional Generative Adversarial
Nets (the condition beside both inputs). Projecting it on D's last maps instead (Miyato and Koyama) was tried: at equal
training time the generator then obeyed it far less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.attributes import UNKNOWN

KERNEL = 4
SMALLEST = 4  # px, of the coarsest maps
MIN_RESOLUTION = 16
SLOPE = 0.2
STD = 0.02


def level_widths(resolution: int, width: int) -> list[int]:
    """Return the channels of the levels from H/2 px down to 4 px: w, 2w, 4w, ...

    Raises:
        ValueError: if the resolution is not a power of two from 16 on.
    """
    if resolution < MIN_RESOLUTION or resolution & (resolution - 1):
        raise ValueError(f"a DCGAN of {resolution} px: the side must be a power of two from {MIN_RESOLUTION} on")
    return [width << level for level in range((resolution // SMALLEST).bit_length() - 1)]


def signs(attributes: Tensor) -> Tensor:
    """Return the condition, float32 (B, A): 1 for present, -1 for absent, and 0 between them for unknown."""
    return torch.where(attributes == UNKNOWN, 0, 2 * attributes - 1).float()


class DCGANGenerator(ModelMixin, ConfigMixin):
    """Pictures from noise and attribute states; see the module's docstring for the shapes."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(self, resolution: int, width: int, noise_dim: int, attribute_names: Sequence[str]) -> None:
        super().__init__()
        channels = level_widths(resolution, width)[::-1]
        self.layers = nn.ModuleList(
            [nn.ConvTranspose2d(noise_dim + len(attribute_names), channels[0], KERNEL, bias=False)]
        )
        self.layers.extend(
            nn.ConvTranspose2d(before, after, KERNEL, stride=2, padding=1, bias=False)
            for before, after in pairwise([*channels, 3])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)

    def forward(self, noise: Tensor, attributes: Tensor) -> Tensor:
        """Return images (B, 3, H, H) in [-1, 1].

        Args:
            noise: (B, Z), standard normal.
            attributes: (B, A) integers: -1 unknown, 0 absent, 1 present; A is 0 for the unconditional network.

        Raises:
            ValueError: if a shape does not fit the model.
        """
        check_condition(attributes, len(noise), self.config.attribute_names)
        if noise.ndim != 2 or noise.shape[1] != self.config.noise_dim:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected (B, {self.config.noise_dim})")
        x = torch.cat([noise, signs(attributes)], dim=1)[:, :, None, None]  # (B, Z + A, 1, 1)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return torch.tanh(self.layers[-1](x))


class DCGANDiscriminator(ModelMixin, ConfigMixin):
    """A logit for each picture, given its attribute states; above 0 says real."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(self, resolution: int, width: int, attribute_names: Sequence[str]) -> None:
        super().__init__()
        channels = level_widths(resolution, width)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL, stride=2, padding=1, bias=False)
            for before, after in pairwise([3 + len(attribute_names), *channels])
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])  # not after the first layer
        self.head = nn.Conv2d(channels[-1], 1, KERNEL, bias=False)

    def forward(self, images: Tensor, attributes: Tensor) -> Tensor:
        """Return logits (B,).

        Args:
            images: (B, 3, H, H) in [-1, 1].
            attributes: (B, A) as for the generator.

        Raises:
            ValueError: if a shape does not fit the model.
        """
        side = self.config.resolution
        check_condition(attributes, len(images), self.config.attribute_names)
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, {side}, {side})")
        maps = signs(attributes)[:, :, None, None].expand(-1, -1, side, side)
        h = F.leaky_relu(self.layers[0](torch.cat([images, maps], dim=1)), SLOPE)
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            h = F.leaky_relu(norm(layer(h)), SLOPE)
        return self.head(h).flatten()


def check_condition(attributes: Tensor, num: int, names: Sequence[str]) -> None:
    """Raise ValueError unless the states are (num, A) for these A names."""
    if tuple(attributes.shape) != (num, len(names)):
        raise ValueError(
            f"attributes has shape {tuple(attributes.shape)}; expected {(num, len(names))} ({', '.join(names)})"
        )


@torch.no_grad()
def draw_dcgan_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew: kernels N(0, 0.02), batch norm gains N(1, 0.02), its biases 0.

    Args:
        generator: on the device of the module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=STD, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, mean=1.0, std=STD, generator=generator)
            nn.init.zeros_(layer.bias)


def gan_loss(logits: Tensor, *, real: bool) -> Tensor:
    """Return the mean cross-entropy of sigmoid(logits) with the label 1 (real) or 0.

    The generator's loss is that of its pictures with the label 1: the non-saturating one (Goodfellow et al., 3).
    """
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real), dtype=torch.float32))
