"""FacePipeline: seeds, schedulers against our own solver, saving and loading, requests that make no sense."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from facegen.flow.guidance import guided_velocity
from facegen.flow.sampler import euler, initial_noise, time_schedule
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT
from facegen.pipeline import FacePipeline, make_scheduler, scheduler_time, set_timesteps
from facegen.rng import torch_generator

NAMES = ["Male", "Smiling", "Eyeglasses"]
SETTINGS = dict(num_inference_steps=6, guidance_scale=2.0, guidance_interval=[0.0, 0.8])


@pytest.fixture(scope="module")
def pipe():
    return make_pipe()


@pytest.fixture(scope="module")
def pipe_of_people():
    return make_pipe(identity_dim=5)


def make_pipe(**changes):
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0,
        attribute_names=NAMES, latent_mean=[0.1] * 4, latent_std=[0.5] * 4, **changes,
    )  # fmt: skip
    for i, parameter in enumerate([*model.parameters(), *vae.parameters()]):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(0, "weights", i))
    pipe = FacePipeline(model.eval(), vae.eval(), make_scheduler("euler", shift=1.0), **SETTINGS)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe, *args, **kwargs):
    return pipe(*args, output_type="latent", **kwargs).images


def test_image_is_a_function_of_its_seed_not_of_its_batch(pipe):
    many = latents(pipe, "Male=1", seeds=list(range(8)))
    torch.testing.assert_close(latents(pipe, "Male=1", seeds=[5])[0], many[5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latents(pipe, "Male=1", seeds=[7, 5, 0])[1], many[5], atol=1e-5, rtol=1e-5)
    again = latents(pipe, "Male=1", seeds=list(range(8)))
    assert torch.equal(again, many)
    assert (many[0] - many[1]).abs().max() > 0.1
    assert (many[0] - latents(pipe, "Male=0", seeds=[0])[0]).abs().max() > 1e-3


def test_the_euler_scheduler_is_our_euler(pipe):
    states = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)
    for shift in (1.0, 3.0):
        pipe.scheduler = make_scheduler("euler", shift=shift)
        theirs = latents(pipe, states, seeds=[3, 4])

        def velocity(x, t):
            return guided_velocity(
                lambda x_t, times, y: pipe.transformer(x_t, times, y).sample,
                x, t, states, scale=2.0, interval=(0.0, 0.8), attribute_scales={},
            )  # fmt: skip

        with torch.no_grad():
            ours = euler(velocity, initial_noise([3, 4], (4, 8, 8)), time_schedule(6, shift=shift), path="linear")
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    pipe.scheduler = make_scheduler("euler", shift=1.0)


@pytest.mark.parametrize("name", ["heun", "dpm++"])
def test_flow_schedulers_converge_to_the_same_image(pipe, name):
    fine = latents(pipe, "Smiling=1", seeds=[1], num_inference_steps=200)
    pipe.scheduler = make_scheduler(name, shift=1.0)
    other = latents(pipe, "Smiling=1", seeds=[1], num_inference_steps=100)
    pipe.scheduler = make_scheduler("euler", shift=1.0)
    assert (fine - other).abs().max() < 0.02 * fine.abs().max()


def test_the_ddim_scheduler_integrates_the_cosine_path():
    """Gaussian data N(0.7, 0.4^2) with its exact velocity: the sampler must return m + s x."""
    scheduler = make_scheduler("ddim", shift=1.0)
    assert isinstance(scheduler, DDIMScheduler)
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)
    x = x0.clone()
    set_timesteps(scheduler, 500, device="cpu")
    for timestep in scheduler.timesteps:
        t = torch.tensor(scheduler_time(scheduler, timestep), dtype=torch.float64)
        alpha, sigma = torch.cos(torch.pi * t / 2), torch.sin(torch.pi * t / 2)
        variance = alpha**2 * 0.16 + sigma**2
        data = 0.7 + alpha * 0.16 / variance * (x - alpha * 0.7)
        v = alpha * (sigma / variance * (x - alpha * 0.7)) - sigma * data
        x = scheduler.step(v, timestep, x, return_dict=False)[0]
    torch.testing.assert_close(x, 0.7 + 0.4 * x0, atol=0.01, rtol=0.01)


def test_times_of_the_flow_schedulers_run_from_noise_to_data():
    for name in ("euler", "heun", "dpm++"):
        scheduler = make_scheduler(name, shift=1.0)
        set_timesteps(scheduler, 10, device="cpu")
        times = [scheduler_time(scheduler, t) for t in scheduler.timesteps]
        assert times[0] == pytest.approx(1.0, abs=2e-3) and times[-1] < 0.15
        assert times == sorted(times, reverse=True)
    with pytest.raises(ValueError, match="allowed: euler"):
        make_scheduler("plms", shift=1.0)


def test_guidance_reaches_every_channel(pipe):
    plain = latents(pipe, "Male=1", seeds=[0], guidance_scale=1.0, num_inference_steps=1)
    strong = latents(pipe, "Male=1", seeds=[0], guidance_scale=5.0, guidance_interval=(0.0, 1.0), num_inference_steps=1)
    assert ((strong - plain).abs().amax(dim=(0, 2, 3)) > 1e-4).all()
    outside = latents(
        pipe, "Male=1", seeds=[0], guidance_scale=5.0, guidance_interval=(0.0, 0.5), num_inference_steps=1
    )
    assert torch.equal(outside, plain)


def test_identity_is_guided_with_the_attributes_and_kept_where_one_is_left_out(pipe_of_people):
    pipe = pipe_of_people
    people = torch.nn.functional.normalize(torch.randn(2, 5, generator=torch_generator(1, "people")), dim=1)
    states = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)
    x, t = initial_noise([3, 4], (4, 8, 8)), torch.ones(2)
    with torch.no_grad():
        null = pipe.transformer(x, t, torch.full_like(states, -1)).sample
        full = pipe.transformer(x, t, states, identity=people).sample
        left_out = pipe.transformer(x, t, torch.tensor([[-1, 0, -1], [-1, -1, 1]]), identity=people).sample
    one_step = dict(seeds=[3, 4], identity=people.numpy(), num_inference_steps=1, guidance_interval=(0.0, 1.0))
    v = x - latents(pipe, states, guidance_scale=3.0, attribute_scales={"Male": 0.5}, **one_step)  # x_0 = x_1 - v
    torch.testing.assert_close(v, null + 3 * (full - null) + 0.5 * (full - left_out), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x - latents(pipe, states, guidance_scale=1.0, **one_step), full, atol=1e-4, rtol=1e-4)


def test_an_image_with_an_identity_is_a_function_of_its_own_row(pipe_of_people):
    people = torch.nn.functional.normalize(torch.randn(3, 5, generator=torch_generator(1, "people")), dim=1)
    many = latents(pipe_of_people, "Male=1", seeds=[0, 0, 0], identity=people)
    alone = latents(pipe_of_people, "Male=1", seeds=[0], identity=people[2:])
    torch.testing.assert_close(alone[0], many[2], atol=1e-5, rtol=1e-5)
    assert (many[0] - many[1]).abs().max() > 1e-3
    assert (many[0] - latents(pipe_of_people, "Male=1", seeds=[0])[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (np.zeros(5), r"shape \(5,\); expected \(1, 5\)"),
        (np.zeros((2, 5)), r"shape \(2, 5\); expected \(1, 5\)"),
        (np.full((1, 5), np.nan), "NaN or infinity"),
        (np.full((1, 5), np.inf), "NaN or infinity"),
    ],
)
def test_identities_that_make_no_sense_are_refused(pipe_of_people, identity, message):
    with pytest.raises(ValueError, match=message):
        pipe_of_people("Male=1", seeds=[0], identity=identity)


def test_a_model_without_identity_condition_refuses_one(pipe):
    with pytest.raises(ValueError, match="no identity condition"):
        pipe("Male=1", seeds=[0], identity=np.zeros((1, 5)))


def test_saved_and_loaded_whole(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = FacePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, FlowMatchEulerDiscreteScheduler)
    a, b = (p({"Male": 1}, seeds=[1, 2], output_type="np").images for p in (pipe, again))
    assert a.dtype == np.uint8 and a.shape == (2, 16, 16, 3) and np.array_equal(a, b)
    assert again({"Male": 1}, seeds=[1]).images[0].size == (16, 16)


def test_models_are_found_in_a_folder(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        FacePipeline.from_models(tmp_path, scheduler="euler", shift=1.0)
    pipe.transformer.save_pretrained(tmp_path / "dit")
    pipe.vae.save_pretrained(tmp_path / "autoencoder")
    found = FacePipeline.from_models(tmp_path, scheduler="euler", shift=1.0, **SETTINGS)
    found.set_progress_bar_config(disable=True)
    assert torch.equal(latents(found, "Male=1", seeds=[1]), latents(pipe, "Male=1", seeds=[1]))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("Mal=1", "did you mean Male"),
        ("Male=2", "write Male=1"),
        ({"Male": 5}, "allowed: -1"),
        (np.zeros((2, 2)), "expected \\(1, 3\\)"),
        (np.full((1, 3), 7), "allowed"),
    ],
)
def test_requests_that_make_no_sense_are_refused(pipe, request_, message):
    with pytest.raises(ValueError, match=message):
        pipe(request_, seeds=[0])


def test_callback_sees_every_step_and_may_change_latents(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(step)
        return {"latents": tensors["latents"] * 0}

    out = pipe("Male=1", seeds=[0], output_type="latent", callback_on_step_end=callback).images
    assert seen == list(range(6)) and (out == 0).all()
