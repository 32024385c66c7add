"""A small patch discriminator: is each patch of a picture a photograph's or a reconstruction's?

    images (B, 3, H, W) -> 3 strided convolutions -> scores (B, 1, H/8, W/8), each from a patch of 38 px

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, section 3.2.2; hinge losses of Lim and
Ye, Geometric GAN. Spectral normalisation (Miyato et al.) takes the place of normalised activations.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Scores of patches; above 0 says real."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in zip(channels, channels[1:], strict=False)
        )
        self.head = spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
        return self.head(h)


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return the discriminator's loss; 0 once it is right by a margin of 1 everywhere, 2 at chance."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """Return the generator's loss: it falls as the discriminator takes its pictures for real."""
    return -fake_scores.mean()
