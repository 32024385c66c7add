"""Delayed subjects: the first steps follow the text alone and lay out the picture, the last ones draw the people.

With T steps and a share alpha of them for the subjects, steps 0 .. s-1 see the class prompt and steps s .. T-1 the
prompt with subjects, s = round((1 - alpha) T): alpha 1 has them from the first step on, alpha 0 never.
Source: Xiao et al., FastComposer (delayed subject conditioning). Shapes: B images, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
CALLBACK_INPUTS = ["prompt_embeds"]  # of the pipeline: callback_on_step_end_tensor_inputs


def subject_steps(num_steps: int, alpha: float) -> int:
    """Return the first step that sees the subjects, 0 to `num_steps`; the latter means that none does.

    Args:
        num_steps: T, at least 1.
        alpha: share of steps with subjects, 0 to 1.

    Raises:
        ValueError: if one is out of range.
    """
    if num_steps < 1 or not 0 <= alpha <= 1:
        raise ValueError(f"{num_steps} steps at alpha {alpha}; expected at least 1 step and 0 <= alpha <= 1")
    return round((1 - alpha) * num_steps)


def starting_embeds(switch: int, *, text: Tensor, subjects: Tensor) -> Tensor:
    """Return what the first step sees: a callback runs after a step, so switch 0 must begin with the subjects."""
    return subjects if switch == 0 else text


def delayed_subjects(switch: int, negative: Tensor | None, subject_embeds: Tensor) -> StepCallback:
    """Return a `callback_on_step_end` of diffusers' pipelines that brings in the subjects at step `switch`.

    Pass it with `callback_on_step_end_tensor_inputs=CALLBACK_INPUTS`, and `starting_embeds` as the prompt. It counts
    denoising passes; a scheduler of second order makes two a step.

    Args:
        switch: of `subject_steps`.
        negative: (B, L, D) of the negative prompt; None where there is no guidance.
        subject_embeds: (B, L, D) of the prompt with subjects, a row for every image.

    Raises:
        ValueError: from the callback, if guidance is on without `negative`, or the rows are not the pipeline's.
    """

    def at_step_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 != switch:
            return {}
        present = tensors["prompt_embeds"]
        embeds = subject_embeds
        if pipeline.do_classifier_free_guidance:
            if negative is None:
                raise ValueError("guidance is on, but no embedding of the negative prompt is given")
            embeds = torch.cat([negative, subject_embeds])
        if embeds.shape != present.shape:
            raise ValueError(f"embeddings {tuple(embeds.shape)}; the pipeline has {tuple(present.shape)}")
        return {"prompt_embeds": embeds.to(present)}

    return at_step_end
