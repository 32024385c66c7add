"""Whose embedding a picture is told by, and how much of it."""

import torch

from facegen.rng import torch_generator
from facegen.train.partners import Partners, drop_components

IDENTITY = torch.tensor([4, 7, 4, -1, 9, 4, 7, -1])


def test_partners_are_other_pictures_of_the_same_person():
    partners, rows = Partners(IDENTITY), torch.arange(8).repeat(40)
    drawn = partners.draw(rows, torch_generator(0, "partners"))
    assert torch.equal(IDENTITY[drawn], IDENTITY[rows])
    alone = torch.isin(rows, torch.tensor([3, 4, 7]))
    assert torch.equal(drawn[alone], rows[alone])
    assert (drawn[~alone] != rows[~alone]).all()
    assert set(drawn[rows == 0].tolist()) == {2, 5}
    assert torch.equal(partners.draw(rows, torch_generator(0, "partners")), drawn)
    assert not torch.equal(partners.draw(rows, torch_generator(1, "partners")), drawn)


def test_every_other_picture_is_as_likely():
    identity = torch.zeros(5, dtype=torch.int64)
    drawn = Partners(identity).draw(torch.full((40_000,), 2), torch_generator(0, "partners"))
    counts = torch.bincount(drawn, minlength=5)
    assert counts[2] == 0
    assert (counts[[0, 1, 3, 4]] - 10_000).abs().max() < 400  # 4.6 standard deviations


def test_components_are_dropped_at_their_rate():
    """Contextual partial dropout: True means dropped."""
    dropped = drop_components((1000, 100), rate=0.2, generator=torch_generator(0, "components"))
    assert dropped.dtype == torch.bool
    assert abs(float(dropped.float().mean()) - 0.2) < 0.01
    assert not drop_components((10, 10), rate=0.0, generator=torch_generator(0, "components")).any()
