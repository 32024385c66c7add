"""The upscaler: a smooth interpolation of the picture plus a learned residual, computed at the low resolution.

    images (B, 3, H, W) -> 3x3 convolution (B, w, H, W)
    -> num_blocks x [x + 0.2 (three dense blocks), each x + 0.2 (convolutions that see all maps before them)]
    -> 3x3 convolution, + the maps before the blocks -> leaky ReLU, 3x3 convolution (B, 3 s^2, H, W)
    -> pixel shuffle (B, 3, sH, sW), + the bicubic interpolation of the input

There is no normalisation, which would make a pixel depend on the whole picture: an output pixel is a function of the
input within `reach_px`, so that a large picture can be worked on in tiles. The last layer starts at zero: an untrained
network is the interpolation, and the pixel shuffle has no checkerboard that would have to be unlearned.

Shapes: B batch, H W input size, s scale, w width, g growth. Source: Wang et al., ESRGAN, section 3.1 (residual-in-
residual dense blocks without batch norm, residual scaling); Shi et al., Real-Time Single Image and Video Super-
Resolution Using an Efficient Sub-Pixel Convolutional Neural Network (the shuffle).
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.initialize import draw_weights
from facegen.models.loading import load_checked

RESIDUAL_SCALE = 0.2
SLOPE = 0.2
SCALE = 4  # of the one that the pipeline trains
DENSE_BLOCKS = 3  # in each block
INTERPOLATION_REACH = 2  # px of the input that a bicubic sample looks to either side


class DenseBlock(nn.Module):
    """x + 0.2 f(x): convolutions to g channels that each see x and all results before, then one back to w channels."""

    def __init__(self, width: int, growth: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(num_layers))
        self.fuse = nn.Conv2d(width + num_layers * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = x
        for layer in self.layers:
            maps = torch.cat([maps, F.leaky_relu(layer(maps), SLOPE)], dim=1)
        return x + RESIDUAL_SCALE * self.fuse(maps)


class ResidualDenseBlock(nn.Sequential):
    """x + 0.2 (dense blocks of x)."""

    def __init__(self, width: int, growth: int, num_layers: int) -> None:
        super().__init__(*(DenseBlock(width, growth, num_layers) for _ in range(DENSE_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * super().forward(x)


class ResidualUpscaler(ModelMixin, ConfigMixin):
    """Pictures of any size, enlarged; see the module's docstring.

    `resolution` is the side, px, of the pictures whose crops it learned from (its inputs), set by training.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        scale: int,
        width: int,
        growth: int,
        layers_per_block: int,
        num_blocks: int,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualDenseBlock(width, growth, layers_per_block) for _ in range(num_blocks)))
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    @property
    def reach_px(self) -> int:
        """How far to each side, in px of the input, an output pixel depends on it."""
        dense = DENSE_BLOCKS * (self.config.layers_per_block + 1)
        return max(3 + self.config.num_blocks * dense, INTERPOLATION_REACH)

    def forward(self, images: Tensor) -> Tensor:
        """Return enlarged images, float32 (B, 3, sH, sW) about [-1, 1] (not clamped).

        Args:
            images: (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: for another rank or channel count, or a picture without pixels.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, 3, H, W)")
        x = self.stem(images)
        maps = F.leaky_relu(x + self.join(self.blocks(x)), SLOPE)
        residual = F.pixel_shuffle(self.head(maps), self.config.scale)
        return interpolate(images, self.config.scale) + residual.float()


def interpolate(images: Tensor, scale: int) -> Tensor:
    """Return the bicubic interpolation (Catmull and Rom's, as Pillow's), float32 (B, 3, sH, sW), of (B, 3, H, W)."""
    with torch.autocast(images.device.type, enabled=False):
        return F.interpolate(images.float(), scale_factor=scale, mode="bicubic", antialias=True)


@torch.no_grad()
def draw_upscaler_weights(upscaler: ResidualUpscaler, generator: torch.Generator) -> None:
    """Draw the weights anew, all but the last layer's, which become 0: the network is then the interpolation.

    Args:
        generator: on the device of the network.
    """
    draw_weights(upscaler, generator)
    for values in upscaler.head.parameters():
        nn.init.zeros_(values)


def load_upscaler(folder: str | Path) -> ResidualUpscaler:
    """Return the upscaler of a model folder, float32, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: if the folder holds no model.
        DamagedArtifactError: if its weights are broken, incomplete or not finite.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; run the upscaler stage")
    upscaler: ResidualUpscaler = load_checked(ResidualUpscaler, folder)
    return upscaler.eval().requires_grad_(False)
