"""FacePipeline with people: two scales, masks of several, and what adapters give."""

import numpy as np
import pytest
import torch

from facegen.flow.sampler import initial_noise
from facegen.models.person_condition import MappedIdentity, halves
from facegen.rng import torch_generator
from tests.test_pipeline import latents, make_pipe

STATES = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)
NOTHING = torch.full_like(STATES, -1)
SEEDS = [3, 4]
ONE_STEP = dict(seeds=SEEDS, num_inference_steps=1, guidance_interval=(0.0, 1.0))
PEOPLE = torch.nn.functional.normalize(torch.randn(2, 2, 5, generator=torch_generator(1, "people")), dim=2)
VECTORS = torch.randn(2, 2, 32, generator=torch_generator(2, "vectors"))


@pytest.fixture(scope="module")
def pipe():
    return make_pipe(identity_dim=5)


def one_step(pipe, **options):
    """The guided velocity of the first step: x_0 = x_1 - v."""
    return initial_noise(SEEDS, (4, 8, 8)) - latents(pipe, STATES, **ONE_STEP, **options)


@torch.no_grad()
def velocity(pipe, states, **options):
    return pipe.transformer(initial_noise(SEEDS, (4, 8, 8)), torch.ones(2), states, **options).sample


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_two_scales_and_the_masks_reach_the_network(pipe, mapped, masked):
    vectors = VECTORS if mapped else PEOPLE
    vectors = vectors if masked else vectors[:, 0]
    where = {"identity_masks": halves(0.5, grid=8)} if masked else {}
    told = {"identity_mapped" if mapped else "identity": vectors}
    told |= {"identity_masks": halves(0.5, grid=8).expand(2, 2, 8, 8)} if masked else {}
    null, alone, both = velocity(pipe, NOTHING), velocity(pipe, STATES), velocity(pipe, STATES, **told)
    given = MappedIdentity(vectors) if mapped else vectors
    v = one_step(pipe, identity=given, guidance_scale=2.0, identity_scale=5.0, **where)
    torch.testing.assert_close(v, null + 2 * (alone - null) + 5 * (both - alone), atol=1e-4, rtol=1e-4)
    together = one_step(pipe, identity=given, guidance_scale=2.0, **where)
    torch.testing.assert_close(together, null + 2 * (both - null), atol=1e-4, rtol=1e-4)
    assert (v - together).abs().max() > 1e-3


def test_masks_of_each_image_and_of_all_are_the_same_masks(pipe):
    for_all = halves(0.25, grid=8)
    each = for_all.expand(2, 2, 8, 8).numpy()
    options = dict(seeds=SEEDS, identity=PEOPLE)
    found = latents(pipe, STATES, identity_masks=for_all, **options)
    assert torch.equal(latents(pipe, STATES, identity_masks=each, **options), found)
    swapped = np.stack([each[0], each[1, ::-1]])
    other = latents(pipe, STATES, identity_masks=swapped, **options)
    torch.testing.assert_close(other[0], found[0], atol=1e-5, rtol=1e-5)
    assert (other[1] - found[1]).abs().max() > 1e-3


def test_a_mapped_identity_of_zero_is_no_identity(pipe):
    none = latents(pipe, STATES, seeds=SEEDS, guidance_scale=1.0)
    zero = MappedIdentity(torch.zeros(2, 32))
    assert torch.equal(latents(pipe, STATES, seeds=SEEDS, guidance_scale=1.0, identity=zero), none)


def test_a_model_without_identity_condition_takes_mapped_ones():
    pipe = make_pipe()
    found = latents(pipe, STATES, seeds=SEEDS, identity=MappedIdentity(VECTORS[:, 0]))
    assert (found - latents(pipe, STATES, seeds=SEEDS)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(identity=PEOPLE), r"shape \(2, 2, 5\); expected \(2, 5\)"),
        (dict(identity=PEOPLE[:, 0], identity_masks=halves(0.5, grid=8)), r"shape \(2, 5\); expected \(2, 2, 5\)"),
        (dict(identity=MappedIdentity(VECTORS[:, 0, :4])), r"shape \(2, 4\); expected \(2, 32\)"),
        (dict(identity=PEOPLE, identity_masks=torch.ones(3, 2, 8, 8)), "identity_masks have shape"),
        (dict(identity=PEOPLE, identity_masks=2 * halves(0.5, grid=8)), r"lie in \[0, 1\]"),
        (dict(identity_masks=halves(0.5, grid=8)), "go with identities"),
        (dict(identity_scale=2.0), "identity_scale needs an identity"),
    ],
)
def test_what_makes_no_sense_is_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(STATES, seeds=SEEDS, **options)
