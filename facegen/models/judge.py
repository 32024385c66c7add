"""The judge: a compact attribute classifier whose features also serve as a perceptual space trained from the data.

    images (B, 3, H, W) -> 4x4 convolution of stride 2 -> residual block (B, w, H/2, W/2)
    -> 3 x [average pool 2 -> residual block]: (B, 2w, H/4, W/4), (B, 4w, H/8, W/8), (B, 4w, H/16, W/16)
    -> global average -> logits (B, A)

Nothing is computed at full resolution, which would cost as much as all the rest. Each pixel lies under equally many
taps (kernel 4, stride 2; then averages), so that gradients through the features show no checkerboard.
Shapes: B batch, H W image size, w width, A attributes, D = 4w. Source of the perceptual distance: Zhang et al., The
Unreasonable Effectiveness of Deep Features as a Perceptual Metric (LPIPS), equation 1, with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (1, 2, 4, 4)  # channels of the four levels, in units of the width
_EPSILON = 1e-6


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(h)))


class AttributeJudge(ModelMixin, ConfigMixin):
    """Attribute classifier.

    `temperatures` divide the logits, one an attribute; `thresholds` are the probabilities, after that division, from
    which an attribute counts as present; `resolution` is the side, px, of the pictures learned from. All three are set
    after training.
    """

    @register_to_config
    def __init__(
        self,
        attribute_names: Sequence[str],
        width: int,
        thresholds: Sequence[float] | None = None,
        temperatures: Sequence[float] | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=2, padding=1)
        channels = [width, *(width * factor for factor in WIDTHS)]
        self.blocks = nn.ModuleList(ResidualBlock(before, after) for before, after in pairwise(channels))
        self.head = nn.Linear(channels[-1], len(attribute_names))

    @property
    def dim(self) -> int:
        """D of `embed`."""
        return self.head.in_features

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the four levels, fine to coarse.

        Args:
            images: (B, 3, H, W) in [-1, 1], H and W multiples of 16.

        Raises:
            ValueError: for another rank, channel count or size.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 16 or images.shape[3] % 16:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W), H and W multiples of 16")
        maps = [self.blocks[0](F.relu(self.stem(images)))]
        for block in self.blocks[1:]:
            maps.append(block(F.avg_pool2d(maps[-1], 2)))
        return maps

    def embed(self, images: Tensor) -> Tensor:
        """Return what the head sees, (B, D), D = 4w; arguments and errors as `features`."""
        return self.features(images)[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, A) for images (B, 3, H, W) in [-1, 1]."""
        return self.head(self.embed(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities (B, A) of logits (B, A)."""
        return calibrated(logits, self.config.temperatures)


def calibrated(logits: Tensor, temperatures: Sequence[float] | None) -> Tensor:
    """Return sigmoid(logit / temperature), column by column; no temperatures are temperatures of 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, section 4.2, for two classes.
    """
    if temperatures is None:
        return logits.sigmoid()
    return (logits / torch.tensor(list(temperatures), dtype=logits.dtype, device=logits.device)).sigmoid()


def perceptual_distance(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean squared distance of unit-normalised features, averaged over levels: a scalar, 0 for equal images.

    Each position's feature vector is scaled to unit length, so that no level outweighs another (LPIPS, equation 1).

    Args:
        features, targets: maps (B, C_l, H_l, W_l) of the same images' versions, level by level.
    """
    total = torch.zeros((), device=features[0].device)
    for x, y in zip(features, targets, strict=True):
        difference = _unit(x.float()) - _unit(y.float())
        total = total + difference.square().sum(dim=1).mean()
    return total / len(features)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + _EPSILON)
