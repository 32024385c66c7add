"""What a network is told of who a picture shows: an embedding, often of another picture of the same person.

An embedding of the picture itself tells more than who it is: the light, the pose, what is hidden. A network that has
learned from those only gives, for one person, one picture over and over. Shapes: S pictures, B batch, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Partners:
    """Other pictures of the same person, drawn on the device."""

    def __init__(self, identity: Tensor) -> None:
        """
        Args:
            identity: (S,) integers, -1 where unknown.
        """
        self.order = torch.argsort(identity, stable=True)
        _, of_row, counts = torch.unique(identity, return_inverse=True, return_counts=True)
        self.count = counts[of_row]  # (S,) pictures of the row's person
        self.start = (counts.cumsum(0) - counts)[of_row]  # where they begin in `order`
        self.rank = torch.empty_like(self.order)  # of each row among them
        self.rank[self.order] = torch.arange(len(identity), device=identity.device)
        self.rank -= self.start
        self.count = torch.where(identity < 0, 1, self.count)  # of a person that is not known there is no other

    def draw(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Return a row (B,) of the same person for each of these rows: another one, if there is one."""
        count, rank = self.count[indices], self.rank[indices]
        coin = torch.rand(len(indices), generator=generator, device=indices.device, dtype=torch.float64)
        step = 1 + (coin * (count - 1)).long()  # 1 to count - 1
        return torch.where(count > 1, self.order[self.start[indices] + (rank + step) % count], indices)

    def mean_of_others(self, embedding: Tensor) -> Tensor:
        """Return, for each row, the mean of the person's other embeddings, as unit vectors (S, E); its own if there is none.

        Args:
            embedding: (S, E) unit vectors.
        """
        ordered = embedding[self.order].double()
        sums = torch.cat([ordered.new_zeros(1, ordered.shape[1]), ordered.cumsum(dim=0)])
        others = sums[self.start + self.count] - sums[self.start] - embedding.double()
        return F.normalize(torch.where((self.count > 1)[:, None], others, embedding.double()), dim=1).float()


def drop_components(shape: tuple[int, int], *, rate: float, generator: torch.Generator) -> Tensor:
    """Return which components of projected identities are dropped, bool (B, D); True is dropped, at this rate."""
    return torch.rand(shape, generator=generator, device=generator.device) < rate
