"""Training a text encoder on pairs of captions and scenes, before a text-to-image model is trained on what it puts out.

Words change a picture's latents by a small share of their variance: a text encoder that learns from the diffusion loss
alone forgets the words before it has learnt them. Telling whose caption is whose in a batch teaches them fast.

Shapes: S scenes in the set, B batch, C h w latents, L tokens of a prompt, D width of the text encoder.
Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), figure 3.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facegen.models.initialize import draw_weights
from facegen.models.text_to_image import TextToImage, quick_attention
from facegen.rng import torch_generator
from facegen.train.loop import Logs, Phase, adamw, epoch_indices, warmup_linear_decay
from facegen.train.text_to_image import DESCRIPTION_SHARE, SceneSet

BETAS = (0.9, 0.98)
WIDTH = 32  # channels of the scenes' encoder at full resolution
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.5
START_SCALE, MAX_SCALE = 10.0, 100.0  # of the cosines in the softmax


@dataclass(frozen=True)
class PairRecipe:
    """How a text encoder is trained on pairs."""

    seed: int
    total_images: int
    learning_rate: float
    weight_decay: float
    grad_clip: float


class CaptionMatcher(nn.Module):
    """A text encoder and a small convolutional encoder of latents, whose vectors are compared by cosine."""

    def __init__(self, text_encoder: nn.Module, *, width: int, end_id: int, latents: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, breadth = latents
        self.text_encoder, self.end_id = text_encoder, end_id
        self.text_head = nn.Linear(width, width)
        self.scene_encoder = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1), nn.GroupNorm(4, 2 * WIDTH), nn.SiLU(),
            nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, stride=2, padding=1), nn.GroupNorm(4, 2 * WIDTH), nn.SiLU(),
            nn.Flatten(), nn.Linear(2 * WIDTH * math.ceil(height / 4) * math.ceil(breadth / 4), width),
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def forward(self, latents: Tensor, input_ids: Tensor) -> Tensor:
        """Return logits (B, B), of each text (row) for each scene; a text's vector is the mean over its end tokens."""
        ended = (input_ids == self.end_id).to(latents.dtype)[..., None]
        hidden = self.text_encoder(input_ids)[0]
        texts = self.text_head((hidden * ended).sum(dim=1) / ended.sum(dim=1))
        scenes = self.scene_encoder(latents)
        cosines = F.normalize(texts.float(), dim=1) @ F.normalize(scenes.float(), dim=1).T
        return cosines * self.log_scale.exp().clamp(max=MAX_SCALE)


@dataclass(frozen=True)
class PairBatch:
    """Scenes and their texts."""

    latents: Tensor  # (B, C, h, w)
    input_ids: Tensor  # (B, L)


class CaptionPairLearner:
    """Contrastive learning of captions on a resident set of scenes (a `facegen.train.loop.Learner`)."""

    def __init__(self, model: TextToImage, data: SceneSet, recipe: PairRecipe) -> None:
        self.data, self.recipe = data, recipe
        self.module = CaptionMatcher(
            model.text_encoder, width=int(model.text_encoder.config.hidden_size),
            end_id=int(model.tokenizer.eos_token_id), latents=(*data.latents.shape[1:],),
        )  # fmt: skip
        generator = torch_generator(recipe.seed, "caption matcher weights")
        for part in (self.module.text_head, self.module.scene_encoder):
            draw_weights(part, generator)
        self.module.to(data.latents.device)
        self.models: dict[str, nn.Module] = {"matcher": self.module}
        optimizer = adamw(
            self.module, learning_rate=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
        )
        self.phases = [Phase("matcher", self.module, optimizer, recipe.grad_clip, self.loss)]
        self.ema = None
        self.flops_per_image = 0.0

    def learning_rate(self, images_seen: int) -> float:
        r = self.recipe
        return warmup_linear_decay(
            images_seen,
            peak=r.learning_rate,
            warmup_images=round(WARMUP_SHARE * r.total_images),
            total_images=r.total_images,
            decay_fraction=DECAY_SHARE,
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one learner a process; two epochs can meet in a batch)
    def _permutation(self, epoch: int) -> Tensor:
        generator = torch_generator(self.recipe.seed, "caption pair order", epoch)
        return torch.randperm(len(self.data), generator=generator).to(self.data.latents.device)

    def batch(self, images_seen: int, batch_size: int) -> PairBatch:
        data, device = self.data, self.data.latents.device
        positions = range(images_seen, images_seen + batch_size)
        indices = epoch_indices(positions, size=len(data), permutation=self._permutation)
        generator = torch_generator(self.recipe.seed, "caption pair texts", images_seen, device=device)
        long = torch.rand(batch_size, 1, generator=generator, device=device) < DESCRIPTION_SHARE
        texts = torch.where(long, data.descriptions[indices], data.captions[indices])
        return PairBatch(data.latents[indices], texts)

    def loss(self, module: nn.Module, batch: PairBatch) -> tuple[Tensor, Logs]:
        with quick_attention(batch.latents.device):
            logits = module(batch.latents, batch.input_ids)
        own = torch.arange(len(logits), device=logits.device)
        loss = 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
        found = (logits.argmax(dim=1) == own).float().mean()
        return loss, {"loss": loss.detach(), "found": found.detach()}
