"""From the face of a photograph to the condition of a frozen LatentDiT.

    c' = c + W MLP(LN(v))        v = the identity encoder's features of the face

W starts at zero, so a model with an untrained adapter is the model itself, bit by bit. c is that of the empty identity:
what the adapter says comes in its place, with the same null for guidance, and with masks for several people
(`facegen.models.person_condition`). Expression features are not told here: the attributes say it.
Source: the mapping network of Shiohara and Yamasaki, Face2Diffusion, brought to a condition by adaptive layer norm.
Shapes: S people, I identity features, D hidden size of the LatentDiT.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from facegen.models.initialize import draw_weights
from facegen.models.loading import load_checked
from facegen.models.person_condition import MappedIdentity
from facegen.personalize.mapping import TokenMlp


class DiTAdapter(ModelMixin, ConfigMixin):
    """The network of the module's docstring; see there."""

    @register_to_config
    def __init__(self, identity_dim: int, hidden_size: int, out_dim: int, dropout: float = 0.1) -> None:
        """
        Args:
            identity_dim: I.
            hidden_size: of its two hidden layers.
            out_dim: D.
            dropout: share of hidden values left out in training.
        """
        super().__init__()
        self.norm = nn.LayerNorm(identity_dim)
        self.mlp = TokenMlp(identity_dim, hidden_size, out_dim, dropout)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw the hidden layers; the last one is zero."""
        draw_weights(self, generator)
        nn.init.zeros_(self.mlp.fc_out.weight)
        nn.init.zeros_(self.mlp.fc_out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return what is added to the condition, (..., D), of features (..., I).

        Raises:
            ValueError: for features of another size.
        """
        if features.ndim < 2 or features.shape[-1] != self.config.identity_dim:
            raise ValueError(f"features have shape {tuple(features.shape)}; expected (S, {self.config.identity_dim})")
        return self.mlp(self.norm(features))

    @torch.no_grad()
    def identities(self, features: Tensor) -> MappedIdentity:
        """Return the identities that FacePipeline takes, of features (B, I), or (B, K, I) of K people in each picture."""
        return MappedIdentity(self(features.to(self.device, self.dtype)))


def load_adapter(folder: str | Path) -> DiTAdapter:
    """Return the adapter of a folder, on the CPU, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: if the folder holds none.
        DamagedArtifactError: if its weights are broken, incomplete or not finite.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no adapter; run the dit_mapper stage")
    adapter: DiTAdapter = load_checked(DiTAdapter, folder)
    return adapter.eval().requires_grad_(False)
