"""Guidance with a scale of its own for the identity: the formula, its special cases, what it costs."""

import pytest
import torch

from facegen.attributes import UNKNOWN
from facegen.flow.guidance import guided_velocity

STATES = torch.tensor([[1, 0], [0, 1]], dtype=torch.int8)
X = torch.zeros(2, 1, 2, 2)
PEOPLE = torch.tensor([[3.0], [5.0]])
PARTS = torch.tensor([1.0, 10.0])


def network(x, t, y, identity=None, identity_known=None, identity_masks=None):
    """Attributes add their signed parts; a known identity multiplies by what it is, so that the two do not just add."""
    network.rows = len(x)
    signed = torch.where(y == UNKNOWN, 0.0, 2.0 * y.float() - 1) @ PARTS + 7
    if identity is None:
        return signed[:, None, None, None].expand(-1, 1, 2, 2)
    factor = torch.where(identity_known, identity.flatten(1).sum(dim=1), 1.0)
    v = (signed * factor)[:, None, None, None].expand(-1, 1, 2, 2)
    return v if identity_masks is None else v + identity_masks.mean(dim=1, keepdim=True)


def guide(t=0.5, scale=1.0, attribute_scales=None, **options):
    settings = (
        dict(scale=scale, interval=(0.0, 0.8), attribute_scales=attribute_scales or {}, identity=PEOPLE) | options
    )
    return guided_velocity(network, X, t, STATES, **settings)[:, 0, 0, 0]


Y_ALONE = torch.tensor([1.0 - 10 + 7, -1 + 10 + 7])
BOTH = Y_ALONE * PEOPLE[:, 0]


@pytest.mark.parametrize(("scale", "of_identity", "rows"), [(2.0, 5.0, 6), (1.0, 3.0, 4), (0.0, 2.0, 6), (2.5, 0.0, 6)])
def test_attributes_and_identity_have_scales_of_their_own(scale, of_identity, rows):
    wanted = 7 + scale * (Y_ALONE - 7) + of_identity * (BOTH - Y_ALONE)
    torch.testing.assert_close(guide(scale=scale, identity_scale=of_identity), wanted)
    assert network.rows == rows  # one pass a condition, and none that is not needed


def test_equal_scales_and_none_are_one_scale_for_both():
    assert torch.equal(guide(scale=3.0, identity_scale=3.0), guide(scale=3.0))
    assert network.rows == 4
    assert torch.equal(guide(scale=3.0, identity_scale=None), guide(scale=3.0))
    torch.testing.assert_close(guide(scale=3.0), 7 + 3 * (BOTH - 7))
    torch.testing.assert_close(guide(scale=1.0, identity_scale=1.0), BOTH)


def test_outside_the_interval_it_is_the_plain_condition():
    torch.testing.assert_close(guide(t=0.9, scale=2.0, identity_scale=5.0), BOTH)
    assert network.rows == 2


def test_single_attributes_keep_the_identity():
    gained = guide(scale=2.0, identity_scale=5.0, attribute_scales={1: 0.5}) - guide(scale=2.0, identity_scale=5.0)
    torch.testing.assert_close(gained, 0.5 * PEOPLE[:, 0] * torch.tensor([-10.0, 10.0]))


def test_people_and_their_masks_go_with_every_condition():
    people, masks = torch.tensor([[[3.0], [1.0]], [[5.0], [2.0]]]), torch.full((2, 2, 2, 2), 0.25)
    with_masks = guide(scale=2.0, identity_scale=5.0, identity=people, shown={"identity_masks": masks})
    factor = torch.tensor([4.0, 7.0])
    torch.testing.assert_close(with_masks, 7 + 2 * (Y_ALONE - 7) + 5 * (Y_ALONE * factor - Y_ALONE) + 0.25)


@pytest.mark.parametrize("options", [dict(identity=None), dict(identity_in_null=True)])
def test_a_scale_without_its_identity_is_refused(options):
    with pytest.raises(ValueError, match="identity_scale needs an identity"):
        guide(identity_scale=2.0, **options)
