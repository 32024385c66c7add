"""Guidance for edits: a weight per place, a set of attributes per picture, what the network is shown, the null identity."""

import pytest
import torch

from facegen.attributes import UNKNOWN
from facegen.flow.guidance import guided_velocity

STATES = torch.tensor([[1, 0, 1], [0, 1, UNKNOWN]], dtype=torch.int8)
X = torch.zeros(2, 1, 2, 2)
PARTS = torch.tensor([1.0, 10.0, 100.0])


def network(x, t, y, context=None, crop=None, identity=None, identity_known=None):
    """Each known attribute adds its part, signed by its state; context, crop and known identity add theirs."""
    signed = torch.where(y == UNKNOWN, 0.0, 2.0 * y.float() - 1)
    v = (signed @ PARTS)[:, None, None, None].expand(-1, 1, 2, 2)
    if context is not None:
        v = v + context + crop[:, 0, None, None, None]
    if identity is not None:
        v = v + torch.where(identity_known[:, None], identity, 0.0)[:, :, None, None]
    return v


def guide(t=0.5, scale=1.0, **options):
    return guided_velocity(network, X, t, STATES, scale=scale, interval=(0.0, 0.8), attribute_scales={}, **options)


def test_the_weight_acts_where_it_is_and_on_each_pictures_own_changes():
    changed = torch.tensor([[True, False, False], [True, True, False]])
    weight = torch.tensor([[0.0, 0.5], [1.0, 2.0]]).expand(2, 1, 2, 2)
    gained = guide(changed=changed, changed_weight=weight) - guide()
    torch.testing.assert_close(gained[0, 0], 1.0 * weight[0, 0])  # the first attribute's part
    torch.testing.assert_close(gained[1, 0], 9.0 * weight[0, 0])  # -1 + 10
    assert torch.equal(guide(t=0.9, changed=changed, changed_weight=weight), guide(t=0.9))  # outside the interval
    both = guide(scale=3.0, changed=changed, changed_weight=weight) - guide(scale=3.0)
    torch.testing.assert_close(both, gained)


def test_it_goes_together_with_single_attributes():
    changed, weight = torch.tensor([[True, False, False]] * 2), torch.ones(2, 1, 2, 2)
    single = guided_velocity(
        network, X, 0.5, STATES, scale=3.0, interval=(0, 1), attribute_scales={2: 5.0}, changed=changed,
        changed_weight=weight,
    )  # fmt: skip
    torch.testing.assert_close(single[0, 0], torch.full((2, 2), 3 * 91.0 + 5 * 100 + 1))
    torch.testing.assert_close(single[1, 0], torch.full((2, 2), 3 * 9.0 + 0 - 1))


def test_what_is_shown_goes_with_every_condition():
    context = torch.tensor([1000.0, 2000.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    crop = torch.tensor([[7.0], [8.0]])
    changed, weight = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, 2, 2)
    plain = guide(scale=3.0, changed=changed, changed_weight=weight)
    shown = guide(scale=3.0, changed=changed, changed_weight=weight, shown={"context": context, "crop": crop})
    torch.testing.assert_close(shown - plain, context + crop[:, :1, None, None])  # in the null one too, so unscaled


@pytest.mark.parametrize(("kept", "factor"), [(False, 3.0), (True, 1.0)])
def test_the_identity_in_the_null_condition_is_not_amplified(kept, factor):
    person = torch.tensor([[0.25], [0.5]])
    gained = guide(scale=3.0, identity=person, identity_in_null=kept) - guide(scale=3.0)
    torch.testing.assert_close(gained, factor * person[:, :, None, None].expand(2, 1, 2, 2))


def test_the_extra_guidance_leaves_the_identity_as_it_is():
    changed, weight = torch.tensor([[True, False, False]] * 2), torch.full((2, 1, 2, 2), 3.0)
    person = torch.full((2, 1), 7.0)
    with_person = guide(changed=changed, changed_weight=weight, identity=person) - guide(identity=person)
    without = guide(changed=changed, changed_weight=weight) - guide()
    torch.testing.assert_close(with_person, without)
