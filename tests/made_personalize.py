"""Tiny Stable Diffusion folders with random weights, as diffusers writes them, and the words they know."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from facegen.models.initialize import draw_weights
from facegen.models.text_to_image import draw_text_to_image
from facegen.models.word_tokenizer import build_tokenizer
from facegen.rng import torch_generator

WORDS = (
    "a", "an", "and", "man", "woman", "person", "young", "old", "smiling", "serious", "both", "next", "to", "with",
    "wearing", "in", "hat", "hats", "eyeglasses", "beard", "bangs", "long", "short", "black", "blond", "red",
    "hair", ",",
)  # fmt: skip
TEXT_WIDTH = 32
MAX_TOKENS = 24
HEADS = {"1.x": 4, "2.x": [2, 4]}  # of the UNet's levels; 2.x gives one number a level


def make_sd_folder(path: Path, *, kind: Literal["1.x", "2.x"] = "1.x") -> Path:
    """Write a Stable Diffusion folder of a version's structure; equal calls give equal weights.

    Pictures are 32 px a side and latents (4, 16, 16). 1.x predicts the noise; 2.x predicts velocities, projects by
    linear layers, and has another text encoder's activation and as its scheduler Euler's.

    Args:
        path: the folder; made if it is missing.
        kind: the version whose structure it has.

    Returns:
        `path`.
    """
    second = kind == "2.x"
    tokenizer = build_tokenizer(WORDS, path / "tokenizer", max_tokens=MAX_TOKENS)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=TEXT_WIDTH,
            hidden_act="gelu" if second else "quick_gelu", bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=HEADS[kind], use_linear_projection=second,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, latent_channels=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    generator = torch_generator(0, "made stable diffusion")
    draw_text_to_image(text_encoder, unet, generator)
    with torch.no_grad():  # a drawn model whose prediction depends on what it is given
        for layer in (unet.conv_out, *(m for m in text_encoder.modules() if isinstance(m, nn.Embedding))):
            nn.init.normal_(layer.weight, std=0.2, generator=generator)
    draw_weights(vae, generator)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = (
        EulerDiscreteScheduler(prediction_type="v_prediction", **schedule)
        if second
        else DDPMScheduler(prediction_type="epsilon", clip_sample=False, **schedule)
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(str(path))  # fmt: skip
    return path
