"""Cross-attention maps of a UNet, read while it runs: which picture position looks at which token.

On the chosen layers the attention is written out, softmax(Q K^T scale) V, so that its probabilities are there with
their gradient; the other layers keep what they have. After the context every layer has its own processor again.
Shapes: B batch, N = h w positions of a layer, L tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

MIDDLE, ALL = "middle", "all"
_BLOCK = re.compile(r"^(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\..*\.attn2$")


def select_layers(unet: Any, which: str = MIDDLE, *, depths: tuple[float, float] = (0.0, 1.0)) -> tuple[str, ...]:
    """Return the names of cross-attention layers, in the order in which a picture passes them.

    For Stable Diffusion "middle" chooses the layers of FastComposer: all but those of the finest grid.

    Args:
        unet: a UNet2DConditionModel of any depth.
        which: "all", or "middle": without the layers of the finest grid where there are more than two grids.
        depths: of the chosen ones, those from this to that quantile of depth (0 the first, 1 the last layer).

    Raises:
        ValueError: for another word, quantiles out of order, or if no layer is left.
    """
    if which not in (MIDDLE, ALL):
        raise ValueError(f"which is {which!r}; allowed: {MIDDLE}, {ALL}")
    if not 0 <= depths[0] <= depths[1] <= 1:
        raise ValueError(f"depths are {depths}; expected two quantiles, 0 <= from <= to <= 1")
    placed = sorted(_placed(unet))
    levels = {level for _, level, _ in placed}
    if which == MIDDLE and len(levels) > 2:
        placed = [layer for layer in placed if layer[1] > min(levels)]
    last = max(len(placed) - 1, 1)
    names = tuple(name for i, (_, _, name) in enumerate(placed) if depths[0] <= i / last <= depths[1])
    if not names:
        raise ValueError(f"no cross-attention layer of {type(unet).__name__} is left between depths {depths}")
    return names


class AttentionMaps:
    """Reads the probabilities of the chosen layers: `with AttentionMaps(unet) as maps: unet(..); maps.probs`."""

    def __init__(self, unet: Any, layers: Sequence[str] | None = None) -> None:
        """
        Args:
            unet: a UNet2DConditionModel.
            layers: names of cross-attention layers; None: those of `select_layers`.

        Raises:
            ValueError: naming a layer that is not there.
        """
        self._unet = unet
        self.layers = tuple(select_layers(unet) if layers is None else layers)
        known = {name for _, _, name in _placed(unet)}
        for name in self.layers:
            if name not in known:
                raise ValueError(f"{name} is no cross-attention layer; there are: {', '.join(sorted(known))}")
        self._maps: dict[str, Tensor] = {}
        self._former: dict[str, Any] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def probs(self) -> list[Tensor]:
        """Of the last pass, a layer each in their order: (B, heads, h, w, L), summing to 1 over L.

        Raises:
            RuntimeError: if no pass was made since the context was entered, or the last one did not end.
        """
        if len(self._maps) < len(self.layers):
            raise RuntimeError("no whole pass has been read: run the UNet inside the context")
        return [self._maps[name] for name in self.layers]

    def __enter__(self) -> AttentionMaps:
        self._maps.clear()
        self._hooks.append(self._unet.register_forward_pre_hook(lambda module, args: self._maps.clear()))
        for name in self.layers:
            layer = self._unet.get_submodule(name)
            processor = _ReadAttention(self._maps, name)
            parent = self._unet.get_submodule(name.split(".transformer_blocks.")[0])
            self._hooks.append(parent.register_forward_pre_hook(processor.note_grid, with_kwargs=True))
            self._former[name] = layer.processor
            layer.set_processor(processor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, processor in self._former.items():
            self._unet.get_submodule(name).set_processor(processor)
        for hook in self._hooks:
            hook.remove()
        self._former.clear()
        self._hooks.clear()


class _ReadAttention:
    """A processor of diffusers' Attention that keeps the probabilities of one cross-attention layer."""

    def __init__(self, maps: dict[str, Tensor], name: str) -> None:
        self._maps, self._name = maps, name
        self._grid = (0, 0)

    def note_grid(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep height and width of the map (B, C, h, w) that enters the layer's transformer."""
        height, width = (args[0] if args else kwargs["hidden_states"]).shape[-2:]
        self._grid = (int(height), int(width))

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """Return the attention's output (B, N, C) for positions (B, N, C) and tokens (B, L, D)."""
        assert encoder_hidden_states is not None and hidden_states.ndim == 3, "a cross-attention of a transformer block"
        tokens = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states
        batch, length = tokens.shape[:2]
        mask = attn.prepare_attention_mask(attention_mask, length, batch)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(tokens)), attn.head_to_batch_dim(attn.to_v(tokens))
        probs = attn.get_attention_scores(query, key, mask)
        self._maps[self._name] = probs.view(batch, attn.heads, *self._grid, length)
        out = attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probs @ value)))
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor


def _placed(unet: Any) -> list[tuple[int, int, str]]:
    """Return (block in the order of a pass, how often its grid is halved, name) of every cross-attention layer."""
    num = len(unet.down_blocks)
    placed = []
    for name, _ in unet.named_modules():
        if found := _BLOCK.match(name):
            side, number = found.group(1), int(found.group(2) or 0)
            block = {"down": number, "up": num + 1 + number}.get(side, num)
            placed.append((block, {"down": number, "up": num - 1 - number}.get(side, num - 1), name))
    return placed
