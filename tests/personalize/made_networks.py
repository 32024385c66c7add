"""Tiny random text models, UNets and a tokenizer of whole words: what the tests of personalisation run on."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from facegen.rng import torch_generator

WORDS = [
    "a", "an", "the", "man", "woman", "person", "men", "people", "and", "with", "in", "on", "of", "smiling",
    "wearing", "hats", "hat", "glasses", "beach", "young", "old", "tall", "two", "happy", ",", ".", "both",
    "eyeglasses", "blue", "eyes", "long", "red", "hair",
]  # fmt: skip
START, END, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
LENGTH, WIDTH = 16, 32


class WordTokenizer:
    """Words between blanks; the ids are their numbers. "woman" is two tokens, so that nouns can be more than one."""

    bos_token_id, eos_token_id, pad_token_id = START, END, END

    def __init__(self, model_max_length: int = LENGTH) -> None:
        self.model_max_length = model_max_length

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = []
        for word in text.replace(",", " , ").split():
            for part in ("wo", "man") if word == "woman" else (word,):
                ids.append(FIRST_WORD + WORDS.index(part) if part in WORDS else UNKNOWN)
        return [START, *ids, END] if add_special_tokens else ids


def ids_of(text: str) -> list[int]:
    return WordTokenizer().encode(text, add_special_tokens=False)


def drawn(module, seed=0, std=0.15):
    """Weights from a generator, norms around 1; frozen, in evaluation."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(module.named_parameters()):
            torch.nn.init.normal_(parameter, std=std, generator=torch_generator(seed, "weights", i))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.eval().requires_grad_(False)


def text_model(length: int = LENGTH) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=FIRST_WORD + len(WORDS), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=length, bos_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    return drawn(CLIPTextModel(config))


def unet(kind: str = "1.x", *, num_levels: int = 2) -> UNet2DConditionModel:
    """Cross-attention at every level but the coarsest down and up block, as Stable Diffusion has it."""
    channels = (16, 32, 32, 32)[:num_levels]
    down = ("CrossAttnDownBlock2D",) * (num_levels - 1) + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (num_levels - 1)
    heads = {"attention_head_dim": 4}
    if kind == "2.x":
        heads = {"attention_head_dim": [c // 8 for c in channels], "use_linear_projection": True}
    return drawn(
        UNet2DConditionModel(
            sample_size=16, block_out_channels=channels, layers_per_block=1, norm_num_groups=8,
            cross_attention_dim=WIDTH, down_block_types=down, up_block_types=up, **heads,
        )
    )  # fmt: skip


def made(*shape: int, seed: int = 1, purpose: str = "values") -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed, purpose))
