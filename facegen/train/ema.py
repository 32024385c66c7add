"""Power-function exponential moving averages of weights.

The averaging profile is t^gamma, so its width is a fixed share (sigma_rel) of training whatever its length.
Source: Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (EDM2), equations 121 to 127.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Return the exponent gamma whose profile has relative standard deviation `sigma_rel` (EDM2, equation 126).

    Args:
        sigma_rel: width as a share of training, in (0, 0.29).

    Raises:
        ValueError: if no exponent gives this width.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"sigma_rel is {sigma_rel}; it must lie between 0 and {12**-0.5:.3f}")
    t = sigma_rel**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


class PowerEMA:
    """Several power-function averages of one module's parameters, kept in float32 on its device."""

    def __init__(self, module: nn.Module, *, sigma_rels: Sequence[float]) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self.gammas = [sigma_rel_to_gamma(s) for s in self.sigma_rels]
        self._names = [name for name, _ in module.named_parameters()]
        self._live = [parameter for _, parameter in module.named_parameters()]
        self.averages = [[p.detach().clone() for p in self._live] for _ in self.sigma_rels]

    @torch.no_grad()
    def update(self, *, images_seen: int, num_images: int) -> None:
        """Move each average toward the weights: beta = (1 - num_images / images_seen)^(gamma + 1).

        Args:
            images_seen: images seen including this step.
            num_images: images since the last update.
        """
        for gamma, average in zip(self.gammas, self.averages, strict=True):
            beta = (1 - num_images / images_seen) ** (gamma + 1)
            torch._foreach_lerp_(average, [p.detach() for p in self._live], 1 - beta)

    def state_dict(self, sigma_rel: float) -> dict[str, Tensor]:
        """Return the averaged parameters of one width, by name."""
        return dict(zip(self._names, self.averages[self.sigma_rels.index(sigma_rel)], strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return all averages under names `<width>.<parameter>`, for a checkpoint."""
        return {f"{s}.{name}": value for s in self.sigma_rels for name, value in self.state_dict(s).items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy in what `tensors` returned."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])
