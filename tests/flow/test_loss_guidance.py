"""The Laplacian term's energy and exactness; guidance on every channel, within its interval, per attribute."""

import pytest
import torch

from facegen.attributes import UNKNOWN
from facegen.flow.guidance import guided_velocity
from facegen.flow.loss import laplacian, velocity_loss
from facegen.rng import torch_generator


def test_laplacian_has_unit_energy_and_ignores_constants():
    noise = torch.randn(64, 4, 16, 16, generator=torch_generator(0, "noise"))
    inner = laplacian(noise)[..., 1:-1, 1:-1]
    assert float(inner.square().mean()) == pytest.approx(1.0, abs=0.02)
    assert float(laplacian(torch.ones(1, 2, 8, 8)).abs().max()) < 1e-6
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert float(laplacian(checker).square().mean()) == pytest.approx(64 / 20)  # the corner frequency gains 3.2


def test_laplacian_keeps_the_conditional_mean_as_minimiser():
    targets = torch.randn(256, 1, 6, 6, generator=torch_generator(0, "targets"))
    guess = targets.mean(0, keepdim=True).clone().requires_grad_()
    mse, rough = velocity_loss(guess.expand_as(targets), targets)
    (mse.mean() + 0.3 * rough.mean()).backward()
    assert float(guess.grad.abs().max()) < 1e-6


def network(x, t, y):
    """A velocity that depends on the condition alone, differently in each channel."""
    known = torch.where(y == UNKNOWN, 0.0, 2.0 * y.float() - 1)  # (B, A)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    return (known @ weights.T)[:, :, None, None].expand(-1, -1, 2, 2)


CONDITION = torch.tensor([[1, 0], [1, UNKNOWN]])
X = torch.zeros(2, 4, 2, 2)


def guide(t, scale=1.0, interval=(0.0, 1.0), attribute_scales=None):
    return guided_velocity(
        network, X, t, CONDITION, scale=scale, interval=interval, attribute_scales=attribute_scales or {}
    )


def test_guidance_scales_all_channels_alike_within_the_interval():
    plain = guide(0.5)
    torch.testing.assert_close(guide(0.5, scale=3.0), 3 * plain)  # the null velocity is 0 here
    torch.testing.assert_close(guide(0.9, scale=3.0, interval=(0.1, 0.8)), plain)
    torch.testing.assert_close(guide(0.05, scale=3.0, interval=(0.1, 0.8)), plain)
    torch.testing.assert_close(guide(0.8, scale=3.0, interval=(0.1, 0.8)), 3 * plain)


def test_identity_is_part_of_every_condition_but_the_null_one():
    """v = attributes' part + the identity, 10 of it where it is known: v(null) is 0, and c \\ k keeps the 10."""
    identity = torch.tensor([[1.0], [2.0]])

    def with_identity(x, t, y, identity, identity_known):
        assert (
            identity.shape == (len(x), 1) and identity_known.shape == (len(x),) and identity_known.dtype == torch.bool
        )
        return network(x, t, y) + 10 * torch.where(identity_known[:, None], identity, 0.0)[:, :, None, None]

    def guided(t, **options):
        settings = dict(scale=1.0, interval=(0.0, 0.8), attribute_scales={}) | options
        return guided_velocity(with_identity, X, t, CONDITION, identity=identity, **settings)

    person = 10 * identity[:, :, None, None]
    torch.testing.assert_close(guided(0.5), guide(0.5) + person)
    torch.testing.assert_close(guided(0.5, scale=3.0), 3 * (guide(0.5) + person))  # both together
    torch.testing.assert_close(guided(0.9, scale=3.0), guide(0.5) + person)  # outside the interval
    both = guided(0.5, scale=3.0, attribute_scales={1: 2.0})
    torch.testing.assert_close(both, 3 * person + guide(0.5, scale=3.0, attribute_scales={1: 2.0}))


def test_per_attribute_guidance_adds_what_that_attribute_alone_changes():
    change = guide(0.5, attribute_scales={1: 2.0}) - guide(0.5)
    torch.testing.assert_close(change[0, :, 0, 0], 2 * -torch.tensor([2.0, 4.0, 6.0, 8.0]))
    assert (change[1] == 0).all()  # unknown already: nothing to strengthen


def test_a_weight_moves_the_error_to_where_it_counts_and_not_its_size():
    error = torch.zeros(2, 3, 8, 8)
    error[0, :, 2, 3], error[1] = 2.0, 1.0  # one position; everywhere the same
    weight = torch.ones(2, 1, 8, 8)
    weight[:, :, 2, 3] = 4.0
    plain, weighted = (velocity_loss(error, torch.zeros_like(error), w)[0] for w in (None, weight))
    assert plain[0].item() == pytest.approx(4 / 64)
    assert weighted[0].item() == pytest.approx(4 / 64 * 4 / (67 / 64))
    assert weighted[1].item() == pytest.approx(1.0)  # whatever the weight: its mean is taken out
    ones = velocity_loss(error, torch.zeros_like(error), torch.ones(2, 1, 8, 8))
    for first, second in zip(ones, velocity_loss(error, torch.zeros_like(error)), strict=True):
        assert torch.equal(first, second)
