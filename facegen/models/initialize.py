"""Drawing a network's first weights from a generator of ours, since diffusers draws them from global state."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution and linear layer anew, as torch does by default: uniform within 1 / sqrt(fan-in).

    Norms and embeddings are left as they are.

    Args:
        generator: on the device of the module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
