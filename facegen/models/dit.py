"""LatentDiT: a diffusion transformer over VAE latents, steered by three-state attributes and by identity.

    latents (B, C, H, W) -> patches (B, N, D) + positions
    c = MLP(Timesteps(t)) + attribute embedding (+ identity projection)
    depth x [ LN -> (gamma1, beta1) -> self-attention -> x gate1 -> + ; LN -> (gamma2, beta2) -> MLP -> x gate2 -> + ]
    LN -> (gamma, beta) -> linear -> unpatchify -> v (B, C, H, W)

Shapes: B batch, C latent channels, H W latent size, p patch size, N = (H/p)(W/p) tokens, D hidden size, L depth,
A attributes, E identity embedding. Source: Peebles and Xie, Scalable Diffusion Models with Transformers (adaLN-Zero), with
the modulation of all blocks from one matrix product, since c is the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.attributes import ABSENT, PRESENT, UNKNOWN

FREQUENCIES = 256  # sinusoids of the timestep embedding
TIME_SCALE = 1000.0  # t in [0, 1] is embedded on the scale of the usual thousand steps


def timestep_embedding(t: Tensor, *, dim: int, max_period: float = 10000.0) -> Tensor:
    """Return sinusoids of t, float32 (B, dim): cosines, then sines (Vaswani et al.; t on the scale of 0 to 1000)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = TIME_SCALE * t.float()[:, None] * frequencies  # (B, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, dim)


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Return fixed 2-D positions, float32 (grid * grid, dim): half the channels for the row, half for the column."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # (D/4,)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * omega  # (grid, D/4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, D/2)
    rows = axis[:, None, :].expand(grid, grid, -1)
    columns = axis[None, :, :].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=2).reshape(grid * grid, dim).float()  # (N, D)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x (B, N, D) scaled by 1 + scale and shifted, both (B, D)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])  # (B, N, D)


class AttributeEmbedder(nn.Module):
    """A learned vector for each state (unknown, absent, present) of each attribute, summed."""

    offsets: Tensor

    def __init__(self, num_attributes: int, hidden_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(3 * num_attributes, hidden_size)
        self.register_buffer("offsets", 3 * torch.arange(num_attributes) - UNKNOWN, persistent=False)

    def forward(self, attributes: Tensor) -> Tensor:
        return self.table(attributes.long() + self.offsets).sum(dim=1)  # (B, A) -> (B, D)


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, D/heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, D))  # (B, N, D)


class DiTBlock(nn.Module):
    """Attention and MLP, each normalised, modulated by the condition and gated (adaLN-Zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        width = int(hidden_size * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU("tanh"), nn.Linear(width, hidden_size))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        gamma1, beta1, gate1, gamma2, beta2, gate2 = modulation.unbind(dim=1)  # (B, 6, D) -> each (B, D)
        x = torch.addcmul(x, gate1[:, None], self.attn(modulate(self.norm1(x), gamma1, beta1)))  # (B, N, D)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulate(self.norm2(x), gamma2, beta2)))  # (B, N, D)


class LatentDiT(ModelMixin, ConfigMixin):
    """The velocity network v(x_t, t, attributes, identity); see the module's docstring for the shapes."""

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int,                                       # H = W, in latent pixels
        in_channels: int,                                       # C
        patch_size: int,                                        # p
        hidden_size: int,                                       # D
        depth: int,                                             # L, number of blocks
        num_heads: int,
        mlp_ratio: float,
        attribute_names: Sequence[str],                         # A names, in the order of the condition vector
        identity_dim: int | None = None,                        # E; None: no identity condition
        latent_mean: Sequence[float] | None = None,             # per channel, of the latents it was trained on
        latent_std: Sequence[float] | None = None,
        path: str = "linear",                                   # flow path it was trained with: linear or cosine
    ) -> None:  # fmt: skip
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"sample_size {sample_size} is not a multiple of patch_size {patch_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"hidden_size {hidden_size} must be a multiple of 4 and of num_heads {num_heads}")
        self.grid = sample_size // patch_size
        self.x_embedder = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.register_buffer("positions", sincos_positions(self.grid, hidden_size), persistent=False)
        self.t_embedder = nn.Sequential(
            nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.y_embedder = AttributeEmbedder(len(attribute_names), hidden_size)
        if identity_dim is not None:
            self.identity_embedder = nn.Linear(identity_dim, hidden_size)
            self.identity_null = nn.Parameter(torch.zeros(hidden_size))
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, (6 * depth + 2) * hidden_size))
        self.final_norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.final_linear = nn.Linear(hidden_size, patch_size * patch_size * in_channels)

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator) -> None:
        """Draw all weights anew: Xavier uniform for matrices, N(0, 0.02) for embeddings, zero modulation and output.

        The identity condition starts at zero and takes no draw: such a model begins as the one without it does.
        """
        identity = getattr(self, "identity_embedder", None)
        for module in self.modules():
            if module is identity:
                continue
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
        for layer in self.t_embedder:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
        zero = [*self.adaLN_modulation.parameters(), *self.final_linear.parameters()]
        if identity is not None:
            zero += [*identity.parameters(), self.identity_null]
        for parameter in zero:
            nn.init.zeros_(parameter)

    def condition(
        self, timestep: Tensor, attributes: Tensor, identity: Tensor | None, identity_known: Tensor | None
    ) -> Tensor:
        """Return c (B, D) from t (B,), attributes (B, A) and, where the model has one, identity (B, E).

        A row without identity (None, or `identity_known` false) takes the learned empty identity.
        """
        c = self.t_embedder(timestep_embedding(timestep, dim=FREQUENCIES).to(self.final_linear.weight.dtype))
        c = c + self.y_embedder(attributes)  # (B, D)
        if self.config.identity_dim is None:
            return c
        if identity is None:
            return c + self.identity_null
        scale = self.config.identity_dim**0.5  # a unit vector's entries are small: without it this layer learns slowly
        projected = self.identity_embedder(scale * identity)  # (B, D)
        if identity_known is not None:
            projected = torch.where(identity_known[:, None], projected, self.identity_null.to(projected.dtype))
        return c + projected

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        attributes: Tensor,
        identity: Tensor | None = None,
        identity_known: Tensor | None = None,
        return_dict: bool = True,  # noqa: FBT001 (as in every diffusers model)
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity.

        Args:
            hidden_states: x_t, (B, C, H, W), in units of the normalised latents.
            timestep: t, (B,) in [0, 1]; 1 is noise.
            attributes: (B, A) integers: -1 unknown, 0 absent, 1 present.
            identity: (B, E) unit vectors, or None for the learned empty identity.
            identity_known: (B,) bool; False rows take the empty identity.

        Returns:
            Transformer2DModelOutput with `sample` = v, (B, C, H, W); a tuple if `return_dict` is False.

        Raises:
            ValueError: if a shape does not fit the model, or an identity is given to a model without one.
        """
        self._check(hidden_states, timestep, attributes, identity)
        B = hidden_states.shape[0]
        D, L = self.config.hidden_size, self.config.depth
        c = self.condition(timestep, attributes, identity, identity_known)  # (B, D)
        modulation = self.adaLN_modulation(c).view(B, 6 * L + 2, D)  # one product for all blocks
        x = self.x_embedder(hidden_states).flatten(2).transpose(1, 2) + self.positions  # (B, N, D)
        for index, block in enumerate(self.blocks):
            x = block(x, modulation[:, 6 * index : 6 * index + 6])  # (B, N, D)
        x = self.final_linear(modulate(self.final_norm(x), modulation[:, -2], modulation[:, -1]))  # (B, N, p*p*C)
        v = self.unpatchify(x)  # (B, C, H, W)
        return Transformer2DModelOutput(sample=v) if return_dict else (v,)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Return latents (B, C, H, W) of token outputs (B, N, p*p*C)."""
        B, g, p, C = x.shape[0], self.grid, self.config.patch_size, self.config.in_channels
        return x.view(B, g, g, p, p, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, g * p, g * p)

    def _check(self, x: Tensor, t: Tensor, attributes: Tensor, identity: Tensor | None) -> None:
        c = self.config
        wanted = (x.shape[0], c.in_channels, c.sample_size, c.sample_size)
        if tuple(x.shape) != wanted:
            raise ValueError(f"hidden_states has shape {tuple(x.shape)}; this model takes {wanted}")
        if tuple(t.shape) != (x.shape[0],):
            raise ValueError(f"timestep has shape {tuple(t.shape)}; expected {(x.shape[0],)}")
        if tuple(attributes.shape) != (x.shape[0], len(c.attribute_names)):
            raise ValueError(
                f"attributes has shape {tuple(attributes.shape)}; expected {(x.shape[0], len(c.attribute_names))} "
                f"({', '.join(c.attribute_names)})"
            )
        if identity is not None and c.identity_dim is None:
            raise ValueError("this model has no identity condition (identity_dim is null); pass identity=None")
        if identity is not None and tuple(identity.shape) != (x.shape[0], c.identity_dim):
            raise ValueError(f"identity has shape {tuple(identity.shape)}; expected {(x.shape[0], c.identity_dim)}")


def check_states(attributes: Tensor) -> None:
    """Raise ValueError if a state is not -1, 0 or 1 (a look at the values; not for inner loops on a GPU)."""
    wrong = attributes[(attributes < UNKNOWN) | (attributes > PRESENT)]
    if wrong.numel():
        raise ValueError(
            f"attribute states hold {int(wrong[0])}; allowed: {UNKNOWN} (unknown), {ABSENT} (absent), {PRESENT} (present)"
        )


def forward_flops(*, num_tokens: int, hidden_size: int, depth: int, mlp_ratio: float, patch_dim: int) -> float:
    """Return the multiply-adds of one image's forward pass, as FLOPs (two each): linears, attention, modulation.

    Args:
        patch_dim: p * p * C, the values of one patch.
    """
    D, N = hidden_size, num_tokens
    block = N * (4 + 2 * mlp_ratio) * D * D + 2 * N * N * D + 6 * D * D
    return 2.0 * (depth * block + 2 * N * patch_dim * D + 2 * D * D + (FREQUENCIES + D) * D)


def training_flops(model: LatentDiT) -> float:
    """Return the FLOPs of one training image: three times the forward pass."""
    c = model.config
    return 3 * forward_flops(
        num_tokens=model.grid**2,
        hidden_size=c.hidden_size,
        depth=c.depth,
        mlp_ratio=c.mlp_ratio,
        patch_dim=c.patch_size**2 * c.in_channels,
    )
