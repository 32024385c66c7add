"""Training f_map: faces become words of a frozen text-to-image model, by what that model then denoises.

Only f_map and its learned empty expression are trained; the text encoder, the UNet, the autoencoder and the identity
encoder are frozen and in evaluation mode. The noise is that of the DDPM scheduler. With class guidance (CGDR) the
prediction has to be the truth inside the masks of the told people and, outside, what the frozen model predicts of the
same picture when the class word stands in their place.

Shapes: B batch, K people of a scene at most, S people told, C h w latents, I identity features, E expression.
Source: Shiohara and Yamasaki, Face2Diffusion, 2024 (CGDR); Xiao et al., FastComposer, 2023 (localisation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facegen.data.images import to_unit
from facegen.data.scenes import Scenes
from facegen.models.text_to_image import TextToImage, quick_attention
from facegen.personalize.attention import AttentionMaps, select_layers
from facegen.personalize.injection import REPLACE_INPUT, encode_prompts
from facegen.personalize.losses import cgdr_loss, diffusion_loss, localization_loss, masked_loss
from facegen.personalize.mapping import Mapper
from facegen.personalize.prompts import (
    TOKENS_PER_SUBJECT,
    SubjectPrompt,
    build_prompt,
    class_prompt,
    noun_prompt,
    plain_prompt,
)
from facegen.personalize.subjects import SubjectScenes
from facegen.rng import derive_seed, torch_generator
from facegen.train.ema import PowerEMA
from facegen.train.loop import Logs, Phase, adamw, warmup_linear_decay
from facegen.train.text_to_image import encode_scenes

BETAS = (0.9, 0.99)
WARMUP_FRACTION = 0.05
DECAY_FRACTION = 0.6
ENCODED = 64  # pictures a call of the autoencoder


@dataclass(frozen=True)
class MapperRecipe:
    """How a mapper is trained; the meanings are in params.yaml."""

    seed: int
    name: str
    max_subjects: int
    fusion: str
    class_word: str
    drop_expression: float
    background_weight: float
    cgdr_share: float
    localization_weight: float
    mask_share: float
    total_images: int
    learning_rate: float
    weight_decay: float
    grad_clip: float


@dataclass(frozen=True)
class MapperBatch:
    """One training batch."""

    noisy: Tensor  # (B, C, h, w)
    timesteps: Tensor  # (B,)
    target: Tensor  # (B, C, h, w)
    prompts: tuple[SubjectPrompt, ...]  # B
    class_prompts: tuple[SubjectPrompt, ...]  # B: the same, the class word in everyone's place
    identity: Tensor  # (S, I)
    expression: Tensor | None  # (S, E)
    known: Tensor | None  # (S,) whose expression is told, after dropout
    owners: Tensor  # (S,) which of the B pictures, rising
    masks: Tensor  # (B, K, h, w): where the told people are
    valid: Tensor  # (B, K) bool: people that are told
    guided: Tensor  # (B,) bool: rows with class guidance
    masked: Tensor  # (B,) bool: rows whose error counts inside the masks alone
    seed: int  # of dropout


def scene_latents(base: TextToImage, scenes: Scenes, *, dtype: torch.dtype, threads: int) -> Tensor:  # (N, C, h, w)
    """Return the scaled latents of all scenes, float32 on the device of `base`: posterior means, as the base learned from.

    Args:
        base: on the device where to encode.
        dtype: of autocast.
        threads: how many PNGs are decoded at once.
    """
    starts = range(0, len(scenes), ENCODED)
    batches = (to_unit(scenes.images(range(n, min(n + ENCODED, len(scenes))), threads=threads)) for n in starts)
    return encode_scenes(base, batches, dtype=dtype) * float(base.vae.config.scaling_factor)


@contextmanager
def seeded_dropout(module: nn.Module, seed: int) -> Iterator[None]:
    """While open, the dropout layers of a module in evaluation mode drop by this seed, not by torch's global state."""
    drop = [layer for layer in module.modules() if isinstance(layer, nn.Dropout) and layer.p > 0]
    generators: dict[torch.device, torch.Generator] = {}

    def dropped(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.device not in generators:
            generators[output.device] = torch.Generator(output.device).manual_seed(seed)
        coin = torch.rand(output.shape, generator=generators[output.device], device=output.device)
        kept = coin >= layer.p  # type: ignore[operator]
        return output * kept / (1 - layer.p)  # type: ignore[operator]

    hooks = [layer.register_forward_hook(dropped) for layer in drop]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SubjectDenoiser(nn.Module):
    """What is computed on a batch under autocast: f_map, and the frozen model on its words."""

    def __init__(self, mapper: Mapper, base: TextToImage, *, fusion: str, localize: bool) -> None:
        super().__init__()
        self.mapper = mapper
        self.frozen = (base,)  # a tuple: not submodules, so neither trained nor saved with it
        self.fusion = fusion
        self.layers = select_layers(base.unet) if localize else ()

    def forward(self, batch: MapperBatch) -> dict[str, Any]:
        """Return `prediction` (B, C, h, w), with guided rows `guide` of the same shape, and when localising `probs`."""
        base = self.frozen[0]
        out: dict[str, Any] = {}
        if bool(batch.guided.any()):
            with torch.no_grad():
                hidden = encode_prompts(base.text_encoder, base.tokenizer, batch.class_prompts)
                out["guide"] = base.predict(batch.noisy, batch.timesteps, hidden)
        with quick_attention(base.device):
            with seeded_dropout(self.mapper, batch.seed):
                vectors = self.mapper(batch.identity, batch.expression, batch.known)  # (S, 2, D)
            hidden = encode_prompts(
                base.text_encoder, base.tokenizer, batch.prompts, vectors, batch.owners, fusion=self.fusion
            )
            if not self.layers:
                return out | {"prediction": base.predict(batch.noisy, batch.timesteps, hidden)}
            with AttentionMaps(base.unet, self.layers) as maps:
                return out | {"prediction": base.predict(batch.noisy, batch.timesteps, hidden), "probs": maps.probs}


class MapperLearner:
    """f_map under a frozen text-to-image model (a `facegen.train.loop.Learner`)."""

    def __init__(
        self, mapper: Mapper, base: TextToImage, data: SubjectScenes, recipe: MapperRecipe, *, latents: Tensor,
        masks: Tensor,
    ) -> None:  # fmt: skip
        """
        Args:
            mapper: what is trained, on the device of `base`.
            base: the text-to-image model; frozen here.
            data: the scenes.
            latents: (N, C, h, w), of all scenes of the split.
            masks: (N, most, h, w), of all people of all scenes, as `person_masks` returns them.

        Raises:
            ValueError: if latents, masks and scenes do not fit together, or the mapper does not fit features or text.
        """
        if not len(latents) == len(masks) == len(data.scenes) or latents.shape[2:] != masks.shape[2:]:
            raise ValueError(
                f"latents {tuple(latents.shape)}, masks {tuple(masks.shape)} of {len(data.scenes)} scenes: "
                "they have to agree in number and size"
            )
        sizes = {"identity_dim": data.features.shape[1], "out_dim": base.text_encoder.config.hidden_size}
        for name, size in sizes.items():
            if mapper.config[name] != size:
                raise ValueError(f"the mapper's {name} is {mapper.config[name]}; expected {size}")
        base.freeze()
        base.unet.to(memory_format=torch.channels_last)
        self.base, self.data, self.recipe = base, data, recipe
        self.device = base.device
        self.latents, self.masks = latents.to(self.device), masks.to(self.device)
        self.models: dict[str, nn.Module] = {"mapper": mapper}
        module = SubjectDenoiser(mapper, base, fusion=recipe.fusion, localize=recipe.localization_weight > 0)
        optimizer = adamw(mapper, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay)
        self.phases = [Phase("mapper", module, optimizer, recipe.grad_clip, self.loss)]
        self.ema: PowerEMA | None = None
        self.flops_per_image = 0.0
        self.purpose = f"mapper {recipe.name}"
        self.order = data.order(self.purpose, max_subjects=recipe.max_subjects)
        mapper.eval()  # dropout is drawn by the batch: see `seeded_dropout`

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=round(WARMUP_FRACTION * r.total_images),
            total_images=r.total_images,
            decay_fraction=DECAY_FRACTION,
        )

    def batch(self, images_seen: int, batch_size: int) -> MapperBatch:
        r, base, device = self.recipe, self.base, self.device
        told = self.data.draw(self.order, images_seen, batch_size, max_subjects=r.max_subjects)
        generator = torch_generator(r.seed, f"{self.purpose} noise", images_seen)
        rows = torch.from_numpy(told.rows).to(device)
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=generator).to(device)
        steps = base.ddpm.config.num_train_timesteps
        timesteps = torch.randint(steps, (batch_size,), generator=generator).to(device)
        guided = torch.rand(batch_size, generator=generator) < r.cgdr_share
        masked = ~guided & (torch.rand(batch_size, generator=generator) < r.mask_share)
        known = torch.rand(len(told.owners), generator=generator) >= r.drop_expression
        segments = torch.from_numpy(told.segments).to(device)
        valid = segments >= 0
        masks = self.masks[rows[:, None], segments.clamp(min=0)] * valid[:, :, None, None]
        counts = valid.sum(dim=1).tolist()
        plain = [class_prompt(text, r.class_word) for text in told.prompts]
        references = torch.from_numpy(told.references)
        expression = self.data.expressions
        return MapperBatch(
            noisy=base.ddpm.add_noise(latents, noise, timesteps), timesteps=timesteps,
            target=base.target(latents, noise, timesteps),
            prompts=tuple(self.prompt(text, n) for text, n in zip(told.prompts, counts, strict=True)),
            class_prompts=tuple(plain_prompt(base.tokenizer, text) for text in plain),
            identity=self.data.features[references].to(device),
            expression=None if expression is None else expression[references].to(device),
            known=None if expression is None else known.to(device),
            owners=torch.from_numpy(told.owners).to(device), masks=masks, valid=valid, guided=guided.to(device),
            masked=masked.to(device), seed=derive_seed(r.seed, f"{self.purpose} dropout", images_seen),
        )  # fmt: skip

    def prompt(self, text: str, num_subjects: int) -> SubjectPrompt:
        """Return a prompt with markers as the fusion takes it."""
        tokenizer = self.base.tokenizer
        if self.recipe.fusion == REPLACE_INPUT:
            return build_prompt(tokenizer, text, num_subjects=num_subjects)
        return noun_prompt(tokenizer, text, self.recipe.class_word, num_subjects=num_subjects)

    def loss(self, module: nn.Module, batch: MapperBatch) -> tuple[Tensor, Logs]:
        r, out = self.recipe, module(batch)
        prediction, union = out["prediction"].float(), batch.masks.amax(dim=1, keepdim=True)
        plain = ~batch.guided & ~batch.masked
        loss = prediction.new_zeros(())
        for kind, rows in {"guided": batch.guided, "masked": batch.masked, "plain": plain}.items():
            if not bool(rows.any()):
                continue
            pair, mask = (prediction[rows], batch.target[rows]), union[rows]
            if kind == "guided":
                part = cgdr_loss(*pair, out["guide"][rows], mask, background_weight=r.background_weight)
            else:
                part = masked_loss(*pair, mask) if kind == "masked" else diffusion_loss(*pair)
            loss = loss + part * rows.float().mean()
        with torch.no_grad():
            logs: Logs = {"denoising": loss.detach(), "face_denoising": masked_loss(prediction, batch.target, union)}
        if r.localization_weight:
            tokens = TOKENS_PER_SUBJECT if r.fusion == REPLACE_INPUT else 1
            where = first_positions(batch.prompts, batch.masks.shape[1]).to(self.device)
            local = localization_loss(out["probs"], where, batch.masks, batch.valid, tokens=tokens)
            loss = loss + r.localization_weight * local
            logs["localization"] = local.detach()
        return loss, {"loss": loss.detach(), **logs}


def first_positions(prompts: Sequence[SubjectPrompt], most: int) -> Tensor:  # (B, most)
    """Return where each prompt's subjects stand, 0 for subjects that are not there."""
    places = torch.zeros(len(prompts), most, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        for subject, position in prompt.positions:
            places[row, subject] = position
    return places
