"""PeopleSampler beside FacePipeline, its calibration, the five methods; and what two stages are for, on a known toy."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facegen.flow.sampler import initial_noise, time_schedule
from facegen.flow.two_stage import TwoStage, two_stage
from facegen.identities.sampler import (
    METHODS,
    Calibration,
    PeopleSampler,
    calibrated,
    calibration_distances,
    method_settings,
    middle_blocks,
)
from facegen.models.autoencoder import build_autoencoder
from facegen.models.dit import LatentDiT
from facegen.pipeline import FacePipeline, make_scheduler
from facegen.rng import torch_generator

E, STEPS = 5, 10
BASE = TwoStage(
    guidance_scale=3.0, early=0.98, late=0.3, criterion="x0", clock="time", patience=2, share=0.5, blocks=(1,)
)


def make_pipe(path="linear", **changes):
    vae = build_autoencoder(architecture="tiny", channels=[16, 16], layers_per_block=1, latent_channels=4)
    settings = dict(identity_dim=E, attribute_names=["Male", "Smiling"], path=path) | changes
    model = LatentDiT(
        sample_size=8, in_channels=4, patch_size=2, hidden_size=32, depth=3, num_heads=2, mlp_ratio=2.0,
        latent_mean=[0.1] * 4, latent_std=[0.5] * 4, **settings,
    )  # fmt: skip
    for i, parameter in enumerate([*model.parameters(), *vae.parameters()]):
        torch.nn.init.normal_(parameter, std=0.12, generator=torch_generator(0, "weights", i))
    pipe = FacePipeline(model.eval(), vae.eval(), make_scheduler("euler", shift=1.0))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return make_pipe()


@pytest.fixture(scope="module")
def sampler(pipe):
    return people_sampler(pipe)


def people_sampler(pipe, settings=BASE, **changes):
    given = dict(num_steps=STEPS, shift=1.0, mapped=(1,), dtype=torch.float32) | changes
    return PeopleSampler(pipe, settings, **given)


def people(num):
    return F.normalize(torch.randn(num, E, generator=torch_generator(1, "people")), dim=1)


def calibration(sampler, **changes):
    given = dict(target=0.6, num_runs=15, seed=0, batch_size=8, model_sha256="abc") | changes
    return calibrated(sampler, **given)


def test_one_stage_draws_what_the_pipeline_draws_with_guidance(pipe, sampler):
    drawn = sampler.draw(people(3), [4, 5, 6], settings=BASE.one_stage())
    states = torch.full((3, 2), -1)
    theirs = pipe(
        states, seeds=[4, 5, 6], identity=people(3), num_inference_steps=STEPS, guidance_scale=3.0,
        guidance_interval=(0.0, 1.0), output_type="np",
    ).images  # fmt: skip
    assert drawn.images.dtype == np.uint8 and drawn.images.shape == (3, 16, 16, 3) and drawn.images.std() > 5
    assert np.abs(drawn.images.astype(int) - theirs).max() <= 1
    assert drawn.switch.dtype == np.float32 and drawn.switch.tolist() == [1.0] * 3
    assert drawn.evaluations.dtype == np.int64 and drawn.evaluations.tolist() == [2 * STEPS] * 3
    assert drawn.distances.dtype == np.float32 and drawn.distances.shape == (STEPS, 3)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_pictures_are_two_stages_decoded(path):
    pipe, told = make_pipe(path), []
    sampler = people_sampler(pipe, shift=2.0)
    settings = replace(BASE, threshold=1.0)
    states = np.array([[1, 0], [-1, 1]], np.int8)
    drawn = sampler.draw(people(2).numpy(), [7, 8], states=states, settings=settings, on_step=lambda *a: told.append(a))

    def network(x, t, y, e, known, sharing):
        return pipe.transformer(x, t, y, e, known, sharing=sharing, return_dict=False)[0], None

    expected = two_stage(
        network, initial_noise([7, 8], (4, 8, 8)), time_schedule(STEPS, shift=2.0), path=path,
        attributes=torch.from_numpy(states), identity=people(2), settings=settings,
    )  # fmt: skip
    assert np.array_equal(drawn.images, pipe._decode(expected.latents))
    assert np.array_equal(drawn.switch, expected.switch.numpy()) and told[-1] == (STEPS, STEPS)
    assert not np.array_equal(sampler.draw(people(2), [7, 8], settings=settings).images, drawn.images)


@pytest.mark.parametrize("criterion", ["attn_recv", "x0", "gap"])
def test_5_a_picture_is_a_function_of_its_seed_and_person_not_of_its_batch(pipe, criterion):
    sampler = people_sampler(pipe, replace(BASE, criterion=criterion))
    seen = calibration_distances(sampler, num_runs=8, seed=0, batch_size=8, identity=people(8))
    settings = replace(sampler.settings, threshold=float(seen.nanquantile(0.3)))
    many = sampler.draw(people(6), range(6), settings=settings)
    few = sampler.draw(people(6)[[5, 2]], [5, 2], settings=settings)
    assert np.abs(few.images.astype(int) - many.images[[5, 2]]).max() <= 1
    assert few.switch.tolist() == many.switch[[5, 2]].tolist()
    assert few.evaluations.tolist() == many.evaluations[[5, 2]].tolist()
    other = sampler.draw(people(6)[[2, 5]], [5, 2], settings=settings)  # the same starts, other people
    assert not np.array_equal(other.images, few.images)


def test_autocast_is_around_the_networks_alone(pipe, sampler):
    half = people_sampler(pipe, dtype=torch.bfloat16)
    a, b = (s.latents(people(2), [1, 2], settings=BASE.one_stage()).latents for s in (half, sampler))
    assert a.dtype == torch.float32 and not torch.equal(a, b)
    torch.testing.assert_close(a, b, atol=0.3, rtol=0.1)
    assert half.draw(people(2), [1, 2]).images.shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    ("identity", "seeds", "states", "message"),
    [
        (np.zeros((2, E)), [1], None, r"identity has shape \(2, 5\); expected \(1, 5\)"),
        (np.full((1, E), np.nan), [1], None, "NaN or infinity"),
        (np.zeros((1, E)), [1], np.zeros((1, 3)), r"expected \(1, 2\)"),
        (np.zeros((1, E)), [1], np.full((1, 2), 4), "allowed: -1"),
    ],
)
def test_requests_that_make_no_sense_are_refused(sampler, identity, seeds, states, message):
    with pytest.raises(ValueError, match=message):
        sampler.draw(identity, seeds, states=states)


def test_models_and_blocks_that_do_not_fit_are_refused(pipe):
    with pytest.raises(ValueError, match="no identity condition"):
        people_sampler(make_pipe(identity_dim=None))
    with pytest.raises(ValueError, match="mapped holds 3; this model has blocks 0 to 2"):
        people_sampler(pipe, mapped=(0, 3))
    with pytest.raises(ValueError, match="blocks holds -1; this model has blocks 0 to 2"):
        people_sampler(pipe, replace(BASE, blocks=(-1,)))


def test_the_middle_third_of_the_blocks():
    assert middle_blocks(6) == (2, 3) and middle_blocks(15) == (5, 6, 7, 8, 9) and middle_blocks(1) == (0,)
    assert middle_blocks(2) == (0,) and middle_blocks(3) == (1,) and middle_blocks(12) == (4, 5, 6, 7)


def test_a_calibrated_threshold_gives_the_median_that_it_promises(sampler):
    from facegen.rng import derive_seed

    found = calibration(sampler)
    settings = method_settings(BASE, found, fixed_time=0.6)["adaptive_injection"]
    switch = sampler.draw(people(15), [derive_seed(0, "calibration", i) for i in range(15)], settings=settings).switch
    assert found.median == pytest.approx(float(np.median(switch))) and found.median >= found.target - 1e-6 == 0.6 - 1e-6
    earliest, latest = 0.7, 0.3  # two distances at 0.9 and 0.8, then a step
    assert found.share_early == pytest.approx((switch > earliest - 1e-6).mean())
    assert found.share_late == pytest.approx((switch < latest + 1e-6).mean())
    assert (found.num_runs, found.num_steps, found.mapped, found.path) == (15, STEPS, (1,), "linear")
    smaller = replace(settings, threshold=found.threshold * (1 - 1e-4))
    fewer = sampler.draw(people(15), [derive_seed(0, "calibration", i) for i in range(15)], settings=smaller).switch
    assert np.median(fewer) < 0.6 - 1e-6


def test_calibration_runs_do_not_depend_on_the_batch_nor_on_people(sampler):
    whole = calibration_distances(sampler, num_runs=7, seed=3, batch_size=7)
    assert whole.shape == (STEPS, 7) and whole[1:].isfinite().all()
    parts = calibration_distances(sampler, num_runs=7, seed=3, batch_size=3, identity=people(2))
    torch.testing.assert_close(parts, whole, atol=1e-3, rtol=1e-3, equal_nan=True)
    assert torch.equal(calibration_distances(sampler, num_runs=3, seed=3, batch_size=3)[1:], parts[1:, :3])
    other = calibration_distances(sampler, num_runs=3, seed=4, batch_size=3)
    assert not torch.allclose(other[1:], parts[1:, :3], rtol=1e-2)


def test_a_criterion_that_compares_identities_needs_some(pipe):
    sampler = people_sampler(pipe, replace(BASE, criterion="gap"))
    with pytest.raises(ValueError, match="give the calibration some people"):
        calibration_distances(sampler, num_runs=4, seed=0, batch_size=4)
    a, b = (
        calibration_distances(sampler, num_runs=4, seed=0, batch_size=3, identity=who) for who in (people(3), people(1))
    )
    torch.testing.assert_close(
        a[:, [0, 3]], b[:, [0, 3]], atol=1e-4, rtol=1e-3, equal_nan=True
    )  # run 3: person 0 again
    assert not torch.allclose(a[1:, 1], b[1:, 1], rtol=1e-2)
    with pytest.raises(ValueError, match="no threshold to calibrate"):
        calibration(people_sampler(pipe, replace(BASE, criterion=None)))


def test_a_calibration_is_written_and_read(sampler):
    found = calibration(sampler)
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ValueError, match=r"missing or unknown: patience\); calibrate again"):
        Calibration.from_json({k: v for k, v in found.to_json().items() if k != "patience"})
    with pytest.raises(ValueError, match="missing or unknown: hat"):
        Calibration.from_json({**found.to_json(), "hat": 1})
    assert {field.name for field in fields(Calibration)} == set(found.to_json())


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        (dict(num_steps=12), {}, "num_steps is 12, it was 10"),
        (dict(shift=2.0), {}, "shift is 2.0, it was 1.0"),
        (dict(mapped=(0, 1)), {}, r"mapped is \(0, 1\), it was \(1,\)"),
        ({}, dict(criterion="attn_recv"), "criterion is 'attn_recv', it was 'x0'"),
        ({}, dict(patience=1), "patience is 1, it was 2"),
        ({}, dict(early=0.9), "early is 0.9, it was 0.98"),
        ({}, dict(late=0.2), "late is 0.2, it was 0.3"),
        ({}, dict(clock="log_snr"), "clock is 'log_snr', it was 'time'"),
    ],
)
def test_a_threshold_of_something_else_is_refused(pipe, sampler, changes, settings, message):
    found = calibration(sampler)
    found.check(sampler, model_sha256="abc")
    found.check(people_sampler(pipe, replace(BASE, guidance_scale=9.0, share=0.0)), model_sha256="abc")
    with pytest.raises(ValueError, match=f"{message}.*calibrate again"):
        found.check(people_sampler(pipe, replace(BASE, **settings), **changes), model_sha256="abc")
    with pytest.raises(ValueError, match="model_sha256 is 'abd', it was 'abc'"):
        found.check(sampler, model_sha256="abd")


def test_a_model_of_another_path_is_another_model(sampler):
    with pytest.raises(ValueError, match="path is 'cosine', it was 'linear'"):
        calibration(sampler).check(people_sampler(make_pipe("cosine")), model_sha256="abc")


def test_the_methods_differ_by_what_they_are_named_after(sampler):
    base = replace(BASE, tempering="gates", tempering_share=0.2)
    found = replace(calibration(sampler), threshold=1.25)
    methods = method_settings(base, found, fixed_time=0.55)
    assert tuple(methods) == METHODS
    assert methods["adaptive_injection"] == replace(base, threshold=1.25)
    assert methods["adaptive"] == replace(base, threshold=1.25, share=0.0, tempering="none")
    assert methods["fixed_injection"] == replace(base, criterion=None, late=0.55)
    assert methods["fixed"] == replace(base, criterion=None, late=0.55, share=0.0, tempering="none")
    assert methods["one_stage"] == replace(base, criterion=None, late=1.0, share=0.0, tempering="none")


class Toy(torch.nn.Module):
    """Exact velocities of known people: channel 0 says who it is, channel 1 how they are laid out.

    Under an identity e the data are N(e_0, 0.05^2) beside N(e_1, 0.05^2): the network was told by the pictures themselves,
    so each person has one layout. Under the empty identity the layout is anybody's, N(0, 1), as is who it is.
    """

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.config = LatentDiT(
            sample_size=1, in_channels=2, patch_size=1, hidden_size=4, depth=1, num_heads=1, mlp_ratio=1.0,
            attribute_names=[], identity_dim=2, latent_mean=[0.0, 0.0], latent_std=[1.0, 1.0],
        ).config  # fmt: skip
        self.dtype = torch.float32

    def forward(self, x, t, y, e, known, sharing=None, return_dict=True):
        t, known = t.view(-1, 1, 1, 1), known.view(-1, 1, 1, 1)
        mean = torch.where(known, e[:, :, None, None], 0.0)
        sd = torch.where(known, 0.05, 1.0)
        share = (1 - t) * sd**2 / ((1 - t) ** 2 * sd**2 + t**2)
        return ((x - mean - share * (x - (1 - t) * mean)) / t,)


def test_14_two_stages_give_one_person_more_layouts_and_cost_less(pipe):
    """The sign is not assumed of networks: here it follows from the data, since late identity leaves the layout as it lies."""
    toy = people_sampler(pipe)
    toy.pipe = type("Pipe", (), {"transformer": Toy(), "device": torch.device("cpu"), "_identity": FacePipeline._identity,
                                 "_states": FacePipeline._states, "attribute_names": []})()  # fmt: skip
    toy.schedule = time_schedule(50, shift=1.0)
    who = torch.tensor([[-1.0, 0.5], [1.0, -0.5]]).repeat_interleave(64, 0)
    base = TwoStage(guidance_scale=1.0, early=0.98, late=0.5, criterion="x0", clock="time")
    seen = toy.latents(who, range(128), settings=replace(base, threshold=-1.0, late=0.0)).distances
    results = {}
    for name, settings in {
        "one_stage": base.one_stage(),
        "fixed": replace(base, criterion=None, late=0.3),
        "later": replace(base, criterion=None, late=0.1),
        "adaptive": replace(base, late=0.1, threshold=float(seen[1:].quantile(0.3))),
    }.items():
        drawn = toy.latents(who, range(128), settings=settings)
        z = drawn.latents.view(2, 64, 2)
        own = (z[..., 0].sign() == torch.tensor([[-1.0], [1.0]])).float().mean()
        results[name] = (float(z[..., 1].std(dim=1).mean()), float(own), float(drawn.evaluations.double().mean()))
    layouts, consistency, evaluations = ({k: v[i] for k, v in results.items()} for i in range(3))
    assert layouts["one_stage"] == pytest.approx(0.05, rel=0.3) and consistency["one_stage"] == 1.0
    assert layouts["one_stage"] < layouts["fixed"] < layouts["later"]
    assert consistency["later"] <= consistency["fixed"] <= 1.0 and consistency["fixed"] > 0.9
    assert evaluations["one_stage"] == 100 and evaluations["fixed"] == 65 and evaluations["later"] == 55
    assert layouts["adaptive"] > layouts["one_stage"] and 55 <= evaluations["adaptive"] < 100
    assert math.isfinite(sum(layouts.values()))
