"""A small patch discriminator: is each patch of a picture a photograph's or a reconstruction's?

    images (B, 3, H, W) -> 3 strided convolutions -> scores (B, 1, H/8, W/8), each from a patch of 38 px

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, section 3.2.2; hinge losses of
Lim and Ye, Geometric GAN.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """Scores of patches; above 0 says real."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, after) for after in channels[2:])  # not after the first layer
        self.head = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = F.leaky_relu(self.layers[0](images), 0.2)
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            h = F.leaky_relu(norm(layer(h)), 0.2)
        return self.head(h)


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return the discriminator's loss; 0 once it is right by a margin of 1 everywhere, 2 at chance."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """Return the generator's loss: it falls as the discriminator takes its pictures for real."""
    return -fake_scores.mean()
