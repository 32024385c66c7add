"""When people enter: the counts, and what a real pipeline's UNet sees at every step."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from facegen.personalize.schedule import CALLBACK_INPUTS, delayed_subjects, starting_embeds, subject_steps
from tests.personalize.made_networks import LENGTH, WIDTH, drawn, made, text_model, unet

NEGATIVE, TEXT, SUBJECTS = (made(2, LENGTH, WIDTH, seed=i) for i in range(3))


@pytest.mark.parametrize(
    ("num_steps", "alpha", "first"),
    [(10, 0, 10), (10, 0.3, 7), (10, 0.7, 3), (10, 1.0, 0), (30, 0.6, 12), (50, 0.7, 15), (3, 0.5, 2), (1, 0.4, 1)],
)
def test_the_first_step_with_subjects(num_steps, alpha, first):
    assert subject_steps(num_steps, alpha) == first


@pytest.mark.parametrize(("num_steps", "alpha"), [(0, 0.5), (10, -0.1), (10, 1.1), (10, float("nan"))])
def test_what_is_no_share_is_refused(num_steps, alpha):
    with pytest.raises(ValueError, match="expected at least 1 step and 0 <= alpha <= 1"):
        subject_steps(num_steps, alpha)


@pytest.fixture(scope="module")
def pipeline():
    vae = drawn(
        AutoencoderKL(
            block_out_channels=[16, 32], norm_num_groups=8, latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )  # fmt: skip
    made_pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_model(), tokenizer=None, unet=unet(), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made_pipeline.set_progress_bar_config(disable=True)
    return made_pipeline


def seen(pipeline, *, alpha, guidance, negative=NEGATIVE, subjects=SUBJECTS, steps=10):
    """The embeddings that the UNet was given at each step."""
    given = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    switch = subject_steps(steps, alpha)
    try:
        pipeline(
            prompt_embeds=starting_embeds(switch, text=TEXT, subjects=subjects), num_inference_steps=steps,
            negative_prompt_embeds=NEGATIVE if guidance > 1 else None, guidance_scale=guidance, height=16, width=16,
            output_type="latent", callback_on_step_end=delayed_subjects(switch, negative, subjects),
            callback_on_step_end_tensor_inputs=CALLBACK_INPUTS,
            generator=[torch.Generator().manual_seed(i) for i in range(2)],
        )  # fmt: skip
    finally:
        hook.remove()
    return given


@pytest.mark.parametrize(("alpha", "with_subjects"), [(0, 0), (0.3, 3), (0.7, 7), (1.0, 10)])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_the_last_steps_see_the_subjects_and_the_others_do_not(pipeline, scheduler, alpha, with_subjects):
    pipeline.scheduler = scheduler()
    given = seen(pipeline, alpha=alpha, guidance=5.0)
    assert len(given) == 10
    for i, embeds in enumerate(given):
        assert torch.equal(embeds, torch.cat([NEGATIVE, SUBJECTS if i >= 10 - with_subjects else TEXT])), i


def test_without_guidance_there_is_no_negative_half(pipeline):
    given = seen(pipeline, alpha=0.5, guidance=1.0, negative=None, steps=4)
    assert [torch.equal(e, SUBJECTS) for e in given] == [False, False, True, True]
    assert all(torch.equal(e, TEXT) for e in given[:2])
    given = seen(pipeline, alpha=0.5, guidance=1.0, negative=NEGATIVE, steps=4)  # given, but not asked for
    assert torch.equal(given[-1], SUBJECTS)


def test_embeddings_that_do_not_fit_are_refused(pipeline):
    with pytest.raises(ValueError, match="guidance is on, but no embedding of the negative prompt"):
        seen(pipeline, alpha=0.5, guidance=5.0, negative=None, steps=2)
    with pytest.raises(ValueError, match=r"embeddings \(3, 16, 32\); the pipeline has \(4, 16, 32\)"):
        seen(pipeline, alpha=0.5, guidance=5.0, subjects=SUBJECTS[:1], steps=2)
