"""How well pictures follow words, by a CLIP model that the user names; nothing is ever downloaded unasked.

    CLIP  = cos(I(x), T(prompt))
    dCLIP = cos(I(x) - I(reference), T(prompt) - T("a photo of a person"))

dCLIP asks whether the picture departs from the reference as the words depart from plain ones: a copy of the reference has
none. Source: Radford et al. 2021 for both encoders; Gal et al. 2022 (StyleGAN-NADA), equation 2, for the direction.
Shapes: N pictures, H W px, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facegen.models.loading import first_line

PLAIN = "a photo of a person"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures
BATCH = 32
_STILL = 1e-4  # a shorter step between unit vectors is rounding, and has no direction: dCLIP is 0


class ClipScore:
    """Pictures and words in one space. See `ClipScore.open`."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, device: torch.device) -> None:
        """
        Args:
            model: a transformers CLIPModel.
            tokenizer: its CLIPTokenizer.
            name: stands beside every figure.
            device: where it computes.
        """
        self._model, self._tokenizer = model.to(device).eval().requires_grad_(False), tokenizer
        self.name, self.device = name, device
        self._side = int(model.config.vision_config.image_size)

    @classmethod
    def open(cls, source: str | Path, *, device: torch.device) -> ClipScore:
        """Open a CLIP model of a folder or hub id; safetensors weights only.

        Raises:
            ValueError: if there is none, with the reason in one line.
        """
        from transformers import CLIPModel, CLIPTokenizer

        try:
            model = CLIPModel.from_pretrained(str(source), use_safetensors=True)
            tokenizer = CLIPTokenizer.from_pretrained(str(source))
        except Exception as error:  # of transformers, safetensors or the hub
            raise ValueError(f"{source} is no usable CLIP model ({first_line(error)})") from error
        return cls(model, tokenizer, name=Path(source).name, device=device)

    def scores(
        self, images: np.ndarray, prompts: Sequence[str], references: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return CLIP and dCLIP of every picture, float64 (N,) each.

        Args:
            images: uint8 (N, H, W, 3).
            prompts: N texts, without markers; what is longer than the model reads is cut off.
            references: N arrays uint8 (R, h, w, 3): the pictures that told the people of each; their mean counts.

        Raises:
            ValueError: if the lengths disagree.
        """
        if not len(images) == len(prompts) == len(references):
            raise ValueError(f"{len(images)} pictures, {len(prompts)} prompts, {len(references)} sets of references")
        told = list(dict.fromkeys(prompts))
        texts = dict(zip(told, self.texts(told), strict=True))
        plain, seen = self.texts([PLAIN])[0], self.pictures(images)
        words = torch.stack([texts[prompt] for prompt in prompts])
        start = torch.stack([self.pictures(own).mean(dim=0) for own in references])
        direct = F.cosine_similarity(seen, words, dim=1)
        step = seen - start
        moved = F.cosine_similarity(step, words - plain, dim=1) * (step.norm(dim=1) > _STILL)
        return direct.numpy(), moved.numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N, D) of texts, float64 on the CPU."""
        limit = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        found = self._model.text_model(
            input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
        )
        return _unit(self._model.text_projection(found.pooler_output))

    @torch.inference_mode()
    def pictures(self, images: np.ndarray) -> Tensor:
        """Return unit vectors (N, D) of pictures, float64 on the CPU: short side resized, the middle cut out."""
        parts = []
        for start in range(0, len(images), BATCH):
            rows = torch.from_numpy(np.array(images[start : start + BATCH])).to(self.device)
            found = self._model.vision_model(pixel_values=self._prepared(rows.permute(0, 3, 1, 2).float() / 255))
            parts.append(_unit(self._model.visual_projection(found.pooler_output)))
        return torch.cat(parts)

    def _prepared(self, pixels: Tensor) -> Tensor:  # (B, 3, H, W) in [0, 1] -> (B, 3, side, side), standardised
        side, (height, width) = self._side, pixels.shape[-2:]
        scale = side / min(height, width)
        size = max(side, round(height * scale)), max(side, round(width * scale))
        large = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (large[..., top : top + side, left : left + side] - mean) / std


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.double().cpu(), dim=1)
