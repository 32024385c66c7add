"""Pictures of given people: faces become words of the prompt, and diffusers' Stable Diffusion pipeline draws them.

A person's features (`facegen.personalize.references`) become two word vectors by f_map, which stand where the prompt has
the person's marker. The first (1 - alpha) of the steps see the class word instead: they lay out what the prompt says,
the others who it is. Source: Shiohara and Yamasaki 2024 (Face2Diffusion) for one person, all steps; Xiao et al. 2023
(FastComposer), section 4.3, for the delay. Methods differ in which mapper they take and in alpha:

    class_word        nobody in particular: the class word at every marker; what the others are compared with
    single            the mapper of one person, told in all steps
    single_plain      the same without class-guided training
    naive             two people through the mapper of one
    mf2d              two people through the mapper that learned with two, told late
    mf2d_unlocalized  the same trained without the loss on attention maps

Shapes: N pictures, B batch, K people of a picture, S people of a batch, I identity features, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facegen.models.msid import MSID
from facegen.models.text_to_image import TextToImage
from facegen.personalize.injection import ADD_OUTPUT, FUSIONS, encode_prompts
from facegen.personalize.mapping import Mapper
from facegen.personalize.prompts import MARKER, SubjectPrompt, build_prompt, class_prompt, noun_prompt
from facegen.personalize.references import person_features
from facegen.personalize.schedule import CALLBACK_INPUTS, delayed_subjects, starting_embeds, subject_steps
from facegen.rng import torch_generator

CLASS_WORD, MULTIPLE = "class_word", "mf2d"
OnStep = Callable[[int, int], object]  # steps done, of how many


@dataclass(frozen=True)
class Method:
    """How people get into a picture."""

    mapper: str | None  # its folder in data/models/mapper; None: nobody in particular
    subjects: tuple[int, ...]  # for how many people it is measured
    told: float | None  # alpha; None: as asked for

    def alpha(self, wanted: float) -> float:
        """Return the share of the steps in which the people are told, where `wanted` is asked for."""
        return wanted if self.told is None else self.told


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        CLASS_WORD: Method(None, (1, 2), 0.0),
        "single_plain": Method("single_plain", (1,), 1.0),
        "single": Method("single", (1,), 1.0),
        "naive": Method("single", (2,), 1.0),
        "mf2d_unlocalized": Method("mf2d_unlocalized", (2,), None),
        MULTIPLE: Method("mf2d", (2,), None),
    }
)


@dataclass(frozen=True)
class Request:
    """One picture: its prompt with markers, the features (K, I) of its people (None: nobody in particular), its seed."""

    prompt: str
    features: Tensor | None
    seed: int

    @property
    def num_subjects(self) -> int:
        """K."""
        return len(set(MARKER.findall(self.prompt))) if self.features is None else len(self.features)


@dataclass(frozen=True)
class Settings:
    """How all pictures of a call are drawn.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: towards the prompt; up to 1 is none.
        alpha: share of the steps, the last ones, in which the people are told.
        negative: prompt that guidance leads away from.
        height, width: px; None: what the base was made for.
        scheduler: one of `facegen.models.text_to_image.SCHEDULERS`.
        batch_size: pictures drawn together.
        dtype: of autocast around the network; float32: none.
    """

    num_steps: int
    guidance_scale: float
    alpha: float
    negative: str
    scheduler: str
    height: int | None = None
    width: int | None = None
    batch_size: int = 8
    dtype: torch.dtype = torch.float32


class Personalizer:
    """A text-to-image model that has learned to read faces."""

    def __init__(
        self, base: TextToImage, msid: MSID | None, mapper: Mapper | None, *, class_word: str, fusion: str
    ) -> None:
        """
        Args:
            base: the text-to-image model; frozen here.
            msid: the identity encoder; None: features are given.
            mapper: f_map, on the device of the base, in evaluation mode; None: for pictures of nobody in particular.
            class_word: what stands for a person in the steps that do not know who it is, as in "a person".
            fusion: replace_input or add_output, as the mapper was trained.

        Raises:
            ValueError: for another fusion, or parts that do not fit each other.
        """
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; allowed: {', '.join(FUSIONS)}")
        width = int(base.text_encoder.config.hidden_size)
        if mapper is not None and int(mapper.config.out_dim) != width:
            raise ValueError(f"the mapper makes words of {mapper.config.out_dim}; the text encoder reads {width}")
        if mapper is not None and msid is not None and int(mapper.config.identity_dim) != msid.embedding_size:
            raise ValueError(
                f"the mapper reads {mapper.config.identity_dim} identity features; the encoder has {msid.embedding_size}"
            )
        self.base, self.msid = base.freeze(), msid
        self.mapper = None if mapper is None else mapper.to(base.device).eval().requires_grad_(False)
        self.class_word, self.fusion = class_word, fusion

    def features(self, crops: Sequence[Tensor]) -> Tensor:  # (I,)
        """Return the features of one person from aligned faces (1, 3, 112, 112).

        Raises:
            ValueError: if there is no crop, or no identity encoder.
        """
        if self.msid is None:
            raise ValueError("there is no identity encoder; give features")
        return person_features(self.msid, crops)

    def generate(
        self, features: Tensor | None, prompt: str, *, seeds: Sequence[int], num_steps: int, guidance_scale: float,
        alpha: float, negative: str, scheduler: str, height: int | None = None, width: int | None = None,
        batch_size: int = 8, on_step: OnStep | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Return pictures of the same people by the same prompt, uint8 (len(seeds), H, W, 3).

        Args:
            features: (K, I), of the person of marker <id:0> first; None: nobody in particular.
            prompt: with a marker for each person.
            seeds: one a picture, which depends on it alone.
            num_steps, guidance_scale, alpha, negative, scheduler, height, width, batch_size: as `Settings`.
            on_step: called after every step.

        Raises:
            ValueError: as `generate_many`.
        """
        settings = Settings(
            num_steps=num_steps, guidance_scale=guidance_scale, alpha=alpha, negative=negative, scheduler=scheduler,
            height=height, width=width, batch_size=batch_size,
        )  # fmt: skip
        return self.generate_many([Request(prompt, features, seed) for seed in seeds], settings, on_step=on_step)

    def generate_many(
        self, requests: Sequence[Request], settings: Settings, *, on_step: OnStep | None = None
    ) -> np.ndarray:
        """Return pictures of any people by any prompts, uint8 (N, H, W, 3); each is a function of its own request.

        Raises:
            ValueError: if there is no request, features do not fit the mapper, a prompt does not name its people or is
                too long, or alpha lies outside [0, 1].
        """
        if not requests:
            raise ValueError("no picture is asked for")
        if not 0 <= settings.alpha <= 1:
            raise ValueError(f"alpha is {settings.alpha}; allowed: from 0 to 1")
        self._check(requests)
        starts = range(0, len(requests), settings.batch_size)
        total, out = len(starts) * settings.num_steps, []
        for number, start in enumerate(starts):
            done = number * settings.num_steps

            def told(step: int, done: int = done) -> None:
                if on_step is not None:
                    on_step(done + step, total)

            out.append(self._draw(requests[start : start + settings.batch_size], settings, told))
        return np.concatenate(out)

    def _check(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.features is None:
                continue
            if self.mapper is None:
                raise ValueError("there is no mapper; pictures of given people need one")
            wanted = int(self.mapper.config.identity_dim)
            if request.features.ndim != 2 or request.features.shape[1] != wanted:
                raise ValueError(f"features have shape {tuple(request.features.shape)}; expected (people, {wanted})")
            self._prompt(request)

    @torch.no_grad()
    def _draw(self, requests: Sequence[Request], settings: Settings, told: Callable[[int], None]) -> np.ndarray:
        base, switch = self.base, subject_steps(settings.num_steps, settings.alpha)
        words = self._words(requests)
        with_people = self._with_people(requests, words) if switch < settings.num_steps else words
        guided = settings.guidance_scale > 1
        negative = self._plain([settings.negative]).expand_as(words) if guided else None
        change = delayed_subjects(switch, negative, with_people)
        start = starting_embeds(switch, text=words, subjects=with_people)

        def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            told(step + 1)
            return change(pipe, step, timestep, tensors)

        with _autocast(base.unet, settings.dtype):
            latents = base.pipeline(settings.scheduler)(
                prompt_embeds=start, negative_prompt_embeds=negative,
                num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
                height=settings.height, width=settings.width,
                generator=[torch_generator(request.seed, "personalize") for request in requests],
                callback_on_step_end=after_step, callback_on_step_end_tensor_inputs=CALLBACK_INPUTS,
                output_type="latent",
            ).images  # fmt: skip
        return base.decode(latents.to(base.dtype)).cpu().numpy()

    def _words(self, requests: Sequence[Request]) -> Tensor:  # (B, L, D)
        """Return what the network attends to without the people: the class word at every marker."""
        return self._plain([class_prompt(request.prompt, self.class_word) for request in requests])

    def _plain(self, texts: Sequence[str]) -> Tensor:
        return encode_prompts(self.base.text_encoder, self.base.tokenizer, texts)

    def _prompt(self, request: Request) -> SubjectPrompt:
        tokenizer, num = self.base.tokenizer, request.num_subjects
        if self.fusion == ADD_OUTPUT:
            return noun_prompt(tokenizer, request.prompt, self.class_word, num_subjects=num)
        return build_prompt(tokenizer, request.prompt, num_subjects=num)

    def _with_people(self, requests: Sequence[Request], words: Tensor) -> Tensor:  # (B, L, D)
        """Return what it attends to with them; requests of nobody in particular keep the class word."""
        told = [(number, request.features) for number, request in enumerate(requests) if request.features is not None]
        if not told:
            return words
        assert self.mapper is not None
        features = torch.cat([own for _, own in told]).to(words.device, self.mapper.dtype)
        owners = torch.tensor([place for place, (_, own) in enumerate(told) for _ in own])
        hidden = encode_prompts(
            self.base.text_encoder, self.base.tokenizer, [self._prompt(requests[number]) for number, _ in told],
            self.mapper(features).to(words.dtype), owners, fusion=self.fusion,
        )  # fmt: skip
        out = words.clone()
        out[[number for number, _ in told]] = hidden
        return out


@contextmanager
def _autocast(unet: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a float32 network compute in another dtype and answer in float32: samplers keep latents in that of the answer."""
    weights = next(unet.parameters())
    if dtype == torch.float32 or weights.dtype != torch.float32:
        yield
        return
    hook = unet.register_forward_hook(lambda _, __, answer: (answer[0].float(), *answer[1:]))
    try:
        with torch.autocast(weights.device.type, dtype):
            yield
    finally:
        hook.remove()
