"""LatentDiT: a diffusion transformer over VAE latents, steered by three-state attributes and by identity.

    latents (B, C, H, W) (+ context (B, K, H, W)) -> patches (B, N, D) + positions
    c = MLP(Timesteps(t)) + attribute embedding (+ identity projection) (+ crop projection)     (B, D); (B, N, D) with masks
    depth x [ LN -> (gamma1, beta1) -> self-attention -> x gate1 -> + ; LN -> (gamma2, beta2) -> MLP -> x gate2 -> + ]
    LN -> (gamma, beta) -> linear -> unpatchify -> v (B, C, H, W)

Shapes: B batch, C latent channels, H W latent size, p patch size, N = (H/p)(W/p) tokens, D hidden size, L depth,
A attributes, E identity embedding, K context channels. Source: Peebles and Xie, Scalable Diffusion Models with
Transformers (adaLN-Zero), with the modulation of all blocks from one matrix product, since c is the same for all of them.

An inpainting model (`inpainting_model`) sees a context beside x_t: which latents of a photograph are kept (K = 1 + C: the
mask of what is kept, and the kept latents), and which part of the face it is shown: the tokens of a part stand between
those of the whole face. No context, all zeros, is the generator that it was made from. Source: Rombach et al., Latent
Diffusion, section 4.5 (concatenated mask and picture).

Where several people have a mask each, every token has a condition of its own (`person_condition`), and so a modulation:
the same parameters, broadcast over tokens instead of over the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from facegen.attributes import ABSENT, PRESENT, UNKNOWN
from facegen.models.person_condition import check_people, placed, rows_like, token_shares, without
from facegen.models.positions import crop_positions, sincos_positions, timestep_embedding
from facegen.models.sharing import Sharing, received_attention, shared_attention, tempered

FREQUENCIES = 256  # sinusoids of the timestep embedding
WHOLE_FACE = (0.5, 0.5, 1.0)  # centre x, centre y, side: the crop that shows all


@dataclass
class LatentDiTOutput(BaseOutput):
    """What the network predicts, and what it was asked to tell beside it."""

    sample: Tensor  # v, (B, C, H, W)
    received: Tensor | None = None  # (M, B, N) attention that each token receives, in the blocks of `Sharing.mapped`


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x (B, N, D) scaled by 1 + scale and shifted, both (B, D) or (B, N, D)."""
    return torch.addcmul(over_tokens(shift), x, 1 + over_tokens(scale))  # (B, N, D)


def over_tokens(vectors: Tensor) -> Tensor:
    """Return (B, 1, D) of one vector a picture, (B, D); vectors of each token, (B, N, D), as they are."""
    return vectors[:, None] if vectors.ndim == 2 else vectors


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

    def forward(
        self, x: Tensor, source: Tensor | None = None, share: float = 0.0, *, mapped: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, N, D) and, if `mapped`, the attention (B, N) that each receives; see `sharing`."""
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, N, D/heads)
        x = shared_attention(q, k, v, source=source, share=share)
        x = self.proj(x.transpose(1, 2).flatten(2))  # (B, N, D)
        return x, received_attention(q, k) if mapped else None


class DiTBlock(nn.Module):
    """Attention and MLP, each normalised, modulated by the condition and gated (adaLN-Zero)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        width = int(hidden_size * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU("tanh"), nn.Linear(width, hidden_size))

    def forward(
        self, x: Tensor, modulation: Tensor, source: Tensor | None = None, share: float = 0.0, *, mapped: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens (B, N, D) and, if `mapped`, the attention (B, N) that each receives.

        Args:
            modulation: (B, 6, D), or (B, 6, N, D) where each token has its own.
        """
        gamma1, beta1, gate1, gamma2, beta2, gate2 = modulation.unbind(dim=1)  # each (B, D) or (B, N, D)
        seen, received = self.attn(modulate(self.norm1(x), gamma1, beta1), source, share, mapped=mapped)
        x = torch.addcmul(x, over_tokens(gate1), seen)
        return torch.addcmul(x, over_tokens(gate2), self.mlp(modulate(self.norm2(x), gamma2, beta2))), received


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
        context_channels: int | None = None,                    # K; None: a generator
        mean_landmarks: Sequence[Sequence[float]] | None = None,  # of an inpainting model: 5 x (x, y), shares of the side
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
        if context_channels is not None:
            self.context_embedder = nn.Conv2d(
                context_channels, hidden_size, kernel_size=patch_size, stride=patch_size, bias=False
            )
            self.crop_embedder = nn.Linear(len(WHOLE_FACE), hidden_size, bias=False)
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, (6 * depth + 2) * hidden_size))
        self.final_norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.final_linear = nn.Linear(hidden_size, patch_size * patch_size * in_channels)

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator) -> None:
        """Draw all weights anew: Xavier uniform for matrices, N(0, 0.02) for embeddings, zero modulation and output.

        Identity, context and crop start at zero and take no draw: such a model begins as the one without them does.
        """
        identity = getattr(self, "identity_embedder", None)
        extra = [identity, getattr(self, "context_embedder", None), getattr(self, "crop_embedder", None)]
        for module in self.modules():
            if module in extra:
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
        zero += [parameter for module in extra if module is not None for parameter in module.parameters()]
        if identity is not None:
            zero.append(self.identity_null)
        for parameter in zero:
            nn.init.zeros_(parameter)

    def condition(
        self,
        timestep: Tensor,
        attributes: Tensor,
        identity: Tensor | None,
        identity_known: Tensor | None,
        crop: Tensor | None = None,
        identity_dropped: Tensor | None = None,
        identity_mapped: Tensor | None = None,
        identity_masks: Tensor | None = None,
    ) -> Tensor:
        """Return c (B, D) from t (B,), attributes (B, A) and, where the model has them, identity (B, E) and crop (B, 3).

        A row without identity (None, or `identity_known` false) takes the learned empty identity, which no component
        is ever dropped of. With masks of K people, whose identities are (B, K, E), c is (B, N, D).
        """
        dtype = self.final_linear.weight.dtype
        c = self.t_embedder(timestep_embedding(timestep, dim=FREQUENCIES).to(dtype))
        c = c + self.y_embedder(attributes)  # (B, D)
        if crop is not None:
            c = c + self.crop_embedder(crop_code(crop).to(dtype))
        has_identity, D = self.config.identity_dim is not None, self.config.hidden_size
        null: Tensor = self.identity_null if has_identity else c.new_zeros(D)
        if identity is not None:
            scale = self.config.identity_dim**0.5  # a unit vector's entries are small: else this layer learns slowly
            person = without(self.identity_embedder(scale * identity), identity_dropped)  # (B, D) or (B, K, D)
        elif identity_mapped is not None:
            person = null + identity_mapped
        else:
            return c + null if has_identity else c
        if identity_known is not None:
            person = torch.where(rows_like(identity_known, person), person, null.to(person.dtype))
        if identity_masks is None:
            return c + person
        return c[:, None] + placed(person, token_shares(identity_masks, grid=self.grid), null)  # (B, N, D)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        attributes: Tensor,
        identity: Tensor | None = None,
        identity_known: Tensor | None = None,
        context: Tensor | None = None,
        crop: Tensor | None = None,
        identity_dropped: Tensor | None = None,
        sharing: Sharing | None = None,
        return_dict: bool = True,  # noqa: FBT001 (as in every diffusers model)
        identity_mapped: Tensor | None = None,
        identity_masks: Tensor | None = None,
    ) -> LatentDiTOutput | tuple[Tensor] | tuple[Tensor, Tensor | None]:
        """Predict the velocity.

        Args:
            hidden_states: x_t, (B, C, H, W), in units of the normalised latents.
            timestep: t, (B,) in [0, 1]; 1 is noise.
            attributes: (B, A) integers: -1 unknown, 0 absent, 1 present.
            identity: (B, E) unit vectors, or None for the learned empty identity; (B, K, E) with masks of K people.
            identity_known: (B,) bool, or (B, K) with masks; False rows take the empty identity.
            context: of an inpainting model: (B, K, H, W), what is kept (1) and its latents; None is all zeros.
            crop: of an inpainting model: (B, 3), centre x, centre y and side of the square that is shown, in shares of
                the whole face; None is the whole face.
            identity_dropped: (B, D) bool, for training: components of the projected identity that are left out, the
                others being raised to make up for them (contextual partial dropout; Boutros et al., IDiff-Face).
            sharing: attention that rows take from other rows, and what is to be told of it; None is neither.
            identity_mapped: instead of `identity`, (B, D) or (B, K, D): what an adapter adds to c of the empty identity.
            identity_masks: (B, K, h, w) from 0 to 1: where each person is, averaged over the area of each token; what
                nobody has takes the empty identity.

        Returns:
            LatentDiTOutput with `sample` = v, (B, C, H, W); a tuple if `return_dict` is False.

        Raises:
            ValueError: if a shape does not fit the model, or it is given a condition that it does not have.
        """
        self._check(hidden_states, timestep, attributes)
        check_people(
            self.config, len(hidden_states), identity, identity_mapped, identity_masks, shared=sharing is not None
        )
        self._check_context(hidden_states, context, crop)
        D, L = self.config.hidden_size, self.config.depth
        c = self.condition(
            timestep, attributes, identity, identity_known, crop, identity_dropped, identity_mapped, identity_masks
        )  # (B, D) or (B, N, D)
        modulation = self.adaLN_modulation(c).view(*c.shape[:-1], 6 * L + 2, D)  # one product for all blocks
        if identity_masks is not None:
            modulation = modulation.transpose(1, 2)  # (B, 6 L + 2, N, D)
        if sharing is not None:
            modulation = torch.cat([tempered(modulation[:, :-2], sharing), modulation[:, -2:]], dim=1)
        patches = self.x_embedder(hidden_states)  # (B, D, H/p, W/p)
        if context is not None:
            patches = patches + self.context_embedder(context)
        positions = self.positions if crop is None else crop_positions(crop, grid=self.grid, dim=D)
        x = patches.flatten(2).transpose(1, 2) + positions  # (B, N, D)
        received: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            share = sharing.share if sharing is not None and index in sharing.blocks else 0.0
            mapped = sharing is not None and index in sharing.mapped
            x, told = block(
                x, modulation[:, 6 * index : 6 * index + 6], None if sharing is None else sharing.source, share,
                mapped=mapped,
            )  # fmt: skip
            received += [told] if mapped else []
        x = self.final_linear(modulate(self.final_norm(x), modulation[:, -2], modulation[:, -1]))  # (B, N, p*p*C)
        v = self.unpatchify(x)  # (B, C, H, W)
        maps = torch.stack(received) if received else None  # (M, B, N)
        if return_dict:
            return LatentDiTOutput(sample=v, received=maps)
        return (v,) if sharing is None else (v, maps)

    def unpatchify(self, x: Tensor) -> Tensor:
        """Return latents (B, C, H, W) of token outputs (B, N, p*p*C)."""
        B, g, p, C = x.shape[0], self.grid, self.config.patch_size, self.config.in_channels
        return x.view(B, g, g, p, p, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, g * p, g * p)

    def _check(self, x: Tensor, t: Tensor, attributes: Tensor) -> None:
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

    def _check_context(self, x: Tensor, context: Tensor | None, crop: Tensor | None) -> None:
        wanted = {"context": (x.shape[0], self.config.context_channels, *x.shape[2:]), "crop": (x.shape[0], 3)}
        for name, given in (("context", context), ("crop", crop)):
            if given is not None and self.config.context_channels is None:
                raise ValueError(f"this model is a generator, not an inpainting model; pass {name}=None")
            if given is not None and tuple(given.shape) != wanted[name]:
                raise ValueError(f"{name} has shape {tuple(given.shape)}; expected {wanted[name]}")


def inpainting_model(generator: LatentDiT, *, mean_landmarks: Sequence[Sequence[float]] | None = None) -> LatentDiT:
    """Return an inpainting model that begins as this generator: what reads context and crop is zero.

    Args:
        generator: a LatentDiT without context; it stays as it is.
        mean_landmarks: 5 x (x, y) in shares of the side, where faces lie that have no landmarks of their own.

    Raises:
        ValueError: if it is an inpainting model already.
    """
    config = {name: value for name, value in generator.config.items() if not name.startswith("_")}
    if config["context_channels"] is not None:
        raise ValueError("this LatentDiT is an inpainting model already; give the generator that it was made from")
    model = LatentDiT(**{**config, "context_channels": 1 + config["in_channels"], "mean_landmarks": mean_landmarks})
    fresh, own = model.state_dict(), generator.state_dict()
    model.load_state_dict({name: own.get(name, torch.zeros_like(value)) for name, value in fresh.items()})
    return model.to(next(generator.parameters()).device)


def crop_code(crop: Tensor) -> Tensor:
    """Return what the network is told of crops (B, 3): how far the centre and the log2 of the side are from the whole face."""
    whole = torch.tensor(WHOLE_FACE, device=crop.device)
    return torch.cat([crop[:, :2] - whole[:2], torch.log2(crop[:, 2:])], dim=1)


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
