"""The second judge: a small ConvNeXt, which shares neither layers, nor normalisation, nor pooling with the first.

    images (B, 3, H, W) -> two 4x4 convolutions of stride 2 -> 2 blocks (B, w, H/4, W/4)
    -> 2 x [layer norm -> 2x2 convolution of stride 2 -> 2 blocks]: (B, 2w, H/8, W/8), (B, 4w, H/16, W/16)
    -> layer norm -> mean and maximum over the positions (B, 8w) -> logits (B, A)

A block looks 7 px far in each channel alone, then mixes channels position by position; nothing in the network sees
other pictures of the batch. Two overlapping convolutions replace the published 4x4 patches, which learn slower.
Shapes: B batch, H W image size, w width, A attributes, D = 8w. Source: Liu et al., A ConvNet for the 2020s, section
2.6 and figure 4; Xiao et al., Early Convolutions Help Transformers See Better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.judge import calibrated

WIDTHS = (1, 2, 4)  # channels of the three stages, in units of the width
DEPTH = 2  # blocks of a stage
KERNEL = 7
EXPANSION = 4  # of the channels inside a block


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, layer norm, inverted bottleneck with GELU; around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, EXPANSION * channels)
        self.reduce = nn.Linear(EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))  # (B, H, W, C)
        return x + self.reduce(F.gelu(self.expand(h))).permute(0, 3, 1, 2)


class ConvNextJudge(ModelMixin, ConfigMixin):
    """Attribute classifier; configured as `facegen.models.judge.AttributeJudge`."""

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
        channels = [width * factor for factor in WIDTHS]
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise((3, width // 2, width))
        )
        self.norms = nn.ModuleList(ChannelNorm(c) for c in (width, *channels))  # of the stem, before each halving, last
        self.halve = nn.ModuleList(nn.Conv2d(before, after, 2, stride=2) for before, after in pairwise(channels))
        self.stages = nn.ModuleList(nn.Sequential(*(ConvNextBlock(c) for _ in range(DEPTH))) for c in channels)
        self.head = nn.Linear(2 * channels[-1], len(attribute_names))

    @property
    def dim(self) -> int:
        """D of `embed`."""
        return self.head.in_features

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the four levels, fine to coarse: of the first convolution, and of the three stages.

        Args:
            images: (B, 3, H, W) in [-1, 1], H and W multiples of 16.

        Returns:
            (B, w/2, H/2, W/2), (B, w, H/4, W/4), (B, 2w, H/8, W/8) and (B, 4w, H/16, W/16).

        Raises:
            ValueError: for another rank, channel count or size.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 16 or images.shape[3] % 16:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W), H and W multiples of 16")
        first = F.gelu(self.stem[0](images))
        maps = [first, self.stages[0](self.norms[0](self.stem[1](first)))]
        for norm, halve, stage in zip(self.norms[1:-1], self.halve, self.stages[1:], strict=True):
            maps.append(stage(halve(norm(maps[-1]))))
        return maps

    def embed(self, images: Tensor) -> Tensor:
        """Return what the head sees, (B, D); arguments and errors as `features`."""
        x = self.norms[-1](self.features(images)[-1])
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, A) for images (B, 3, H, W) in [-1, 1]."""
        return self.head(self.embed(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities (B, A) of logits (B, A)."""
        return calibrated(logits, self.config.temperatures)
